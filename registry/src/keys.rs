//! Public keys of those whom a user trusts, and what they signed. Keys are
//! those that `cosign generate-key-pair` and openssl write: PEM with a subject
//! public key (RFC 5280), ECDSA on P-256 or P-384, Ed25519, or RSA.

use std::path::{Path, PathBuf};
use std::{fs, io};

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Error, Trouble};
use crate::settings::Settings;

type Algorithm = &'static dyn VerificationAlgorithm;

/// What stands before the key itself, by algorithm. All of it is constant.
const KINDS: &[(&[u8], usize, &[Algorithm])] = &[
    (
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
        65,
        &[&ECDSA_P256_SHA256_ASN1],
    ),
    (
        b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
        97,
        &[&ECDSA_P384_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1],
    ),
    (
        b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
        32,
        &[&ED25519],
    ),
];

/// `rsaEncryption` without parameters, behind the four bytes of a length.
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82";
/// Where the key is, for all lengths that are accepted.
const RSA_AT: usize = 4 + RSA.len() + 3;
const RSA_ALGORITHMS: &[Algorithm] = &[&RSA_PKCS1_2048_8192_SHA256, &RSA_PSS_2048_8192_SHA256];

/// One key.
pub(crate) struct Key {
    bytes: Vec<u8>,
    algorithms: &'static [Algorithm],
}

/// All that count for one command.
pub(crate) struct Keys {
    keys: Vec<Key>,
    /// The user named them: without a signature nothing runs.
    pub required: bool,
}

/// Keys in a directory, if there is one. Without one that cannot be read, what they
/// forbid would be allowed.
fn in_directory(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "pub") {
            paths.push(path);
        }
    }
    Ok(paths)
}

impl Keys {
    /// Those that were named, else those in the user's directory.
    pub fn load(settings: &Settings) -> Result<Keys, Error> {
        let required = !settings.keys.is_empty();
        let mut paths = settings.keys.clone();
        let dir = settings.places.config.as_ref().map(|dir| dir.join("keys"));
        if let (false, Some(dir)) = (required, dir) {
            let failed = |cause| Error::new(dir.display().to_string(), Trouble::Read(cause));
            paths = in_directory(&dir).map_err(failed)?;
        }
        let keys = paths
            .iter()
            .map(|path| read(path))
            .collect::<Result<_, _>>()?;
        Ok(Keys { keys, required })
    }

    /// No key is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether one of them signed this.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.keys.iter().any(|key| key.verify(message, signature))
    }
}

impl Key {
    fn parse(pem: &[u8]) -> Result<Key, String> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|error| format!("no PEM with a public key: {error}"))?;
        let der = info.as_ref();
        for (start, length, algorithms) in KINDS {
            if let Some(bytes) = der.strip_prefix(*start)
                && bytes.len() == *length
            {
                return Ok(Key {
                    bytes: bytes.to_owned(),
                    algorithms,
                });
            }
        }
        match der.get(4..4 + RSA.len()) == Some(RSA) && der.len() > RSA_AT {
            true => Ok(Key {
                bytes: der[RSA_AT..].to_owned(),
                algorithms: RSA_ALGORITHMS,
            }),
            false => Err("not ECDSA on P-256 or P-384, Ed25519, or RSA".to_owned()),
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithms.iter().any(|algorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bytes)
                .verify(message, signature)
                .is_ok()
        })
    }
}

fn read(path: &Path) -> Result<Key, Error> {
    let error = |trouble| Error::new(path.display().to_string(), trouble);
    let pem = fs::read(path).map_err(|cause| error(Trouble::Read(cause)))?;
    Key::parse(&pem).map_err(|reason| error(Trouble::NotAKey(reason)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Signs as `openssl dgst -sign` and cosign do.
    fn signed(algorithm: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a directory");
        let openssl = |words: &[&str]| {
            let status = Command::new("openssl")
                .args(words)
                .current_dir(&dir)
                .output();
            assert!(
                status.is_ok_and(|output| output.status.success()),
                "{words:?}"
            );
        };
        fs::write(dir.path().join("message"), b"message").expect("a file");
        openssl(&[&["genpkey", "-out", "key"], algorithm].concat());
        openssl(&["pkey", "-in", "key", "-pubout", "-out", "pub"]);
        match algorithm.contains(&"ed25519") {
            true => openssl(&[
                "pkeyutl",
                "-sign",
                "-inkey",
                "key",
                "-rawin",
                "-in",
                "message",
                "-out",
                "signature",
            ]),
            false => openssl(&[
                "dgst",
                "-sha256",
                "-sign",
                "key",
                "-out",
                "signature",
                "message",
            ]),
        }
        let read = |name| fs::read(dir.path().join(name)).expect("a file");
        (read("pub"), read("signature"))
    }

    #[test]
    fn keys_of_every_kind_verify_what_they_signed() {
        for algorithm in [
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..],
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            &["-algorithm", "ed25519"],
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ] {
            let (pem, signature) = signed(algorithm);
            let key = Key::parse(&pem).expect("a key");
            assert!(key.verify(b"message", &signature), "{algorithm:?}");
            assert!(!key.verify(b"messagf", &signature), "{algorithm:?}");
            assert!(!key.verify(b"message", &signature[1..]), "{algorithm:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for pem in [
            "",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(Key::parse(pem.as_bytes()).is_err(), "{pem}");
        }
    }
}
