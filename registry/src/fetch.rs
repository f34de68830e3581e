//! From what a user names to bytes: each way with its limit, and a registry's
//! with its cache and its signatures.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_client::{Reference, RegistryOperation};
use tokio::sync::OnceCell;

use crate::cache::Cache;
use crate::contents::{self, Manifest};
use crate::digest::Digest;
use crate::error::{Error, Trouble};
use crate::keys::Keys;
use crate::remote::Remote;
use crate::settings::{LARGEST_MANIFEST, Settings, size_words};
use crate::source::Source;
use crate::{http, signatures};

/// What was asked for.
pub struct Fetched {
    /// All of it.
    pub bytes: Vec<u8>,
    /// What who published it called the file.
    pub name: Option<String>,
    /// Of the manifest that led to it.
    pub digest: Option<String>,
    /// What the user should hear.
    pub note: Option<Note>,
}

/// One line about what was fetched, and what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the line above says what they are")]
pub struct Note {
    pub what: &'static str,
    pub advice: &'static str,
}

/// Reads or downloads `source`.
pub fn fetch(source: &Source, settings: &Settings) -> Result<Fetched, Error> {
    let plain = |bytes| Fetched {
        bytes,
        name: None,
        digest: None,
        note: None,
    };
    if let (false, Some(key)) = (matches!(source, Source::Registry(_)), settings.keys.first()) {
        return Err(Error::new(
            key.display().to_string(),
            Trouble::KeyForNothing,
        ));
    }
    match source {
        Source::File(path) => read(path, settings).map(plain),
        Source::Stdin => all("stdin", std::io::stdin().lock(), settings).map(plain),
        Source::Url(url) => crate::block_on(http::fetch(url, settings)).map(plain),
        Source::Registry(reference) => crate::block_on(from_registry(reference, settings)),
    }
}

fn read(path: &Path, settings: &Settings) -> Result<Vec<u8>, Error> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|cause| Error::new(&name, Trouble::Read(cause)))?;
    all(&name, file, settings)
}

fn all(name: &str, source: impl Read, settings: &Settings) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let limit = settings.largest;
    match source.take(limit + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 <= limit => Ok(bytes),
        Ok(_) => Err(Error::new(
            name,
            Trouble::TooLarge {
                limit: size_words(limit),
            },
        )),
        Err(cause) => Err(Error::new(name, Trouble::Read(cause))),
    }
}

/// One look at a repository: what the cache has is not asked for, and the
/// registry is not called before something is.
pub(crate) struct Visit<'a> {
    pub reference: &'a Reference,
    pub settings: &'a Settings,
    pub cache: Cache,
    remote: OnceCell<Remote>,
}

impl Visit<'_> {
    pub async fn remote(&self) -> Result<&Remote, Error> {
        let open = || Remote::open(self.reference, self.settings, RegistryOperation::Pull);
        self.remote.get_or_try_init(open).await
    }

    pub fn error(&self, trouble: Trouble) -> Error {
        Error::new(self.reference.whole(), trouble)
    }

    /// The manifest that `digest` names.
    pub async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.cache.blob(digest, LARGEST_MANIFEST) {
            return Ok(bytes);
        }
        let bytes = self.remote().await?.manifest(&digest.to_string()).await?;
        let bytes = bytes.ok_or_else(|| self.error(Trouble::Unknown))?;
        digest
            .check(&bytes)
            .map_err(|trouble| self.error(trouble))?;
        self.cache.keep_blob(digest, &bytes);
        Ok(bytes)
    }

    /// The blob that `digest` names, of which a manifest says the size.
    pub async fn blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        self.blob_up_to(digest, size, self.settings.largest).await
    }

    /// A blob with a limit of its own.
    pub async fn blob_up_to(
        &self,
        digest: &Digest,
        size: u64,
        largest: u64,
    ) -> Result<Vec<u8>, Error> {
        if size > largest {
            let limit = size_words(largest);
            return Err(self.error(Trouble::TooLarge { limit }));
        }
        if let Some(bytes) = self.cache.blob(digest, largest) {
            return Ok(bytes);
        }
        let bytes = self
            .remote()
            .await?
            .blob(digest, size, largest, self.settings)
            .await?;
        self.cache.keep_blob(digest, &bytes);
        Ok(bytes)
    }
}

async fn from_registry(reference: &Reference, settings: &Settings) -> Result<Fetched, Error> {
    let keys = Keys::load(settings)?;
    let visit = Visit {
        reference,
        settings,
        cache: Cache::new(settings.places.cache.as_deref()),
        remote: OnceCell::new(),
    };
    let digest = match reference.digest() {
        Some(text) => Digest::parse(text).map_err(|trouble| visit.error(trouble))?,
        // A tag means what it means now.
        None => {
            let tag = reference.tag().unwrap_or("latest");
            visit.remote().await?.resolve(tag).await?
        }
    };
    let mut manifest = read_manifest(&visit, &digest).await?;
    let mut image = digest.clone();
    if let Some(chosen) = contents::choose(&manifest) {
        image = chosen.map_err(|trouble| visit.error(trouble))?;
        manifest = read_manifest(&visit, &image).await?;
    }
    let note = signatures::judge(&visit, &keys, &[digest.clone(), image]).await?;
    let (bytes, name) = contents::extract(&visit, &manifest).await?;
    Ok(Fetched {
        bytes,
        name,
        digest: Some(digest.to_string()),
        note,
    })
}

async fn read_manifest(visit: &Visit<'_>, digest: &Digest) -> Result<Manifest, Error> {
    let bytes = visit.manifest(digest).await?;
    Manifest::parse(&bytes).map_err(|trouble| visit.error(trouble))
}
