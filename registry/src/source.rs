//! What a user's word means: a file, stdin, a URL or a reference into a
//! registry, guessed in this order. Only the file system is asked.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use oci_client::Reference;
use reqwest::Url;

use crate::error::{Error, Trouble};

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// What is written to our stdin.
    Stdin,
    /// A file on a web server.
    Url(Url),
    /// A name in a registry.
    Registry(Reference),
}

/// Endings that nobody gives to a repository.
const FILE_ENDINGS: [&str; 7] = [".o", ".wasm", ".json", ".tar", ".gz", ".zst", ".c"];

impl Source {
    /// What `word` means.
    pub fn guess(word: &OsStr) -> Result<Source, Error> {
        if word == "-" {
            return Ok(Source::Stdin);
        }
        let path = Path::new(word);
        if path.exists() {
            return Ok(Source::File(path.to_owned()));
        }
        let error = |trouble| Error::new(path.to_string_lossy(), trouble);
        let Some(text) = word.to_str() else {
            return Err(error(Trouble::NoFile));
        };
        if let Some(rest) = text.strip_prefix("oci://") {
            return reference(rest).map(Source::Registry).map_err(error);
        }
        if text.contains("://") {
            return url(text).map_err(error);
        }
        if looks_like_a_path(text) {
            return Err(error(Trouble::NoFile));
        }
        if !names_a_registry(text) {
            return Err(error(Trouble::NoRegistry));
        }
        reference(text).map(Source::Registry).map_err(error)
    }
}

/// A reference as `push` and `pull` take it: nothing else can be meant.
pub(crate) fn explicit_reference(text: &str) -> Result<Reference, Error> {
    let rest = text.strip_prefix("oci://").unwrap_or(text);
    let trouble = match names_a_registry(rest) || rest.len() < text.len() {
        true => match reference(rest) {
            Ok(reference) => return Ok(reference),
            Err(trouble) => trouble,
        },
        false => Trouble::NotAReference("no registry in front".to_owned()),
    };
    Err(Error::new(text, trouble))
}

fn url(text: &str) -> Result<Source, Trouble> {
    let url = Url::parse(text).map_err(|error| Trouble::NotAUrl(error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(Source::Url(url)),
        "file" => match url.to_file_path() {
            Ok(path) if path.exists() => Ok(Source::File(path)),
            Ok(_) => Err(Trouble::NoFile),
            Err(()) => Err(Trouble::NotAUrl("a file of another machine".to_owned())),
        },
        other => Err(Trouble::NotAUrl(format!("scheme {other}"))),
    }
}

fn reference(text: &str) -> Result<Reference, Trouble> {
    text.parse()
        .map_err(|error: oci_client::ParseError| Trouble::NotAReference(error.to_string()))
}

fn looks_like_a_path(text: &str) -> bool {
    let start = ["/", "./", "../", "~"].iter().any(|s| text.starts_with(s));
    start || FILE_ENDINGS.iter().any(|ending| text.ends_with(ending))
}

/// As docker tells registries from users of its own: by a dot, a port, or the
/// name `localhost`. A typing error must not ask any registry for a program.
fn names_a_registry(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, rest)| {
        !rest.is_empty() && (first.contains(['.', ':']) || first == "localhost")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(word: &str) -> String {
        match Source::guess(OsStr::new(word)) {
            Ok(Source::File(path)) => format!("file {}", path.display()),
            Ok(Source::Stdin) => "stdin".to_owned(),
            Ok(Source::Url(url)) => format!("url {url}"),
            Ok(Source::Registry(reference)) => format!("registry {}", reference.whole()),
            Err(error) => format!("{}", error.trouble),
        }
    }

    #[test]
    fn words_mean_what_users_mean() {
        for (word, meaning) in [
            ("-", "stdin"),
            ("/dev/null", "file /dev/null"),
            ("file:///dev/null", "file /dev/null"),
            ("https://a.b/c.wasm", "url https://a.b/c.wasm"),
            ("localhost:5000/a/b:1", "registry localhost:5000/a/b:1"),
            ("ghcr.io/a/b", "registry ghcr.io/a/b:latest"),
            ("oci://localhost/b", "registry localhost/b:latest"),
            ("file:///no/such", "no such file"),
            ("./no", "no such file"),
            ("ghcr.io/a/b.wasm", "no such file"),
            ("tool", "no such file, and no registry in front of it"),
            (
                "user/tool:1",
                "no such file, and no registry in front of it",
            ),
            ("ftp://a/b", "is no URL that can be fetched (scheme ftp)"),
            (
                "file://elsewhere/b",
                "is no URL that can be fetched (a file of another machine)",
            ),
        ] {
            assert_eq!(told(word), meaning, "{word}");
        }
        assert!(told("ghcr.io/A:1").starts_with("is no reference ("));
    }
}
