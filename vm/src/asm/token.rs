//! Words, numbers and operators of a line. It knows no instruction.

/// A piece of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Number(u64),
    Punct(&'static str),
}

/// Longest first, so that the first match is the right one.
const PUNCTS: [&str; 37] = [
    "s>>=", "s/=", "s%=", "<<=", ">>=", "s>=", "s<=", "s>", "s<", "+=", "-=", "*=", "/=", "|=",
    "&=", "%=", "^=", "==", "!=", ">=", "<=", ">", "<", "=", "&", "+", "-", "*", "(", ")", "[",
    "]", ",", ":", "/", "%", "|",
];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// A label at the start of `text`, and what follows its colon.
pub(super) fn label(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once(':')?;
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (starts_well && name.chars().all(is_word)).then_some((name, rest))
}

/// All pieces of a line.
pub(super) fn tokens(line: &str) -> Result<Vec<Token<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if let Some(punct) = PUNCTS.iter().find(|p| rest.starts_with(**p)) {
            found.push(Token::Punct(punct));
            punct.len()
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = &rest[..end];
            found.push(if first.is_ascii_digit() {
                Token::Number(number(word)?)
            } else {
                Token::Word(word)
            });
            end
        } else {
            return Err(format!("unexpected {first:?}"));
        };
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|e| format!("{text}: {e}"))
}
