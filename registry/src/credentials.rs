//! Users and passwords for registries, in docker's format: our own file, which
//! alone is written, and docker's and podman's, which are read, with the
//! helpers that they name.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cache::write_by_rename;
use crate::error::{Error, Trouble};
use crate::remote::Remote;
use crate::settings::{Places, Settings};

/// Docker's own registry, under the name that its file has it by.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");

/// What happened to a login.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone {
    /// Another tool's file that still has one.
    pub elsewhere: Option<PathBuf>,
}

/// What opens `registry`, or nothing, for then it is asked without.
pub(crate) fn find(places: &Places, registry: &str) -> Result<RegistryAuth, Error> {
    if let Some(own) = own_file(places)
        && let Some(found) = in_file(&read(&own)?, registry)
    {
        return Ok(found);
    }
    // Files of others that cannot be read are their business.
    let others = places.logins.iter().filter_map(|path| read(path).ok());
    let found = others.filter_map(|file| in_file(&file, registry)).next();
    Ok(found.unwrap_or(RegistryAuth::Anonymous))
}

/// Asks the registry whether it takes user and password, and keeps them.
pub fn login(
    registry: &str,
    user: &str,
    password: &str,
    settings: &Settings,
) -> Result<PathBuf, Error> {
    let registry = bare(registry);
    let path = own_file(&settings.places).ok_or_else(|| Error::new(registry, Trouble::NoHome))?;
    let mut file = read(&path)?;
    crate::block_on(async {
        let text = format!("{registry}/bpftime/login:latest");
        let reference: Reference = text.parse().map_err(|error: oci_client::ParseError| {
            Error::new(registry, Trouble::NotAReference(error.to_string()))
        })?;
        let auth = RegistryAuth::Basic(user.to_owned(), password.to_owned());
        let named = |error: Error| Error::new(registry, error.trouble);
        Remote::open_as(&reference, settings, RegistryOperation::Pull, auth)
            .await
            .map_err(named)?
            .check_login()
            .await
            .map_err(named)
    })?;
    let auth = STANDARD.encode(format!("{user}:{password}"));
    entries(&mut file).insert(registry.to_owned(), json!({ "auth": auth }));
    write(&path, &file)?;
    Ok(path)
}

/// Forgets user and password for a registry.
pub fn logout(registry: &str, places: &Places) -> Result<Gone, Error> {
    let registry = bare(registry);
    let path = own_file(places).ok_or_else(|| Error::new(registry, Trouble::NoHome))?;
    let mut file = read(&path)?;
    let was_there = entries(&mut file).remove(registry).is_some();
    if was_there {
        write(&path, &file)?;
    }
    let has_it = |path: &&PathBuf| read(path).is_ok_and(|file| in_file(&file, registry).is_some());
    let elsewhere = places.logins.iter().find(has_it).cloned();
    match was_there || elsewhere.is_some() {
        true => Ok(Gone { elsewhere }),
        false => Err(Error::new(registry, Trouble::NoLogin)),
    }
}

fn own_file(places: &Places) -> Option<PathBuf> {
    Some(places.config.as_ref()?.join("auth.json"))
}

/// Users copy registries from their browsers.
fn bare(registry: &str) -> &str {
    let rest = registry
        .split_once("://")
        .map_or(registry, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

fn read(path: &Path) -> Result<Map<String, Value>, Error> {
    let error = |trouble| Error::new(path.display().to_string(), trouble);
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(cause) => return Err(error(Trouble::Read(cause))),
    };
    serde_json::from_slice(&bytes)
        .map_err(|cause| error(Trouble::NotCredentials(cause.to_string())))
}

fn write(path: &Path, file: &Map<String, Value>) -> Result<(), Error> {
    let text = format!("{:#}\n", Value::Object(file.clone()));
    write_by_rename(path, text.as_bytes(), 0o600)
        .map_err(|cause| Error::new(path.display().to_string(), Trouble::Write(cause)))
}

/// The logins of a file, made if there are none.
fn entries(file: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let auths = file.entry("auths").or_insert_with(|| json!({}));
    if !auths.is_object() {
        *auths = json!({});
    }
    auths
        .as_object_mut()
        .expect("an object, by the lines above")
}

fn in_file(file: &Map<String, Value>, registry: &str) -> Option<RegistryAuth> {
    let names = names(registry);
    let helper = names
        .iter()
        .find_map(|name| file.get("credHelpers")?.get(name)?.as_str());
    if let Some(found) = helper.and_then(|helper| ask(helper, &names[0])) {
        return Some(found);
    }
    let stored = names
        .iter()
        .find_map(|name| from_entry(file.get("auths")?.get(name)?));
    let store = || file.get("credsStore")?.as_str();
    stored.or_else(|| names.iter().find_map(|name| ask(store()?, name)))
}

/// Under which names files have a registry.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned()];
    names.extend(["", "/", "/v1/", "/v2/"].map(|end| format!("https://{registry}{end}")));
    if registry == DOCKER_HUB.0 {
        names.insert(0, DOCKER_HUB.1.to_owned());
    }
    names
}

fn from_entry(entry: &Value) -> Option<RegistryAuth> {
    let bytes = STANDARD.decode(entry.get("auth")?.as_str()?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker pads what it wrote in older versions.
    let password = password.trim_end_matches('\0');
    Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

/// What a helper of docker's says (`docker-credential-NAME get`).
fn ask(helper: &str, registry: &str) -> Option<RegistryAuth> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    // Nobody's file makes us run anything but a helper on the path.
    if helper.contains('/') {
        return None;
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(registry.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let answer: Answer = serde_json::from_slice(&output.stdout).ok()?;
    // Tokens of identity would have to be exchanged first.
    let usable = output.status.success() && answer.username != "<token>";
    usable.then_some(RegistryAuth::Basic(answer.username, answer.secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str) -> Option<(String, String)> {
        let file = serde_json::from_str(text).expect("JSON");
        match in_file(&file, registry)? {
            RegistryAuth::Basic(user, password) => Some((user, password)),
            _ => None,
        }
    }

    #[test]
    fn logins_are_found_as_docker_writes_them() {
        // me:secret:x and hub:key
        let text = r#"{"auths": {"r:5000": {"auth": "bWU6c2VjcmV0Ong="},
            "https://index.docker.io/v1/": {"auth": "aHViOmtleQ=="}, "empty": {}}}"#;
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(found(text, "r:5000"), pair("me", "secret:x"));
        assert_eq!(found(text, "docker.io"), pair("hub", "key"));
        assert_eq!(found(text, "empty"), None);
        assert_eq!(found(text, "other"), None);
        assert_eq!(found(r#"{"auths": []}"#, "r:5000"), None);
        assert_eq!(found(r#"{"credsStore": "no-such-helper"}"#, "r"), None);
        assert_eq!(
            found(r#"{"credHelpers": {"r": "../../bin/sh"}}"#, "r"),
            None
        );
    }

    #[test]
    fn registries_are_named_without_scheme() {
        assert_eq!(bare("https://ghcr.io/"), "ghcr.io");
        assert_eq!(bare("localhost:5000"), "localhost:5000");
    }
}
