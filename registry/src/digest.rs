//! Content's name: the SHA-256 of its bytes. Nothing else is trusted.

use std::fmt;

use ring::digest::{SHA256, digest};

use crate::error::Trouble;

/// `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let hex: String = digest(&SHA256, bytes)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Digest(format!("{PREFIX}{hex}"))
    }

    /// As a registry or a user writes it.
    pub fn parse(text: &str) -> Result<Digest, Trouble> {
        let hex = text.strip_prefix(PREFIX).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match hex.len() == 64 && hex.bytes().all(plain) {
            true => Ok(Digest(text.to_owned())),
            false => Err(Trouble::NotAReference(format!("{text} is no SHA-256"))),
        }
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// That `bytes` are what this names.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Trouble> {
        let got = Digest::of(bytes);
        match got == *self {
            true => Ok(()),
            false => Err(Trouble::WrongDigest {
                wanted: self.to_string(),
                got: got.to_string(),
            }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_bytes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert!(Digest::parse(empty).is_ok_and(|digest| digest.check(b"").is_ok()));
        assert!(Digest::parse(empty).is_ok_and(|digest| digest.check(b"x").is_err()));
        for wrong in [
            "sha256:12",
            "sha512:00",
            "",
            &empty.to_uppercase(),
            "sha256:../../etc",
        ] {
            assert!(Digest::parse(wrong).is_err(), "{wrong}");
        }
    }
}
