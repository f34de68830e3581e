//! What can go wrong on the way, in a user's words: to whom, what, and what
//! to do about it.

use std::io;

/// A failure, and whom it concerns: a reference, a URL, a file.
#[derive(Debug, thiserror::Error)]
#[error("{who}: {trouble}")]
pub struct Error {
    /// The name as the user knows it.
    pub who: String,
    /// What happened.
    #[source]
    pub trouble: Trouble,
}

impl Error {
    /// `who` had this trouble.
    pub fn new(who: impl Into<String>, trouble: Trouble) -> Error {
        Error {
            who: who.into(),
            trouble,
        }
    }
}

/// What happened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum Trouble {
    #[error("no such file")]
    NoFile,
    #[error("no such file, and no registry in front of it")]
    NoRegistry,
    #[error("is no reference ({0})")]
    NotAReference(String),
    #[error("is no URL that can be fetched ({0})")]
    NotAUrl(String),
    #[error("cannot be reached ({0})")]
    Unreachable(String),
    #[error("its certificate is not accepted ({0})")]
    Certificate(String),
    #[error("no certificates of authorities are here to check it by")]
    NoAuthorities,
    #[error("the connection broke off ({0})")]
    BrokeOff(String),
    #[error("the registry wants a login")]
    WantsLogin { registry: String },
    #[error("the registry wants a login, and {why}")]
    NoHelp { registry: String, why: String },
    #[error("the registry does not accept the login")]
    LoginRefused { registry: String },
    #[error("the registry forbids it (status {status})")]
    Forbidden { status: u16, registry: String },
    #[error("the registry has no such name or tag")]
    Unknown,
    #[error("there is no such file on the server (status {0})")]
    NotOnServer(u16),
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("{0}")]
    Protocol(String),
    #[error("what came is not what was asked for (wanted {wanted}, got {got})")]
    WrongDigest { wanted: String, got: String },
    #[error("is larger than {limit}")]
    TooLarge { limit: String },
    #[error("has nothing that can be run in it")]
    Nothing,
    #[error("has several files that could be run ({0})")]
    Several(String),
    #[error("is nothing that can be run or pushed")]
    UnknownKind,
    #[error("is not signed")]
    Unsigned,
    #[error("is not signed by any of your keys ({0})")]
    WrongKey(String),
    #[error("is signed by certificates alone (keyless), not by any of your keys ({0})")]
    Keyless(String),
    #[error("its signatures cannot be fetched ({0})")]
    NoSignatures(String),
    #[error("is no public key ({0})")]
    NotAKey(String),
    #[error("checks signatures in registries only")]
    KeyForNothing,
    #[error("is not a list of logins ({0})")]
    NotCredentials(String),
    #[error("there is no login")]
    NoLogin,
    #[error("no home directory to keep it in")]
    NoHome,
    #[error("cannot be read ({})", plain(.0))]
    Read(io::Error),
    #[error("cannot be written ({})", plain(.0))]
    Write(io::Error),
    #[error("failed ({})", plain(.0))]
    Io(io::Error),
}

/// An error's text without the number that only programs know.
pub(crate) fn plain(error: &dyn std::fmt::Display) -> String {
    let mut text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.truncate(end);
    text
}

impl Trouble {
    /// What the user can do.
    pub fn advice(&self) -> String {
        let fixed = match self {
            Trouble::NoFile => "check the path",
            Trouble::NoRegistry => "check the path, or write REGISTRY/NAME:TAG",
            Trouble::NotAReference(_) => "write REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST",
            Trouble::NotAUrl(_) => "write http://…, https://… or file:///…",
            Trouble::Unreachable(_) => "check the name and the network",
            Trouble::Certificate(_) => {
                "name its authority by SSL_CERT_FILE, or use --insecure if it speaks plain HTTP"
            }
            Trouble::NoAuthorities => {
                "install ca-certificates, or name a file with them by SSL_CERT_FILE"
            }
            Trouble::BrokeOff(_) => "try again",
            Trouble::WantsLogin { registry }
            | Trouble::NoHelp { registry, .. }
            | Trouble::LoginRefused { registry } => {
                return format!("bpftime login {registry}");
            }
            Trouble::Forbidden { registry, .. } => {
                return format!("bpftime login {registry} as a user who may");
            }
            Trouble::Unknown | Trouble::NotOnServer(_) => "check how it is written",
            Trouble::Status(_) => "try again later",
            Trouble::Protocol(_) => "ask who runs the registry",
            Trouble::WrongDigest { .. } => "do not trust it; ask who published it",
            Trouble::TooLarge { .. } => "--max-size allows more",
            Trouble::Nothing => "push a Wasm module, an eBPF object or a JSON package",
            Trouble::Several(_) => "push the one that is meant",
            Trouble::UnknownKind => "name a Wasm module, an eBPF object or a package",
            Trouble::Unsigned => "ask who published it, or leave out --key",
            Trouble::WrongKey(_) => "do not run it; ask who published it",
            Trouble::Keyless(_) => "check it by cosign verify, or ask for a signature by a key",
            Trouble::NoSignatures(_) => "try again, or leave out the keys",
            Trouble::NotAKey(_) => "name a file that begins with -----BEGIN PUBLIC KEY-----",
            Trouble::KeyForNothing => "leave out --key, or push to a registry and sign there",
            Trouble::NotCredentials(_) => "mend it or remove it",
            Trouble::NoLogin => "nothing was changed",
            Trouble::NoHome => "set HOME",
            Trouble::Read(_) | Trouble::Write(_) | Trouble::Io(_) => "check path, rights and space",
        };
        fixed.to_owned()
    }
}
