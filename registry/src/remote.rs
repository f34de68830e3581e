//! One repository of a registry: manifests, blobs, who refers to what. Every
//! answer is bounded, and checked against its digest where it has one.

use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{ACCEPT, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode};

use crate::credentials;
use crate::digest::Digest;
use crate::error::{Error, Trouble};
use crate::http::{self, Peer};
use crate::settings::{CONNECT, LARGEST_MANIFEST, SILENCE, Settings};

/// Everything that may stand behind a name.
const MANIFESTS: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// How long a registry on this machine may take to say whether it speaks TLS.
const LOCAL: Duration = Duration::from_secs(3);

/// How such a challenge begins.
const BEARER: &[u8] = b"bearer ";

/// A repository, with whatever right we have to it.
pub(crate) struct Remote {
    http: Client,
    pub reference: Reference,
    scheme: &'static str,
    auth: RegistryAuth,
}

impl Remote {
    /// Connects, and logs in if the registry wants that and we can.
    pub async fn open(
        reference: &Reference,
        settings: &Settings,
        operation: RegistryOperation,
    ) -> Result<Remote, Error> {
        let auth = credentials::find(&settings.places, reference.registry())?;
        Remote::open_as(reference, settings, operation, auth).await
    }

    /// Connects with these credentials.
    pub async fn open_as(
        reference: &Reference,
        settings: &Settings,
        operation: RegistryOperation,
        auth: RegistryAuth,
    ) -> Result<Remote, Error> {
        let registry = reference.resolve_registry();
        let error = |trouble| Error::new(reference.whole(), trouble);
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let local = http::is_loopback(host);
        let is_plain = settings.insecure || (local && speaks_plainly(registry).await);
        let peer = if local { Peer::Local } else { Peer::Any };
        let mut remote = Remote {
            http: http::client(peer).map_err(error)?,
            reference: reference.clone(),
            scheme: if is_plain { "http" } else { "https" },
            auth,
        };
        if remote.wants_a_token().await? {
            let oci = remote.oci()?;
            let token = oci.auth(reference, &remote.auth, operation).await;
            let token = token.map_err(|cause| remote.oci_error(&cause))?;
            remote.auth = token.map_or(remote.auth, RegistryAuth::Bearer);
        }
        Ok(remote)
    }

    /// Whether the registry sends us to who hands out tokens (distribution-spec, authentication).
    async fn wants_a_token(&self) -> Result<bool, Error> {
        let url = format!(
            "{}://{}/v2/",
            self.scheme,
            self.reference.resolve_registry()
        );
        let response = self.http.get(url).send().await;
        let response = response.map_err(|cause| self.error(http::trouble(&cause)))?;
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        Ok(challenges.iter().any(|challenge| {
            let kind = challenge.as_bytes().get(..BEARER.len());
            kind.is_some_and(|kind| kind.eq_ignore_ascii_case(BEARER))
        }))
    }

    /// A client that pushes, with the same right.
    pub async fn pusher(&self) -> Result<oci_client::Client, Error> {
        let oci = self.oci()?;
        let registry = self.reference.resolve_registry();
        oci.store_auth_if_needed(registry, &self.auth).await;
        Ok(oci)
    }

