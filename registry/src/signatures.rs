//! Who signed an image, as cosign writes it into registries: notes of one
//! signature each under the tag `sha256-….sig`, or Sigstore bundles that refer
//! to the image. What is signed is the manifest's digest, from which all else
//! follows. Only keys count here. Who signed by a certificate of Sigstore
//! (keyless) is not looked at: that takes its authorities, their log and the
//! names that a user trusts, and `cosign verify` does it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contents::{Descriptor, Manifest};
use crate::digest::Digest;
use crate::error::{Error, Trouble};
use crate::fetch::{Note, Visit};
use crate::keys::Keys;
use crate::settings::LARGEST_MANIFEST;

/// Layers with a note (cosign, specs/SIGNATURE_SPEC.md).
const NOTE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const NOTE_SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The certificate of who has no key of its own.
const NOTE_CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const NOTE_TYPE: &str = "cosign container image signature";
/// Bundles of all versions (cosign, specs/BUNDLE_SPEC.md).
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The statement that is a signature; others are attestations.
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// Nobody needs more of them for one image.
const MOST: usize = 64;

/// One signature and the bytes that it is over.
#[derive(Serialize, Deserialize)]
struct Signature {
    /// The manifest that it was found at.
    of: String,
    #[serde(with = "in_base64")]
    payload: Vec<u8>,
    #[serde(with = "in_base64")]
    signature: Vec<u8>,
    form: Form,
    /// A certificate says by whom it is.
    #[serde(default)]
    keyless: bool,
}

#[derive(Serialize, Deserialize, Clone, PartialEq)]
enum Form {
    /// The payload is a note that names the digest.
    Note,
    /// The payload is a statement of this type, which names the digest.
    Statement(String),
    /// The payload is the manifest.
    Manifest,
}

/// Refuses what must not run; what the user should hear otherwise.
pub(crate) async fn judge(
    visit: &Visit<'_>,
    keys: &Keys,
    digests: &[Digest],
) -> Result<Option<Note>, Error> {
    // What is damaged is asked for again.
    let known = visit.cache.signatures(&digests[0]);
    let known: Option<Vec<Signature>> = known.and_then(|text| serde_json::from_slice(&text).ok());
    let is_enough = |known: &Vec<Signature>| keys.is_empty() || any_verifies(known, keys);
    let found = match known {
        Some(known) if is_enough(&known) => known,
        known => match (collect(visit, digests).await, known) {
            (Ok(found), _) => {
                if let Ok(text) = serde_json::to_vec(&found) {
                    visit.cache.keep_signatures(&digests[0], &text);
                }
                found
            }
            (Err(_), _) if keys.is_empty() => Vec::new(),
            (Err(_), Some(known)) if !keys.required => known,
            (Err(error), _) => {
                return Err(visit.error(Trouble::NoSignatures(error.trouble.to_string())));
            }
        },
    };
    match (found.is_empty(), keys.is_empty(), keys.required) {
        (true, _, true) => Err(visit.error(Trouble::Unsigned)),
        (true, _, false) => Ok(None),
        (false, true, _) => Ok(Some(match all_keyless(&found) {
            true => Note {
                what: "is signed by a certificate (keyless), which is not checked here",
                advice: "cosign verify checks it",
            },
            false => Note {
                what: "is signed, by someone you have no key of",
                advice: "--key FILE checks signatures",
            },
        })),
        (false, false, _) if any_verifies(&found, keys) => Ok(None),
        (false, false, _) => {
            let count = match found.len() {
                1 => "1 signature".to_owned(),
                count => format!("{count} signatures"),
            };
            Err(visit.error(match all_keyless(&found) {
                true => Trouble::Keyless(count),
                false => Trouble::WrongKey(count),
            }))
        }
    }
}

fn any_verifies(signatures: &[Signature], keys: &Keys) -> bool {
    signatures.iter().any(|signature| signature.verifies(keys))
}

fn all_keyless(signatures: &[Signature]) -> bool {
    signatures.iter().all(|signature| signature.keyless)
}

/// Bytes that somebody published in base64; what is none of it is nobody's signature.
fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

impl Signature {
    fn verifies(&self, keys: &Keys) -> bool {
        let message = match &self.form {
            Form::Statement(kind) => pre_authentication(kind, &self.payload),
            Form::Note | Form::Manifest => self.payload.clone(),
        };
        self.names_its_manifest() && keys.verify(&message, &self.signature)
    }

    /// A signature of something else, put here by someone, is none.
    fn names_its_manifest(&self) -> bool {
        let Ok(of) = Digest::parse(&self.of) else {
            return false;
        };
        // What is no JSON names nothing.
        let said: Value = serde_json::from_slice(&self.payload).unwrap_or_default();
        match self.form {
            Form::Note => {
                let critical = &said["critical"];
                critical["type"] == NOTE_TYPE
                    && critical["image"]["docker-manifest-digest"] == *self.of
            }
            Form::Statement(_) => said["subject"].as_array().is_some_and(|subjects| {
                subjects
                    .iter()
                    .any(|subject| subject["digest"]["sha256"] == *of.hex())
            }),
            Form::Manifest => of.check(&self.payload).is_ok(),
        }
    }
}

