//! What is in an image: the one file that can be run, whichever of the ways
//! of packing it somebody chose. Kinds are told by bytes; media types only say
//! where to look first.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Trouble};
use crate::fetch::Visit;
use crate::kind::Kind;
use crate::settings::size_words;

/// The file's name (image-spec, annotations).
pub(crate) const TITLE: &str = "org.opencontainers.image.title";

/// Layers that are the file itself: CNCF's, eunomia's (as wasm-to-oci's),
/// Solo's, the Bytecode Alliance's, and ours.
const ITSELF: [&str; 7] = [
    crate::push::WASM_LAYER,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    crate::push::OBJECT_LAYER,
    crate::push::PACKAGE_LAYER,
    crate::push::ARCHIVE_LAYER,
];

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// An image or a list of images, in docker's words or OCI's.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, String>>,
}

/// One blob or manifest that another names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    pub artifact_type: Option<String>,
    platform: Option<Platform>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Manifest {
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Trouble> {
        serde_json::from_slice(bytes)
            .map_err(|error| Trouble::Protocol(format!("its manifest is damaged ({error})")))
    }

    pub fn layers(&self) -> &[Descriptor] {
        self.layers.as_deref().unwrap_or_default()
    }

    pub fn manifests(&self) -> &[Descriptor] {
        self.manifests.as_deref().unwrap_or_default()
    }
}

/// Which image of a list to take: the one for Wasm, or the first that is for
/// any machine at all. `None` if this is an image.
pub(crate) fn choose(manifest: &Manifest) -> Option<Result<Digest, Trouble>> {
    let list = manifest.manifests.as_ref()?;
    let is_wasm = |platform: &Platform| {
        platform.os.starts_with("wasi") || platform.architecture.starts_with("wasm")
    };
    let wasm = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(is_wasm);
    // Notes about how an image was built are of an unknown platform.
    let real = |entry: &&Descriptor| {
        let platform = entry.platform.as_ref();
        platform.is_none_or(|platform| platform.os != "unknown")
    };
    let chosen = list.iter().find(wasm).or_else(|| list.iter().find(real));
    Some(match chosen {
        Some(entry) => Digest::parse(&entry.digest),
        None => Err(Trouble::Nothing),
    })
}

/// The file that can be run, and its name.
pub(crate) async fn extract(
    visit: &Visit<'_>,
    manifest: &Manifest,
) -> Result<(Vec<u8>, Option<String>), Error> {
    let title = |layer: &Descriptor| {
        let own = layer
            .annotations
            .as_ref()
            .and_then(|notes| notes.get(TITLE));
        let all = manifest.annotations.as_ref();
        own.or_else(|| all?.get(TITLE))
            .and_then(|name| safe_name(name))
    };
    let layers = manifest.layers();
    let itself = |layer: &&Descriptor| ITSELF.contains(&layer.media_type.as_str());
    if let Some(layer) = layers.iter().find(itself) {
        return Ok((blob(visit, layer).await?, title(layer)));
    }
    // What lies above hides what lies below.
    for layer in layers.iter().rev() {
        let bytes = plain(visit, blob(visit, layer).await?)?;
        match Kind::of(&bytes) {
            Some(Kind::Archive) => {
                let mut files = files(visit, &bytes)?;
                if files.len() > 1 {
                    let started = started(visit, manifest).await?;
                    keep_started(&mut files, &started);
                }
                if files.len() > 1 {
                    let names: Vec<_> = files.into_iter().map(|(name, _)| name).collect();
                    return Err(visit.error(Trouble::Several(names.join(", "))));
                }
                if let Some((name, bytes)) = files.pop() {
                    return Ok((bytes, safe_name(&name)));
                }
            }
            Some(_) => return Ok((bytes, title(layer))),
            None => {}
        }
    }
    Err(visit.error(Trouble::Nothing))
}

async fn blob(visit: &Visit<'_>, layer: &Descriptor) -> Result<Vec<u8>, Error> {
    let digest = Digest::parse(&layer.digest).map_err(|trouble| visit.error(trouble))?;
    visit.blob(&digest, layer.size).await
}

/// Bytes without their compression.
fn plain(visit: &Visit<'_>, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let limit = visit.settings.largest;
    let mut all = Vec::new();
    let read = match () {
        () if bytes.starts_with(ZSTD) || is_skippable(&bytes) => {
            unzstd(&bytes, limit + 1, &mut all)
        }
        () if bytes.starts_with(GZIP) => {
            let gzip = MultiGzDecoder::new(&bytes[..]);
            gzip.take(limit + 1).read_to_end(&mut all).map(drop)
        }
        () => return Ok(bytes),
    };
    match read {
        Ok(()) if all.len() as u64 <= limit => Ok(all),
        Ok(()) => Err(visit.error(Trouble::TooLarge {
            limit: size_words(limit),
        })),
        Err(cause) => Err(visit.error(Trouble::Protocol(format!("a layer is damaged ({cause})")))),
    }
}

