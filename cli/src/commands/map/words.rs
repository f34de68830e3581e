//! The words behind a map on the command line, as bpftool takes them:
//! `key 1 0 0 0 value hex 2a 00 00 00 noexist`.

use uapi::map::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};

use super::found::Found;
use crate::problem::Problem;

const LAYOUT: &str = "give key DATA value DATA [any|exist|noexist]; DATA is one number for each byte, hex before it for \
                      hexadecimal ones, or one number for a value of up to 8 bytes";

/// What the words say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub flags: Option<u64>,
}

impl Element {
    /// Reads all words.
    pub fn parse(map: &Found, words: &[String]) -> Result<Element, Problem> {
        Element::of_sizes(map.spec.key_size, map.spec.value_size, words)
            .map_err(|happened| map.problem(happened, LAYOUT))
    }

    fn of_sizes(key: u32, value: u32, mut words: &[String]) -> Result<Element, String> {
        let mut element = Element::default();
        while let Some((word, rest)) = words.split_first() {
            words = rest;
            let (what, size, place) = match word.as_str() {
                "key" => ("key", key, &mut element.key),
                "value" => ("value", value, &mut element.value),
                flag => {
                    let flags = match flag {
                        "any" => BPF_ANY,
                        "noexist" => BPF_NOEXIST,
                        "exist" => BPF_EXIST,
                        _ => return Err(format!("expected key or value, got: {word}")),
                    };
                    if element.flags.replace(flags).is_some() {
                        return Err(format!("flags specified multiple times: {word}"));
                    }
                    continue;
                }
            };
            if place
                .replace(data(&mut words, what, size as usize)?)
                .is_some()
            {
                return Err(format!("duplicate {what}"));
            }
        }
        Ok(element)
    }
}

/// Takes the bytes of a key or value from the front of the words.
fn data(words: &mut &[String], what: &str, size: usize) -> Result<Vec<u8>, String> {
    let mut radix = None;
    if let Some((word, rest)) = words.split_first()
        && word == "hex"
    {
        radix = Some(16);
        *words = rest;
    }
    let is_end =
        |word: &String| matches!(word.as_str(), "key" | "value" | "any" | "exist" | "noexist");
    let count = words.iter().position(is_end).unwrap_or(words.len());
    let (mine, rest) = words.split_at(count);
    *words = rest;
    if let [only] = mine
        && size != 1
        && size <= 8
        && radix.is_none()
    {
        return whole(only, size)
            .ok_or_else(|| format!("{what} has {size} bytes, {only} does not fit"));
    }
    let byte = |word: &String| {
        number(word, radix)
            .and_then(|number| u8::try_from(number).ok())
            .ok_or_else(|| format!("error parsing byte: {word}"))
    };
    let bytes = mine.iter().map(byte).collect::<Result<Vec<u8>, _>>()?;
    if bytes.len() != size {
        return Err(format!("{what} expected {size} bytes got {}", bytes.len()));
    }
    Ok(bytes)
}

/// One number as a value of `size` bytes.
fn whole(word: &str, size: usize) -> Option<Vec<u8>> {
    let number = match word.strip_prefix('-') {
        Some(digits) => -i128::from(number(digits, None)?),
        None => i128::from(number(word, None)?),
    };
    let bits = 8 * size as u32;
    let fits = (-(1i128 << (bits - 1))..1i128 << bits).contains(&number);
    fits.then(|| number.to_le_bytes()[..size].to_vec())
}

/// A number as strtoul(3) takes it: 0x and 0 say hexadecimal and octal.
fn number(word: &str, radix: Option<u32>) -> Option<u64> {
    let (digits, radix) = match (word.strip_prefix("0x"), radix) {
        (Some(digits), None | Some(16)) => (digits, 16),
        (None, None) if word.len() > 1 && word.starts_with('0') => (word, 8),
        (_, radix) => (word, radix.unwrap_or(10)),
    };
    let all_digits = digits.chars().all(|c| c.is_digit(radix));
    all_digits
        .then(|| u64::from_str_radix(digits, radix).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Element, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Element::of_sizes(4, 8, &words)
    }

    fn element(key: u32, value: Option<u64>, flags: Option<u64>) -> Result<Element, String> {
        Ok(Element {
            key: Some(key.to_le_bytes().to_vec()),
            value: value.map(|value| value.to_le_bytes().to_vec()),
            flags,
        })
    }

    #[test]
    fn bytes_as_bpftool_takes_them() {
        assert_eq!(parse("key 1 0x2 03 0"), element(0x30201, None, None));
        assert_eq!(
            parse("key hex 0a 0b 0 0xc"),
            element(0x0c00_0b0a, None, None)
        );
        assert_eq!(
            parse("key 1 0 0 0 value 255 0 0 0 0 0 0 1 noexist"),
            element(1, Some(0x0100_0000_0000_00ff), Some(BPF_NOEXIST))
        );
        assert_eq!(
            parse("exist value 0 0 0 0 0 0 0 0 key 0 0 0 0"),
            element(0, Some(0), Some(BPF_EXIST))
        );
    }

    #[test]
    fn one_number_for_a_whole_value() {
        assert_eq!(
            parse("key 258 value 18446744073709551615"),
            element(258, Some(u64::MAX), None)
        );
        assert_eq!(
            parse("key -1 value -2 any"),
            element(u32::MAX, Some(-2i64 as u64), Some(BPF_ANY))
        );
        assert_eq!(
            parse("key 0x100000000"),
            Err("key has 4 bytes, 0x100000000 does not fit".into())
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (words, problem) in [
            ("key 1 2 3", "key expected 4 bytes got 3"),
            ("key 1 2 3 4 5", "key expected 4 bytes got 5"),
            ("key", "key expected 4 bytes got 0"),
            ("key 1 2 3 256", "error parsing byte: 256"),
            ("key 1 2 3 x", "error parsing byte: x"),
            ("key 1 2 3 09", "error parsing byte: 09"),
            ("key hex +1 2 3 4", "error parsing byte: +1"),
            ("clef 1 2 3 4", "expected key or value, got: clef"),
            ("key 1 key 2", "duplicate key"),
            ("any exist", "flags specified multiple times: exist"),
        ] {
            assert_eq!(parse(words), Err(problem.to_owned()), "{words}");
        }
    }
}
