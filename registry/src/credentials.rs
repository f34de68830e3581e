//! Users and passwords for registries, in docker's format: our own file, which
//! alone is written, and docker's and podman's, which are read, with the
//! helpers that they name.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::{Reference, RegistryOperation};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cache::write_by_rename;
use crate::error::{Error, Trouble, plain};
use crate::remote::Remote;
use crate::settings::{Places, Settings};
use crate::token::Auth;

/// Docker's own registry, under the name that its file has it by.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");

/// What happened to a login.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone {
    /// Another tool's file that still has one.
    pub elsewhere: Option<PathBuf>,
}

/// What opens a registry.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    /// Without one, it is asked all the same.
    pub auth: Auth,
    /// Why there is none, where a file says that there is.
    pub missing: Option<String>,
}

impl From<Auth> for Login {
    fn from(auth: Auth) -> Login {
        Login {
            auth,
            missing: None,
        }
    }
}

/// What opens `registry`, or nothing, for then it is asked without. What is
/// wrong with files and helpers of others is said when it is missed.
pub(crate) fn find(places: &Places, registry: &str) -> Result<Login, Error> {
    let mut missing = None;
    if let Some(own) = own_file(places) {
        match in_file(&read(&own)?, registry) {
            Ok(Some(auth)) => return Ok(auth.into()),
            Ok(None) => {}
            Err(what) => missing = Some(what),
        }
    }
    for path in &places.logins {
        let file = read(path).map_err(|error| error.to_string());
        match file.and_then(|file| in_file(&file, registry)) {
            Ok(Some(auth)) => return Ok(auth.into()),
            Ok(None) => {}
            Err(what) => missing = missing.or(Some(what)),
        }
    }
    Ok(Login {
        auth: Auth::Anonymous,
        missing,
    })
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
        let auth = Auth::Basic(user.to_owned(), password.to_owned());
        let named = |error: Error| Error::new(registry, error.trouble);
        Remote::open_as(&reference, settings, RegistryOperation::Pull, auth.into())
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
    // A file that cannot be read, or a helper that does not run, opens nothing.
    let has_it = |path: &&PathBuf| {
        read(path).is_ok_and(|file| matches!(in_file(&file, registry), Ok(Some(_))))
    };
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

/// What a file has for a registry, or says who has it; else what is wrong with that.
fn in_file(file: &Map<String, Value>, registry: &str) -> Result<Option<Auth>, String> {
    let names = names(registry);
    let helper = names
        .iter()
        .find_map(|name| file.get("credHelpers")?.get(name)?.as_str());
    if let Some(helper) = helper
        && let Some(found) = ask(helper, &names[0])?
    {
        return Ok(Some(found));
    }
    for name in &names {
        if let Some(entry) = file.get("auths").and_then(|auths| auths.get(name))
            && let Some(found) = from_entry(entry, registry)?
        {
            return Ok(Some(found));
        }
    }
    let Some(store) = file.get("credsStore").and_then(Value::as_str) else {
        return Ok(None);
    };
    for name in &names {
        if let Some(found) = ask(store, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
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

/// An entry as docker, podman and Kubernetes write it; one that is empty says
/// that a helper has it.
fn from_entry(entry: &Value, registry: &str) -> Result<Option<Auth>, String> {
    let text = |field: &str| {
        let text = entry.get(field).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Auth::Identity(token)));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Auth::Bearer(token)));
    }
    let Some(pair) = text("auth") else {
        let both = text("username").zip(text("password"));
        return Ok(both.map(|(user, password)| Auth::Basic(user, password)));
    };
    let bytes = STANDARD.decode(pair.trim()).ok();
    let pair = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
    let (user, password) =
        pair.ok_or_else(|| format!("the login kept for {registry} is damaged"))?;
    // Docker pads what it wrote in older versions.
    let password = password.trim_end_matches('\0');
    Ok(Some(Auth::Basic(user.to_owned(), password.to_owned())))
}

/// What a helper of docker's says (`docker-credential-NAME get`).
fn ask(helper: &str, registry: &str) -> Result<Option<Auth>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let name = format!("docker-credential-{helper}");
    let failed = |why: &str| format!("{name} gives none ({why})");
    // Nobody's file makes us run anything but a helper on the path.
    if helper.contains('/') {
        return Err(failed("no name of a helper"));
    }
    let child = Command::new(&name)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| failed(&plain(&error)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it has its answer already.
        drop(stdin.write_all(registry.as_bytes()));
    }
    let output = child.wait_with_output();
    let output = output.map_err(|error| failed(&plain(&error)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        // The words by which all of them say that they have no such login.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let line = said.lines().next().unwrap_or_default().trim();
        let status = output.status.to_string();
        return Err(failed(if line.is_empty() { &status } else { line }));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(&format!("its answer is damaged: {error}")))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Auth::Identity(answer.secret),
        _ => Auth::Basic(answer.username, answer.secret),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str) -> Result<Option<Auth>, String> {
        let file = serde_json::from_str(text).expect("JSON");
        in_file(&file, registry)
    }

    #[test]
    fn logins_are_found_as_docker_writes_them() {
        // me:secret:x and hub:key
        let text = r#"{"auths": {"r:5000": {"auth": "bWU6c2VjcmV0Ong="},
            "https://index.docker.io/v1/": {"auth": "aHViOmtleQ=="}, "empty": {}}}"#;
        let pair = |user: &str, password: &str| {
            Ok(Some(Auth::Basic(user.to_owned(), password.to_owned())))
        };
        assert_eq!(found(text, "r:5000"), pair("me", "secret:x"));
        assert_eq!(found(text, "docker.io"), pair("hub", "key"));
        assert_eq!(found(text, "empty"), Ok(None));
        assert_eq!(found(text, "other"), Ok(None));
        assert_eq!(found(r#"{"auths": []}"#, "r:5000"), Ok(None));
        let entry = |entry: &str| found(&format!(r#"{{"auths": {{"r": {entry}}}}}"#), "r");
        assert_eq!(
            entry(r#"{"username": "me", "password": "x"}"#),
            pair("me", "x")
        );
        let token = entry(r#"{"auth": "bWU6", "identitytoken": "long"}"#);
        assert_eq!(token, Ok(Some(Auth::Identity("long".to_owned()))));
        let token = entry(r#"{"registrytoken": "short"}"#);
        assert_eq!(token, Ok(Some(Auth::Bearer("short".to_owned()))));
        let damaged = Err("the login kept for r is damaged".to_owned());
        assert_eq!(entry(r#"{"auth": "!"}"#), damaged);
    }

    #[test]
    fn helpers_that_cannot_be_asked_are_named() {
        let none = "docker-credential-no-such gives none (No such file or directory)";
        assert_eq!(
            found(r#"{"credsStore": "no-such"}"#, "r"),
            Err(none.to_owned())
        );
        let path = r#"{"credHelpers": {"r": "../../bin/sh"}}"#;
        let none = "docker-credential-../../bin/sh gives none (no name of a helper)";
        assert_eq!(found(path, "r"), Err(none.to_owned()));
        assert_eq!(found(path, "other"), Ok(None));
    }

    #[test]
    fn registries_are_named_without_scheme() {
        assert_eq!(bare("https://ghcr.io/"), "ghcr.io");
        assert_eq!(bare("localhost:5000"), "localhost:5000");
    }
}
