//! Publishing a file. The same file under the same options always gives the
//! same manifest, so pushing it again changes nothing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use oci_client::RegistryOperation;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use crate::contents::TITLE;
use crate::digest::Digest;
use crate::error::{Error, Trouble};
use crate::kind::Kind;
use crate::remote::Remote;
use crate::settings::Settings;
use crate::source::explicit_reference;

/// CNCF's layout for Wasm (TAG Runtime, "Wasm OCI Artifact layout").
pub(crate) const WASM_LAYER: &str = "application/wasm";
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const OBJECT_LAYER: &str = "application/vnd.bpftime.object.v1+elf";
pub(crate) const PACKAGE_LAYER: &str = "application/vnd.bpftime.package.v1+json";
pub(crate) const ARCHIVE_LAYER: &str = "application/vnd.bpftime.package.v1+tar";
const OUR_CONFIG: &str = "application/vnd.bpftime.config.v1+json";
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const IMAGE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is, under a media type that says what it is.
    Artifact,
    /// In a layer of an ordinary image, for container engines.
    Image,
}

/// What a push made.
pub struct Pushed {
    /// Registry, name and digest: this names it for ever.
    pub reference: String,
}

/// What is to be pushed.
pub struct Parcel<'a> {
    /// The file.
    pub bytes: &'a [u8],
    /// Its name, for who pulls it.
    pub name: &'a str,
    /// When it was last changed.
    pub changed: SystemTime,
    /// How it is packed.
    pub form: Form,
    /// Notes about it.
    pub annotations: BTreeMap<String, String>,
}

/// Pushes a file to a tag.
pub fn push(parcel: &Parcel<'_>, to: &str, settings: &Settings) -> Result<Pushed, Error> {
    let reference = explicit_reference(to)?;
    if reference.digest().is_some() {
        let text = "a digest is what a push gives".to_owned();
        return Err(Error::new(to, Trouble::NotAReference(text)));
    }
    let kind = Kind::of(parcel.bytes);
    let kind = kind.ok_or_else(|| Error::new(parcel.name, Trouble::UnknownKind))?;
    let packed = pack(parcel, kind).map_err(|cause| Error::new(parcel.name, Trouble::Io(cause)))?;
    crate::block_on(async {
        let remote = Remote::open(&reference, settings, RegistryOperation::Push).await?;
        for blob in [&packed.layer, &packed.config] {
            let digest = Digest::of(blob).to_string();
            let pusher = remote.pusher().await?;
            let pushed = pusher.push_blob(&reference, blob.clone(), &digest).await;
            pushed.map_err(|cause| remote.oci_error(&cause))?;
        }
        let manifest = packed.manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let kind = HeaderValue::from_static(MANIFEST);
        let pusher = remote.pusher().await?;
        let pushed = pusher.push_manifest_raw(&reference, manifest, kind).await;
        pushed.map_err(|cause| remote.oci_error(&cause))?;
        Ok(Pushed {
            reference: format!(
                "{}/{}@{digest}",
                reference.registry(),
                reference.repository()
            ),
        })
    })
}

struct Packed {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Value,
}

fn pack(parcel: &Parcel<'_>, kind: Kind) -> std::io::Result<Packed> {
    let layer = match parcel.form {
        Form::Artifact => parcel.bytes.to_owned(),
        Form::Image => archive(parcel.bytes, kind)?,
    };
    let layer_digest = Digest::of(&layer).to_string();
    let os = match kind {
        Kind::Component => "wasip2",
        _ => "wasip1",
    };
    let created = DateTime::<Utc>::from(parcel.changed).to_rfc3339_opts(SecondsFormat::Secs, true);
    let (layer_type, config_type, config) = match (parcel.form, kind) {
        (Form::Image, _) => {
            let config = json!({
                "architecture": "wasm",
                "os": os,
                "config": { "Entrypoint": [format!("/{}", kind.file_name())] },
                "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
            });
            (IMAGE_LAYER, IMAGE_CONFIG, config)
        }
        (Form::Artifact, Kind::Module | Kind::Component) => {
            let config = json!({
                "created": created,
                "architecture": "wasm",
                "os": os,
                "layerDigests": [layer_digest],
            });
            (WASM_LAYER, WASM_CONFIG, config)
        }
        (Form::Artifact, Kind::Object) => (OBJECT_LAYER, OUR_CONFIG, json!({})),
        (Form::Artifact, Kind::Package) => (PACKAGE_LAYER, OUR_CONFIG, json!({})),
        (Form::Artifact, Kind::Archive) => (ARCHIVE_LAYER, OUR_CONFIG, json!({})),
    };
    let config = config.to_string().into_bytes();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config_type, &config),
        "layers": [descriptor(layer_type, &layer)],
    });
    manifest["layers"][0]["annotations"] = json!({ TITLE: parcel.name });
    if !parcel.annotations.is_empty() {
        manifest["annotations"] = json!(parcel.annotations);
    }
    Ok(Packed {
        layer,
        config,
        manifest,
    })
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::of(bytes).to_string(),
        "size": bytes.len(),
    })
}

/// A layer with the file alone in it.
fn archive(bytes: &[u8], kind: Kind) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, kind.file_name(), bytes)?;
    layer.into_inner()
}
