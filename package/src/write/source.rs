//! What a C source declares at file scope, and the comments that document it.
//! Comments belong where clang puts them: to the declaration that follows
//! without a directive between, or before `<` to the one that ends there. It
//! knows no macro but by its shape, and no type.

use std::mem::take;

/// A line of a comment, without its marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: u32,
    /// Its text.
    pub text: String,
}

/// A declaration at file scope.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Identifiers outside of braces and values, and the first ones in parentheses,
    /// where macros like `BPF_KPROBE` have a function's name.
    pub words: Vec<String>,
    /// Names of the structures whose members it lists.
    pub structures: Vec<String>,
    /// Whether it has a body of statements.
    pub is_function: bool,
    /// What documents it.
    pub comment: Vec<Line>,
}

impl Declared {
    /// Whether it declares the variable, map or function of this name.
    pub fn declares(&self, name: &str, function: bool) -> bool {
        self.is_function == function && self.words.iter().any(|word| word == name)
    }
}

/// All declarations of a source in their order.
pub fn declarations(source: &str) -> Vec<Declared> {
    let mut scan = Scan {
        bytes: source.as_bytes(),
        line: 1,
        ..Scan::default()
    };
    while scan.at < scan.bytes.len() {
        scan.step();
    }
    scan.finish();
    scan.found
}