/// Whether these bytes begin with a frame that says nothing (RFC 8878, 3.1.2).
fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50)
}

/// Frame by frame, as much as `most`.
fn unzstd(mut bytes: &[u8], most: u64, all: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() && (all.len() as u64) < most {
        match StreamingDecoder::new(&mut bytes) {
            Ok(frame) => {
                frame.take(most - all.len() as u64).read_to_end(all)?;
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let rest = bytes.get(length as usize..);
                bytes = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
            }
            Err(other) => return Err(io::Error::other(other)),
        }
    }
    Ok(())
}

/// The files of an archive that can be run: modules and objects, or if there
/// are none, packages, for JSON may be anything.
fn files(visit: &Visit<'_>, archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let damaged = |cause| visit.error(Trouble::Protocol(format!("a layer is damaged ({cause})")));
    let mut programs = Vec::new();
    let mut packages = Vec::new();
    let mut left = visit.settings.largest;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(damaged)?.display().to_string();
        let name = bare(&name).to_owned();
        // A file with holes can be larger than its archive.
        let mut bytes = Vec::new();
        left -= entry.take(left).read_to_end(&mut bytes).map_err(damaged)? as u64;
        match Kind::of(&bytes) {
            Some(Kind::Module | Kind::Component | Kind::Object) => programs.push((name, bytes)),
            Some(Kind::Package) => packages.push((name, bytes)),
            _ => {}
        }
    }
    Ok(if programs.is_empty() {
        packages
    } else {
        programs
    })
}

/// What the image says is to be started in it.
async fn started(visit: &Visit<'_>, manifest: &Manifest) -> Result<Vec<String>, Error> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Start {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        config: Start,
    }
    let Some(config) = &manifest.config else {
        return Ok(Vec::new());
    };
    let bytes = blob(visit, config).await?;
    // An image without a usable configuration starts nothing.
    let Ok(Config { config }) = serde_json::from_slice(&bytes) else {
        return Ok(Vec::new());
    };
    let words = [config.entrypoint, config.cmd];
    Ok(words.into_iter().flatten().flatten().collect())
}

fn keep_started(files: &mut Vec<(String, Vec<u8>)>, started: &[String]) {
    let is_started = |name: &str| started.iter().any(|word| bare(word) == name);
    if files.iter().any(|(name, _)| is_started(name)) {
        files.retain(|(name, _)| is_started(name));
    }
}

/// A path as archives have it.
fn bare(path: &str) -> &str {
    path.trim_start_matches("./").trim_start_matches('/')
}

/// A published name as the name of a file here: no directories, nothing
/// hidden, nothing that could be taken for an option.
pub fn safe_name(published: &str) -> Option<String> {
    let name = Path::new(published).file_name()?.to_str()?;
    let plain = !name.starts_with(['.', '-']) && !name.chars().any(char::is_control);
    plain.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(list: &str) -> Option<String> {
        let manifest = Manifest::parse(list.as_bytes()).expect("a manifest");
        choose(&manifest)?
            .ok()
            .map(|digest| digest.hex()[..2].to_owned())
    }

    #[test]
    fn wasm_is_chosen_from_a_list() {
        let entry = |digit: &str, platform: &str| {
            format!(
                r#"{{"digest": "sha256:{}", "platform": {platform}}}"#,
                digit.repeat(64)
            )
        };
        let amd64 = entry("a", r#"{"architecture": "amd64", "os": "linux"}"#);
        let wasm = entry("b", r#"{"architecture": "wasm", "os": "wasip1"}"#);
        let built = entry("c", r#"{"architecture": "unknown", "os": "unknown"}"#);
        let bare = entry("d", "null");
        let list = |entries: &[&String]| {
            let entries: Vec<&str> = entries.iter().map(|entry| entry.as_str()).collect();
            format!(r#"{{"manifests": [{}]}}"#, entries.join(","))
        };
        assert_eq!(chosen(&list(&[&amd64, &wasm])).as_deref(), Some("bb"));
        assert_eq!(
            chosen(&list(&[&built, &amd64, &bare])).as_deref(),
            Some("aa")
        );
        assert_eq!(chosen(&list(&[&bare])).as_deref(), Some("dd"));
        assert_eq!(chosen(&list(&[&built])), None);
        assert_eq!(chosen("{}"), None);
    }

    #[test]
    fn published_names_lead_nowhere_else() {
        assert_eq!(safe_name("../../etc/x.wasm").as_deref(), Some("x.wasm"));
        for name in ["..", "/", ".bashrc", "-rf", "a\nb"] {
            assert_eq!(safe_name(name), None, "{name}");
        }
    }
}
