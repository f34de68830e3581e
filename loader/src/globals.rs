//! Global variables of an object, and words of a command line as their values.
//! It knows no command line.

use object::btf::{Btf, Modifier, Shape};

/// `BTF_INT_*` encodings (include/uapi/linux/btf.h).
const SIGNED: u8 = 1;
const BOOL: u8 = 4;

/// A global variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its section, with the point.
    pub section: String,
    /// Its first byte in the section.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
    /// Its type.
    pub ty: u32,
}

/// The variables of the sections that a loader may fill before programs are
/// loaded: `.rodata`, `.data`, `.bss`, and those with further words behind.
pub fn variables(btf: &Btf) -> Vec<Variable> {
    let mut found = Vec::new();
    for id in 1..=btf.count() {
        let Some(Shape::DataSec { vars, .. }) = btf.get(id).map(|ty| &ty.shape) else {
            continue;
        };
        let section = btf.name(id);
        let base = section.split('.').nth(1).unwrap_or("");
        if !matches!(base, "rodata" | "data" | "bss") {
            continue;
        }
        for var in vars {
            let Some(Shape::Var { ty, .. }) = btf.get(var.ty).map(|ty| &ty.shape) else {
                continue;
            };
            found.push(Variable {
                name: btf.name(var.ty).to_owned(),
                section: section.to_owned(),
                offset: var.offset as usize,
                size: var.size as usize,
                ty: *ty,
            });
        }
    }
    found
}

impl Variable {
    /// Whether it is true or false.
    pub fn is_bool(&self, btf: &Btf) -> bool {
        matches!(
            btf.resolved(self.ty),
            (_, Shape::Int { encoding: BOOL, .. })
        )
    }

    /// Whether [`Variable::bytes`] can make a value of it.
    pub fn is_settable(&self, btf: &Btf) -> bool {
        let (_, shape) = btf.resolved(self.ty);
        match shape {
            Shape::Array { element, .. } => is_scalar(btf.resolved(*element).1),
            shape => is_scalar(shape),
        }
    }

    /// Its type, as C writes it.
    pub fn type_name(&self, btf: &Btf) -> String {
        name_of(btf, self.ty)
    }

    /// The bytes that `words` stand for: a number, in decimal or with 0x, a
    /// name of the enumeration, true or false, a character, text.
    ///
    /// # Errors
    /// What would be right, for a user.
    pub fn bytes(&self, btf: &Btf, words: &str) -> Result<Vec<u8>, String> {
        let mut bytes = encode(btf, self.ty, words)?;
        bytes.resize(self.size, 0);
        Ok(bytes)
    }
}

fn is_scalar(shape: &Shape) -> bool {
    matches!(
        shape,
        Shape::Int { .. } | Shape::Enum { .. } | Shape::Float { .. }
    )
}

fn name_of(btf: &Btf, ty: u32) -> String {
    match btf.get(ty).map(|ty| &ty.shape) {
        Some(Shape::Array { element, count, .. }) => format!("{}[{count}]", name_of(btf, *element)),
        Some(Shape::Modifier { kind, to }) if *kind != Modifier::Typedef => name_of(btf, *to),
        _ => btf.name(ty).to_owned(),
    }
}

fn encode(btf: &Btf, ty: u32, words: &str) -> Result<Vec<u8>, String> {
    let (id, shape) = btf.resolved(ty);
    match shape {
        Shape::Int { encoding: BOOL, .. } => match words {
            "true" | "1" => Ok(vec![1]),
            "false" | "0" => Ok(vec![0]),
            _ => Err("true or false is wanted".to_owned()),
        },
        Shape::Int { size, encoding, .. } => {
            let is_char = *size == 1 && btf.name(id) == "char";
            match (is_char, words.as_bytes()) {
                (true, [byte]) if !byte.is_ascii_digit() => Ok(vec![*byte]),
                _ => integer(words, *size, encoding & SIGNED != 0),
            }
        }
        Shape::Enum { size, values } => {
            let named = |(name, _): &&(u32, u64)| btf.string(*name) == Some(words);
            match values.iter().find(named) {
                Some((_, value)) => Ok(value.to_le_bytes()[..(*size as usize).min(8)].to_vec()),
                None => integer(words, *size, true).map_err(|_| {
                    let names = values.iter().filter_map(|(name, _)| btf.string(*name));
                    let names: Vec<&str> = names.take(8).collect();
                    format!("one of {} is wanted", names.join(", "))
                }),
            }
        }
        Shape::Float { size: 4 } => float(words, |value| (value as f32).to_le_bytes().to_vec()),
        Shape::Float { size: 8 } => float(words, |value| value.to_le_bytes().to_vec()),
        Shape::Array { element, count, .. } => {
            let (element_id, shape) = btf.resolved(*element);
            if matches!(shape, Shape::Int { size: 1, .. }) && btf.name(element_id) == "char" {
                // A program may rely on the terminator.
                let most = (*count as usize).saturating_sub(1);
                return match words.len() {
                    length if length <= most => Ok(words.as_bytes().to_vec()),
                    _ => Err(format!("at most {most} bytes fit")),
                };
            }
            let values = words
                .split(',')
                .map(|word| encode(btf, *element, word.trim()));
            let values: Vec<_> = values.collect::<Result<_, _>>()?;
            match values.len() {
                length if length <= *count as usize => Ok(values.concat()),
                _ => Err(format!("at most {count} values fit")),
            }
        }
        _ => Err("only numbers, text and lists of them can be given".to_owned()),
    }
}

fn integer(words: &str, size: u32, signed: bool) -> Result<Vec<u8>, String> {
    let bits = size.clamp(1, 16) * 8;
    let (least, most) = match signed {
        true => (i128::MIN >> (128 - bits), i128::MAX >> (128 - bits)),
        // The greatest unsigned numbers of 128 bits cannot be given.
        false => (
            0,
            (u128::MAX >> (128 - bits)).try_into().unwrap_or(i128::MAX),
        ),
    };
    let (negative, digits) = match words.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, words),
    };
    let parsed = match digits.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => digits.parse::<i128>(),
    };
    // No second sign, which the parser would take.
    let value = parsed
        .ok()
        .filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()));
    let value = value.map(|value| if negative { -value } else { value });
    match value {
        Some(value) if (least..=most).contains(&value) => {
            Ok(value.to_le_bytes()[..size.min(16) as usize].to_vec())
        }
        _ => Err(format!("a number from {least} to {most} is wanted")),
    }
}

fn float(words: &str, bytes: impl Fn(f64) -> Vec<u8>) -> Result<Vec<u8>, String> {
    let value = words.parse::<f64>();
    value
        .map(bytes)
        .map_err(|_| "a number is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_against_their_type() {
        assert_eq!(integer("4294967295", 4, false), Ok(vec![255; 4]));
        assert_eq!(integer("-1", 4, true), Ok(vec![255; 4]));
        assert_eq!(integer("0x80", 1, false), Ok(vec![0x80]));
        for (words, size, signed, reason) in [
            (
                "4294967296",
                4,
                false,
                "a number from 0 to 4294967295 is wanted",
            ),
            ("-1", 4, false, "a number from 0 to 4294967295 is wanted"),
            ("128", 1, true, "a number from -128 to 127 is wanted"),
            ("five", 2, false, "a number from 0 to 65535 is wanted"),
            ("", 2, false, "a number from 0 to 65535 is wanted"),
            ("--1", 1, true, "a number from -128 to 127 is wanted"),
        ] {
            assert_eq!(
                integer(words, size, signed),
                Err(reason.to_owned()),
                "{words}"
            );
        }
    }
}
