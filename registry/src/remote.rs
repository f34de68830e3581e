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
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::sync::Mutex;

use crate::credentials::{self, Login};
use crate::digest::Digest;
use crate::error::{Error, Trouble};
use crate::http::{self, Peer};
use crate::settings::{CONNECT, LARGEST_MANIFEST, SILENCE, Settings};
use crate::token::{Auth, Challenge};

/// Everything that may stand behind a name.
const MANIFESTS: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// How long a registry on this machine may take to say whether it speaks TLS.
const LOCAL: Duration = Duration::from_secs(3);

/// How often a blob that breaks off is asked for.
const ATTEMPTS: u32 = 5;

/// A repository, with whatever right we have to it.
pub(crate) struct Remote {
    http: Client,
    pub reference: Reference,
    scheme: &'static str,
    login: Login,
    /// What is asked for in a token.
    scope: String,
    /// Who hands out tokens, if the registry says so at its door.
    challenge: Option<Challenge>,
    /// The token that the registry takes now.
    token: Mutex<Option<String>>,
}

impl Remote {
    /// Connects, and logs in if the registry wants that and we can.
    pub async fn open(
        reference: &Reference,
        settings: &Settings,
        operation: RegistryOperation,
    ) -> Result<Remote, Error> {
        let login = credentials::find(&settings.places, reference.registry())?;
        Remote::open_as(reference, settings, operation, login).await
    }

    /// Connects with this login.
    pub async fn open_as(
        reference: &Reference,
        settings: &Settings,
        operation: RegistryOperation,
        login: Login,
    ) -> Result<Remote, Error> {
        let registry = reference.resolve_registry();
        let error = |trouble| Error::new(reference.whole(), trouble);
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let local = http::is_loopback(host);
        let is_plain = settings.insecure || (local && speaks_plainly(registry).await);
        let peer = if local { Peer::Local } else { Peer::Any };
        let rights = match operation {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "pull,push",
        };
        let mut remote = Remote {
            http: http::client(peer, is_plain).map_err(error)?,
            reference: reference.clone(),
            scheme: if is_plain { "http" } else { "https" },
            login,
            scope: format!("repository:{}:{rights}", reference.repository()),
            challenge: None,
            token: Mutex::new(None),
        };
        remote.challenge = remote.ask_at_the_door().await?;
        if let Some(challenge) = &remote.challenge {
            remote.meet(challenge).await?;
        }
        Ok(remote)
    }

    /// Whether the registry sends us to who hands out tokens (distribution-spec, authentication).
    async fn ask_at_the_door(&self) -> Result<Option<Challenge>, Error> {
        let response = self.http.get(self.door()).send().await;
        let response = response.map_err(|cause| self.error(http::trouble(&cause)))?;
        let challenge = Challenge::of(response.headers()).transpose();
        let challenge = challenge.map_err(|trouble| self.error(trouble))?;
        Ok(challenge.map(Challenge::without_scope))
    }

    fn door(&self) -> String {
        let registry = self.reference.resolve_registry();
        format!("{}://{registry}/v2/", self.scheme)
    }

    /// Gets a token, and shows it from now on.
    async fn meet(&self, challenge: &Challenge) -> Result<(), Error> {
        let token = match &self.login.auth {
            Auth::Bearer(token) => token.clone(),
            auth => {
                let is_safe = self.scheme == "http" || challenge.realm.scheme() == "https";
                if !is_safe && *auth != Auth::Anonymous {
                    let text = format!(
                        "it wants the login sent to {} in plain text",
                        challenge.realm
                    );
                    return Err(self.error(Trouble::Protocol(text)));
                }
                let registry = self.reference.resolve_registry();
                let met = challenge
                    .meet(&self.http, auth, &self.scope, registry)
                    .await;
                met.map_err(|trouble| self.error(self.explained(trouble)))?
            }
        };
        *self.token.lock().await = Some(token);
        Ok(())
    }

    /// A client that pushes, with the same right: for one thing, as tokens are short-lived.
    pub async fn pusher(&self) -> Result<oci_client::Client, Error> {
        if let Some(challenge) = &self.challenge {
            self.meet(challenge).await?;
        }
        let oci = self.oci()?;
        let auth = match (&*self.token.lock().await, &self.login.auth) {
            (Some(token), _) | (None, Auth::Bearer(token)) => RegistryAuth::Bearer(token.clone()),
            (None, Auth::Basic(user, password)) => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            (None, Auth::Anonymous | Auth::Identity(_)) => RegistryAuth::Anonymous,
        };
        let registry = self.reference.resolve_registry();
        oci.store_auth_if_needed(registry, &auth).await;
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

    /// A failure of what pushes.
    pub fn oci_error(&self, cause: &oci_client::errors::OciDistributionError) -> Error {
        self.error(self.trouble(cause))
    }

    /// That the registry lets us in.
    pub async fn check_login(&self) -> Result<(), Error> {
        let no_registry = || Trouble::Protocol("it is no registry (status 404)".to_owned());
        let answer = self.send(Method::GET, &self.door(), &[], 0).await?;
        answer.map(drop).ok_or_else(|| self.error(no_registry()))
    }

    /// The digest of what a tag names now.
    pub async fn resolve(&self, tag: &str) -> Result<Digest, Error> {
        let url = self.url(&format!("manifests/{tag}"));
        let response = self.send(Method::HEAD, &url, &MANIFESTS, 0).await?;
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
        let Some(response) = self.send(Method::GET, &url, &MANIFESTS, 0).await? else {
            return Ok(None);
        };
        self.body(response, LARGEST_MANIFEST).await.map(Some)
    }

    /// What refers to the manifest with this digest, as an index; `None` if
    /// the registry keeps no list.
    pub async fn referrers(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let url = self.url(&format!("referrers/{digest}"));
        match self.send(Method::GET, &url, &[], 0).await? {
            Some(response) => self.body(response, LARGEST_MANIFEST).await.map(Some),
            // Older registries: whoever pushed has written a list under a tag.
            None => self.manifest(&format!("sha256-{}", digest.hex())).await,
        }
    }

    /// A blob of so many bytes, checked. Where it breaks off, it is gone on with.
    pub async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        largest: u64,
        settings: &Settings,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut attempt = 1;
        loop {
            let before = bytes.len();
            let came = self.part(digest, largest, settings, &mut bytes).await;
            let is_all = bytes.len() as u64 >= size;
            let trouble = match came {
                Ok(()) if is_all => break,
                // What breaks off without a word, or has no more than we have.
                Ok(()) | Err(Trouble::Status(416)) => {
                    Trouble::BrokeOff(format!("{} of {size} bytes came", bytes.len()))
                }
                Err(trouble @ (Trouble::BrokeOff(_) | Trouble::Unreachable(_))) => trouble,
                Err(trouble) => return Err(self.error(trouble)),
            };
            if attempt == ATTEMPTS || bytes.len() == before {
                return Err(self.error(trouble));
            }
            attempt += 1;
        }
        digest
            .check(&bytes)
            .map_err(|trouble| self.error(trouble))?;
        Ok(bytes)
    }

