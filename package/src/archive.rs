//! Packages with types of kernels beside them, in one file.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use crate::encoded::MAX_BYTES;
use crate::error::Error;
use crate::{KernelTypes, Package, format};

/// Where a tar file says that it is one.
const TAR_MAGIC_AT: usize = 257;
const TAR_MAGIC: &[u8] = b"ustar";
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// Most members that are looked at.
const MAX_MEMBERS: usize = 100_000;

/// Whether bytes are compressed by gzip.
pub(crate) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(GZIP_MAGIC)
}

/// Whether bytes are a tar file.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    bytes
        .get(TAR_MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(TAR_MAGIC))
}

/// What was compressed.
pub(crate) fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut plain)
        .map_err(|error| Error::Archive(error.to_string()))?;
    match plain.len() as u64 {
        ..=MAX_BYTES => Ok(plain),
        _ => Err(Error::TooLarge(MAX_BYTES >> 20)),
    }
}

/// The package of a tar file.
pub(crate) fn untar(bytes: &[u8]) -> Result<Package, Error> {
    let damaged = |error: std::io::Error| Error::Archive(error.to_string());
    let mut archive = tar::Archive::new(bytes);
    let mut package = None;
    let mut kernels = Vec::new();
    for member in archive.entries().map_err(damaged)?.take(MAX_MEMBERS) {
        let mut member = member.map_err(damaged)?;
        let path = member.path().map_err(damaged)?;
        let path = path.to_string_lossy().into_owned();
        let name = path.rsplit('/').next().unwrap_or("");
        let wanted = name == "package.json" || name.ends_with(".btf");
        if !member.header().entry_type().is_file() || !wanted {
            continue;
        }
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(damaged)?;
        match name {
            "package.json" => package = Some(bytes),
            _ => kernels.push(KernelTypes { path, bytes }),
        }
    }
    let mut package = format::text(&package.ok_or(Error::NoPackage)?)?;
    package.kernels = kernels;
    Ok(package)
}