#[derive(Default)]
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
    found: Vec<Declared>,
    /// The declaration at hand, once it has a token.
    current: Option<Declared>,
    /// Documents the next declaration.
    pending: Vec<Line>,
    braces: u32,
    parentheses: u32,
    /// In the value of a variable.
    in_value: bool,
    /// The next word is the first one in parentheses.
    opened: bool,
    /// The last token.
    last: u8,
    /// The name behind `struct`; empty before it.
    structure: Option<String>,
    /// Braces at each open `#if`.
    branches: Vec<u32>,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Takes so many bytes.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let taken = &self.rest()[..count.min(self.rest().len())];
        self.line += taken.iter().filter(|byte| **byte == b'\n').count() as u32;
        self.at += taken.len();
        taken
    }

    fn step(&mut self) {
        let rest = self.rest();
        match rest {
            [b'/', b'/', ..] => self.line_comments(),
            [b'/', b'*', ..] => self.block_comment(),
            [b'#', ..] if self.begins_line() => self.directive(),
            [quote @ (b'"' | b'\''), ..] => {
                let length = quoted(rest, *quote);
                self.take(length);
                self.token(*quote);
            }
            [byte, ..] if byte.is_ascii_whitespace() => {
                self.take(1);
            }
            [byte, ..] if is_word(*byte) => {
                let length = rest.iter().take_while(|byte| is_word(**byte)).count();
                let word = self.take(length);
                self.word(&String::from_utf8_lossy(word));
            }
            [byte, ..] => {
                self.take(1);
                self.mark(*byte);
            }
            [] => {}
        }
    }

    fn begins_line(&self) -> bool {
        let before = self.bytes[..self.at].iter().rev();
        let mut before = before.take_while(|byte| **byte != b'\n');
        before.all(u8::is_ascii_whitespace)
    }

    /// Comments end what a directive cannot: they are left for [`Scan::step`].
    fn directive(&mut self) {
        let rest = self.rest();
        let mut end = 0;
        while end < rest.len() && !matches!(&rest[end..], [b'\n', ..] | [b'/', b'*' | b'/', ..]) {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        if self.current.is_none() {
            self.pending.clear();
        }
        let name = text.trim_start_matches('#').trim_start();
        if name.starts_with("if") {
            self.branches.push(self.braces);
        } else if name.starts_with("el") {
            self.braces = self.branches.last().copied().unwrap_or(self.braces);
        } else if name.starts_with("endif") {
            self.branches.pop();
        }
    }

    fn line_comments(&mut self) {
        let length = self.rest().iter().position(|byte| *byte == b'\n');
        let number = self.line;
        let text = self.take(length.unwrap_or(usize::MAX));
        let text = String::from_utf8_lossy(text);
        let Some(text) = ["///", "//!"].iter().find_map(|m| text.strip_prefix(m)) else {
            return;
        };
        // A line of slashes is decoration.
        if text.starts_with('/') {
            return;
        }
        self.document(text, |text| {
            vec![Line {
                number,
                text: text.trim().to_owned(),
            }]
        });
    }

    fn block_comment(&mut self) {
        let rest = self.rest();
        let end = rest[2..].windows(2).position(|two| two == b"*/");
        let number = self.line;
        let text = self.take(end.map_or(usize::MAX, |end| end + 4));
        let text = String::from_utf8_lossy(text);
        let text = text.strip_suffix("*/").unwrap_or(&text);
        let Some(text) = ["/**", "/*!"].iter().find_map(|m| text.strip_prefix(m)) else {
            return;
        };
        if text.starts_with('*') {
            return;
        }
        self.document(text, |text| {
            let lines = text.lines().zip(number..).map(|(line, number)| Line {
                number,
                text: line.trim().trim_start_matches('*').trim().to_owned(),
            });
            lines.collect()
        });
    }

    /// Gives a comment to the declaration that it documents.
    fn document(&mut self, text: &str, lines: impl Fn(&str) -> Vec<Line>) {
        if self.braces > 0 {
            return;
        }
        match (text.strip_prefix('<'), &mut self.current) {
            (Some(text), Some(current)) => current.comment.extend(lines(text)),
            (Some(text), None) => {
                if let Some(last) = self.found.last_mut() {
                    last.comment.extend(lines(text));
                }
            }
            (None, None) => self.pending.extend(lines(text)),
            (None, Some(_)) => {}
        }
    }

    fn token(&mut self, kind: u8) -> &mut Declared {
        self.last = kind;
        let pending = &mut self.pending;
        self.current.get_or_insert_with(|| Declared {
            comment: take(pending),
            ..Declared::default()
        })
    }

    fn word(&mut self, word: &str) {
        let wanted = self.braces == 0
            && !self.in_value
            && (self.parentheses == 0 || self.parentheses == 1 && self.opened);
        self.opened = false;
        match &mut self.structure {
            _ if word == "struct" => self.structure = Some(String::new()),
            Some(name)
                if name.is_empty() && !word.starts_with("__attribute") && word != "packed" =>
            {
                word.clone_into(name);
            }
            _ => {}
        }
        let current = self.token(b'a');
        if wanted && !word.starts_with(|c: char| c.is_ascii_digit()) {
            current.words.push(word.to_owned());
        }
    }

    fn mark(&mut self, mark: u8) {
        let outside = self.braces == 0 && self.parentheses == 0;
        self.opened = false;
        match mark {
            b'{' => {
                self.begin_braces();
                self.braces += 1;
                let name = self.structure.take().filter(|name| !name.is_empty());
                self.token(mark).structures.extend(name);
            }
            b'}' => {
                self.braces = self.braces.saturating_sub(1);
                self.last = mark;
                let is_function = self.current.as_ref().is_some_and(|c| c.is_function);
                if self.braces == 0 && is_function {
                    self.finish();
                }
                return;
            }
            b'(' => {
                self.opened = self.parentheses == 0;
                self.parentheses += 1;
            }
            b')' => self.parentheses = self.parentheses.saturating_sub(1),
            b';' | b'*' | b',' => self.structure = None,
            _ => {}
        }
        match mark {
            b'=' if outside => self.in_value = true,
            b',' if outside => self.in_value = false,
            b';' if self.braces == 0 => return self.finish(),
            _ => {}
        }
        self.token(mark);
    }

    /// A body follows parentheses; a structure may have attributes in some.
    fn begin_braces(&mut self) {
        if self.braces > 0 || self.last != b')' || self.in_value {
            return;
        }
        let Some(current) = &mut self.current else {
            return;
        };
        let kind = [
            "struct",
            "union",
            "enum",
            "__attribute__",
            "packed",
            "typedef",
        ];
        current.is_function = current
            .words
            .iter()
            .any(|word| !kind.contains(&word.as_str()));
    }

    fn finish(&mut self) {
        self.found.extend(self.current.take());
        (self.braces, self.parentheses) = (0, 0);
        (self.in_value, self.last) = (false, 0);
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Bytes of text or a character with its quotes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut end = 1;
    while end < rest.len() && rest[end] != quote && rest[end] != b'\n' {
        end += if rest[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(rest.len())
}