    /// What comes of a blob behind what is there.
    async fn part(
        &self,
        digest: &Digest,
        largest: u64,
        settings: &Settings,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let url = self.url(&format!("blobs/{digest}"));
        let from = bytes.len() as u64;
        let response = self.send(Method::GET, &url, &[], from).await;
        let response = response.map_err(|error| error.trouble)?;
        let lost = || Trouble::Protocol(format!("the registry has lost {digest}"));
        let response = response.ok_or_else(lost)?;
        if from > 0 && !goes_on(&response, from) {
            bytes.clear();
        }
        let tell = |came, of| settings.tell(came, of);
        http::body_behind(response, bytes, largest, tell).await
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

    /// The answer from a byte on if it is one; `None` for what does not exist.
    async fn send(
        &self,
        method: Method,
        url: &str,
        accept: &[&str],
        from: u64,
    ) -> Result<Option<Response>, Error> {
        let mut is_new = false;
        loop {
            let mut request = self.http.request(method.clone(), url);
            if !accept.is_empty() {
                request = request.header(ACCEPT, accept.join(", "));
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let shown = match &*self.token.lock().await {
                Some(token) => Auth::Bearer(token.clone()).header(),
                None => self.login.auth.header(),
            };
            if let Some(header) = shown {
                request = request.header(AUTHORIZATION, header);
            }
            let response = request.send().await;
            let response = response.map_err(|cause| self.error(http::trouble(&cause)))?;
            match response.status().as_u16() {
                200..=299 => return Ok(Some(response)),
                404 => return Ok(None),
                // The token is too old, or was not for this; or none had been asked for.
                401 if !is_new => match Challenge::of(response.headers()) {
                    Some(challenge) => {
                        let challenge = challenge.map_err(|trouble| self.error(trouble))?;
                        self.meet(&challenge).await?;
                        is_new = true;
                    }
                    None => return Err(self.error(self.refused(401))),
                },
                status => return Err(self.error(self.refused(status))),
            }
        }
    }

    fn refused(&self, status: u16) -> Trouble {
        let registry = self.reference.resolve_registry().to_owned();
        match (status, &self.login.auth) {
            (401, Auth::Anonymous) => self.explained(Trouble::WantsLogin { registry }),
            (401, _) => Trouble::LoginRefused { registry },
            (403, _) => Trouble::Forbidden { status, registry },
            _ => Trouble::Status(status),
        }
    }

    /// Why there is no login, where somebody thinks that there is.
    fn explained(&self, trouble: Trouble) -> Trouble {
        match (trouble, &self.login.missing) {
            (Trouble::WantsLogin { registry }, Some(why)) => Trouble::NoHelp {
                registry,
                why: why.clone(),
            },
            (trouble, _) => trouble,
        }
    }

    fn trouble(&self, cause: &oci_client::errors::OciDistributionError) -> Trouble {
        use oci_client::errors::OciDistributionError as Cause;
        match cause {
            Cause::RequestError(error) => http::trouble(error),
            Cause::AuthenticationFailure(_) | Cause::UnauthorizedError { .. } => self.refused(401),
            Cause::ServerError { code, .. } => self.refused(*code),
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
}

/// Whether an answer begins at this byte.
fn goes_on(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    // What is no text is no range that we asked for.
    let range = range.and_then(|range| range.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

/// Whether a registry on this machine speaks HTTP without TLS. Servers that
/// want TLS say so, or break off, when they are asked in plain text; others may
/// wait for ever for the end of what they take for a long line, so this order it is.
async fn speaks_plainly(registry: &str) -> bool {
    let Ok(client) = http::client(Peer::Plain, true) else {
        return false;
    };
    let url = format!("http://{registry}/v2/");
    let answer = client.get(url).timeout(LOCAL).send().await;
    answer.is_ok_and(|response| response.status() != StatusCode::BAD_REQUEST)
}

fn said_digest(headers: &HeaderMap) -> Option<Result<Digest, Trouble>> {
    let value = headers.get("Docker-Content-Digest")?;
    let wrong = |_| Trouble::Protocol("its digest is no text".to_owned());
    Some(value.to_str().map_err(wrong).and_then(Digest::parse))
}
