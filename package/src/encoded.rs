//! The object in a package: an ELF file, compressed by zlib, as base64 text.

use std::io::Read;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};

use crate::error::Error;

/// Most bytes of an object, or of anything else that was compressed.
pub(crate) const MAX_BYTES: u64 = 256 << 20;

const ELF: &[u8] = b"\x7fELF";

/// Text with or without the padding at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes that a text stands for. Lines may be broken.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, Error> {
    let packed: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    BASE64
        .decode(packed)
        .map_err(|error| Error::Encoding(format!("it is no base64 ({error})")))
}

/// The object that a text stands for, compressed or not. `size` is what the
/// package says of it.
pub(crate) fn object(text: &str, size: Option<u64>) -> Result<Vec<u8>, Error> {
    let packed = bytes(text)?;
    let object = match packed.starts_with(ELF) {
        true => packed,
        false => inflate(&packed, size)?,
    };
    match size {
        Some(said) if said != object.len() as u64 => Err(Error::Size {
            said,
            found: object.len().to_string(),
        }),
        _ if !object.starts_with(ELF) => Err(Error::NotElf),
        _ => Ok(object),
    }
}

/// Never more than what is said, whatever the compressed bytes grow to.
fn inflate(packed: &[u8], size: Option<u64>) -> Result<Vec<u8>, Error> {
    let most = size.unwrap_or(MAX_BYTES);
    if most > MAX_BYTES {
        return Err(Error::TooLarge(MAX_BYTES >> 20));
    }
    let mut bytes = Vec::new();
    ZlibDecoder::new(packed)
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Encoding(format!("it is not compressed by zlib ({error})")))?;
    match size {
        _ if bytes.len() as u64 <= most => Ok(bytes),
        Some(said) => Err(Error::Size {
            said,
            found: format!("more than {said}"),
        }),
        None => Err(Error::TooLarge(MAX_BYTES >> 20)),
    }
}

/// The text for an object.
pub(crate) fn text(object: &[u8]) -> String {
    let mut packed = Vec::new();
    // Reading from memory cannot fail.
    let _ = ZlibEncoder::new(object, Compression::best()).read_to_end(&mut packed);
    base64::engine::general_purpose::STANDARD.encode(packed)
}