    fn oci(&self) -> Result<oci_client::Client, Error> {
        let config = ClientConfig {
            protocol: match self.scheme {
                "http" => ClientProtocol::Http,
                _ => ClientProtocol::Https,
            },
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT),
            user_agent: http::USER_AGENT,
            ..ClientConfig::default()
        };
        oci_client::Client::try_from(config).map_err(|cause| self.oci_error(&cause))
    }

    fn error(&self, trouble: Trouble) -> Error {
        Error::new(self.reference.whole(), trouble)
    }

    /// A failure of what hands out tokens, or pushes.
    pub fn oci_error(&self, cause: &oci_client::errors::OciDistributionError) -> Error {
        self.error(trouble(
            cause,
            self.reference.resolve_registry(),
            &self.auth,
        ))
    }

    /// That the registry lets us in.
    pub async fn check_login(&self) -> Result<(), Error> {
        let url = format!(
            "{}://{}/v2/",
            self.scheme,
            self.reference.resolve_registry()
        );
        self.send(Method::GET, &url, &[]).await?.ok_or_else(|| {
            self.error(Trouble::Protocol(
                "it is no registry (status 404)".to_owned(),
            ))
        })?;
        Ok(())
    }

    /// The digest of what a tag names now.
    pub async fn resolve(&self, tag: &str) -> Result<Digest, Error> {
        let url = self.url(&format!("manifests/{tag}"));
        let response = self.send(Method::HEAD, &url, &MANIFESTS).await?;
        let response = response.ok_or_else(|| self.error(Trouble::Unknown))?;
        if let Some(digest) = said_digest(response.headers()) {
            return digest.map_err(|trouble| self.error(trouble));
        }
        let bytes = self.manifest(tag).await?;
        let bytes = bytes.ok_or_else(|| self.error(Trouble::Unknown))?;
        Ok(Digest::of(&bytes))
    }

    /// The manifest under a tag or digest; `None` if there is none.
    pub async fn manifest(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let url = self.url(&format!("manifests/{name}"));
        let Some(response) = self.send(Method::GET, &url, &MANIFESTS).await? else {
            return Ok(None);
        };
        self.body(response, LARGEST_MANIFEST).await.map(Some)
    }

    /// What refers to the manifest with this digest, as an index; `None` if
    /// the registry keeps no list.
    pub async fn referrers(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let url = self.url(&format!("referrers/{digest}"));
        match self.send(Method::GET, &url, &[]).await? {
            Some(response) => self.body(response, LARGEST_MANIFEST).await.map(Some),
            // Older registries: whoever pushed has written a list under a tag.
            None => self.manifest(&format!("sha256-{}", digest.hex())).await,
        }
    }

    /// A blob, checked.
    pub async fn blob(
        &self,
        digest: &Digest,
        largest: u64,
        settings: &Settings,
    ) -> Result<Vec<u8>, Error> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.send(Method::GET, &url, &[]).await?;
        let response = response.ok_or_else(|| {
            self.error(Trouble::Protocol(format!("the registry has lost {digest}")))
        })?;
        let bytes = http::body(response, largest, |came, of| settings.tell(came, of))
            .await
            .map_err(|trouble| self.error(trouble))?;
        digest
            .check(&bytes)
            .map_err(|trouble| self.error(trouble))?;
        Ok(bytes)
    }

    async fn body(&self, response: Response, limit: u64) -> Result<Vec<u8>, Error> {
        http::body(response, limit, |_, _| {})
            .await
            .map_err(|trouble| self.error(trouble))
    }

    fn url(&self, rest: &str) -> String {
        let registry = self.reference.resolve_registry();
        let repository = self.reference.repository();
        format!("{}://{registry}/v2/{repository}/{rest}", self.scheme)
    }

    /// The answer if it is one; `None` for what does not exist.
    async fn send(
        &self,
        method: Method,
        url: &str,
        accept: &[&str],
    ) -> Result<Option<Response>, Error> {
        let mut request = self.http.request(method, url);
        if !accept.is_empty() {
            request = request.header(ACCEPT, accept.join(", "));
        }
        let request = match &self.auth {
            RegistryAuth::Anonymous => request,
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
            RegistryAuth::Bearer(token) => request.bearer_auth(token),
        };
        let response = request.send().await;
        let response = response.map_err(|cause| self.error(http::trouble(&cause)))?;
        let registry = self.reference.resolve_registry();
        match response.status().as_u16() {
            200..=299 => Ok(Some(response)),
            404 => Ok(None),
            status => Err(self.error(refused(status, registry, &self.auth))),
        }
    }
}

/// Whether a registry on this machine speaks HTTP without TLS. Servers that
/// want TLS say so, or break off, when they are asked in plain text; others may
/// wait for ever for the end of what they take for a long line, so this order it is.
async fn speaks_plainly(registry: &str) -> bool {
    let Ok(client) = http::client(Peer::Plain) else {
        return false;
    };
    let url = format!("http://{registry}/v2/");
    let answer = client.get(url).timeout(LOCAL).send().await;
    answer.is_ok_and(|response| response.status() != StatusCode::BAD_REQUEST)
}

fn said_digest(headers: &HeaderMap) -> Option<Result<Digest, Trouble>> {
    let value = headers.get("Docker-Content-Digest")?.to_str().ok()?;
    Some(Digest::parse(value))
}

fn refused(status: u16, registry: &str, auth: &RegistryAuth) -> Trouble {
    let registry = registry.to_owned();
    match (status, auth) {
        (401, RegistryAuth::Basic(..)) => Trouble::LoginRefused { registry },
        (401, _) => Trouble::WantsLogin { registry },
        (403, _) => Trouble::Forbidden { status, registry },
        _ => Trouble::Status(status),
    }
}

fn trouble(
    cause: &oci_client::errors::OciDistributionError,
    registry: &str,
    auth: &RegistryAuth,
) -> Trouble {
    use oci_client::errors::OciDistributionError as Cause;
    match cause {
        Cause::RequestError(error) => http::trouble(error),
        Cause::AuthenticationFailure(_) | Cause::UnauthorizedError { .. } => {
            refused(401, registry, auth)
        }
        Cause::ServerError { code, .. } => refused(*code, registry, auth),
        Cause::RegistryError { envelope, .. } => {
            let said: Vec<String> = envelope
                .errors
                .iter()
                .map(|error| error.message.clone())
                .collect();
            Trouble::Protocol(format!("the registry refuses: {}", said.join("; ")))
        }
        other => Trouble::Protocol(other.to_string()),
    }
}