/// What a DSSE envelope's signature is over (secure-systems-lab/dsse).
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

async fn collect(visit: &Visit<'_>, digests: &[Digest]) -> Result<Vec<Signature>, Error> {
    let mut all = Vec::new();
    let mut seen = Vec::new();
    for digest in digests {
        if seen.contains(&digest) {
            continue;
        }
        seen.push(digest);
        notes(visit, digest, &mut all).await?;
        bundles(visit, digest, &mut all).await?;
    }
    all.truncate(MOST);
    Ok(all)
}

async fn notes(visit: &Visit<'_>, of: &Digest, all: &mut Vec<Signature>) -> Result<(), Error> {
    let remote = visit.remote().await?;
    let Some(bytes) = remote.manifest(&format!("sha256-{}.sig", of.hex())).await? else {
        return Ok(());
    };
    let manifest = Manifest::parse(&bytes).map_err(|trouble| visit.error(trouble))?;
    for layer in manifest.layers().iter().take(MOST) {
        let notes = layer.annotations.as_ref();
        let text = notes.and_then(|notes| notes.get(NOTE_SIGNATURE));
        let (NOTE, Some(text)) = (layer.media_type.as_str(), text) else {
            continue;
        };
        all.push(Signature {
            of: of.to_string(),
            payload: small_blob(visit, layer).await?,
            signature: decoded(text),
            form: Form::Note,
            keyless: notes.is_some_and(|notes| notes.contains_key(NOTE_CERTIFICATE)),
        });
    }
    Ok(())
}

async fn bundles(visit: &Visit<'_>, of: &Digest, all: &mut Vec<Signature>) -> Result<(), Error> {
    let remote = visit.remote().await?;
    let Some(bytes) = remote.referrers(of).await? else {
        return Ok(());
    };
    let list = Manifest::parse(&bytes).map_err(|trouble| visit.error(trouble))?;
    let is_bundle = |entry: &&Descriptor| {
        let kind = entry.artifact_type.as_deref();
        // Some registries do not say.
        kind.is_none_or(|kind| kind.starts_with(BUNDLE))
    };
    for entry in list.manifests().iter().filter(is_bundle).take(MOST) {
        let digest = Digest::parse(&entry.digest).map_err(|trouble| visit.error(trouble))?;
        let manifest = visit.manifest(&digest).await?;
        let manifest = Manifest::parse(&manifest).map_err(|trouble| visit.error(trouble))?;
        for layer in manifest.layers().iter().take(MOST) {
            if layer.media_type.starts_with(BUNDLE) {
                let bundle = small_blob(visit, layer).await?;
                let image = visit.manifest(of).await?;
                all.extend(read_bundle(&bundle, of, image));
            }
        }
    }
    Ok(())
}

async fn small_blob(visit: &Visit<'_>, layer: &Descriptor) -> Result<Vec<u8>, Error> {
    let digest = Digest::parse(&layer.digest).map_err(|trouble| visit.error(trouble))?;
    visit
        .blob_up_to(&digest, layer.size, LARGEST_MANIFEST)
        .await
}

/// The signature in a bundle, if it is one: what cannot be read counts as one
/// that nobody's key made.
fn read_bundle(bundle: &[u8], of: &Digest, image: Vec<u8>) -> Option<Signature> {
    let bundle: Value = serde_json::from_slice(bundle).unwrap_or_default();
    let bytes = |value: &Value| decoded(value.as_str().unwrap_or_default());
    let material = &bundle["verificationMaterial"];
    let certificates = ["certificate", "x509CertificateChain"];
    let keyless = certificates.iter().any(|name| material[*name].is_object());
    let envelope = &bundle["dsseEnvelope"];
    let of = of.to_string();
    if envelope.is_null() {
        return Some(Signature {
            of,
            payload: image,
            signature: bytes(&bundle["messageSignature"]["signature"]),
            form: Form::Manifest,
            keyless,
        });
    }
    let payload = bytes(&envelope["payload"]);
    let said: Value = serde_json::from_slice(&payload).unwrap_or_default();
    if said["predicateType"].is_string() && said["predicateType"] != PREDICATE {
        return None;
    }
    let kind = envelope["payloadType"].as_str().unwrap_or_default();
    Some(Signature {
        of,
        payload,
        signature: bytes(&envelope["signatures"][0]["sig"]),
        form: Form::Statement(kind.to_owned()),
        keyless,
    })
}

/// Bytes in JSON.
mod in_base64 {
    use super::{Engine, STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}
