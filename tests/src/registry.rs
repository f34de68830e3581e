//! A registry of one test's own on a free port of this machine (Debian's
//! docker-registry), and a client that knows nothing but its protocol, for
//! what `bpftime push` does not write.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `me:secret`, as `htpasswd -nbB me secret` writes it.
const HTPASSWD: &str = "me:$2b$04$9x0VqTt1B6kPMiedPY079OI56B0TrIGfW42ACeU9dnwIcou.PZh7C\n";

/// The registry; it ends with this.
pub struct Registry {
    child: Child,
    dir: TempDir,
    /// `localhost:PORT`.
    pub name: String,
}

impl Registry {
    /// One that everybody may use.
    ///
    /// # Panics
    /// If it does not start.
    pub fn open() -> Registry {
        Registry::start("", "")
    }

    /// One that only `me` with `secret` may use.
    ///
    /// # Panics
    /// As [`Registry::open`].
    pub fn guarded() -> Registry {
        Registry::start("auth: {htpasswd: {realm: test, path: DIR/htpasswd}}", "")
    }

    /// One that wants tokens, which are handed out at `realm` for the service `test`
    /// and signed by `signer`.
    ///
    /// # Panics
    /// As [`Registry::open`].
    pub fn with_tokens(realm: &str, signer: &Signer) -> Registry {
        let auth = format!(
            "auth: {{token: {{realm: \"{realm}\", service: test, issuer: test, rootcertbundle: {}}}}}",
            signer.dir.path().join("cert").display()
        );
        Registry::start(&auth, "")
    }

    /// One that speaks TLS with a certificate that nobody knows but by [`Registry::authority`].
    ///
    /// # Panics
    /// As [`Registry::open`].
    pub fn with_tls() -> Registry {
        Registry::start("", ", tls: {certificate: DIR/cert, key: DIR/key}")
    }

    fn start(auth: &str, tls: &str) -> Registry {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("a path of ours");
        fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("a file");
        if !tls.is_empty() {
            make_certificate(&dir);
        }
        let config = format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: DIR/data}}}}\n\
             http: {{addr: \"127.0.0.1:0\"{tls}}}\n{auth}\n"
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config.replace("DIR", path)).expect("a file");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry; `make deps` installs it");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            let read = log.read_line(&mut line).expect("its log");
            assert_ne!(read, 0, "docker-registry did not start");
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
                break digits.expect("a port").to_owned();
            }
        };
        // A full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry {
            child,
            dir,
            name: format!("localhost:{port}"),
        }
    }

    /// The certificate of who signed the one that it shows.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("authority")
    }

    /// Ends it.
    pub fn stop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Replaces a blob in its storage, so that it hands out what it should not.
    ///
    /// # Panics
    /// If it has no such blob.
    pub fn damage(&self, digest: &str, bytes: &[u8]) {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let blob = format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        );
        let path = self.dir.path().join(blob);
        assert!(path.exists(), "{}", path.display());
        fs::write(path, bytes).expect("a blob");
    }

    /// Puts a blob into `repository`; what a manifest says of it.
    ///
    /// # Panics
    /// If the registry does not take it.
    pub fn blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        let place = begun.get("location").expect("a place to upload to");
        let path = place.splitn(4, '/').nth(3).expect("a path");
        let mark = if path.contains('?') { '&' } else { '?' };
        let answer = self.request("PUT", &format!("/{path}{mark}digest={digest}"), "", bytes);
        assert_eq!(answer["status"], "201");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Puts a manifest under `tag`; its digest.
    ///
    /// # Panics
    /// If the registry does not take it.
    pub fn manifest(&self, repository: &str, tag: &str, manifest: &Value) -> String {
        let media_type = manifest["mediaType"].as_str().expect("a media type");
        let bytes = manifest.to_string().into_bytes();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.request("PUT", &path, media_type, &bytes);
        assert_eq!(answer["status"], "201", "{tag}: {manifest}");
        sha256(&bytes)
    }

    /// The manifest under `tag`.
    ///
    /// # Panics
    /// If there is none.
    pub fn read(&self, repository: &str, tag: &str) -> Value {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.request("GET", &path, "", b"");
        assert_eq!(answer["status"], "200");
        serde_json::from_str(&answer["body"]).expect("JSON")
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> HashMap<String, String> {
        let address = self.name.replace("localhost", "127.0.0.1");
        let mut stream = TcpStream::connect(address).expect("the registry");
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: {content_type}\r\n\
             Accept: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\n\r\n",
            self.name,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("a request");
        stream.write_all(body).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let mut found: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        found.insert("status".to_owned(), status.expect("a status").to_owned());
        found.insert("body".to_owned(), body.to_owned());
        found
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Who signs tokens for a registry.
pub struct Signer {
    dir: TempDir,
}

impl Default for Signer {
    fn default() -> Signer {
        Signer::new()
    }
}

impl Signer {
    /// With a key of its own.
    ///
    /// # Panics
    /// If openssl makes none.
    pub fn new() -> Signer {
        let dir = tempfile::tempdir().expect("a directory");
        let words =
            "req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=test";
        openssl(&dir, words.split(' '));
        openssl(&dir, "x509 -in cert -outform DER -out der".split(' '));
        Signer { dir }
    }

    /// A token (RFC 7519) with which somebody may do this with a repository for a minute.
    ///
    /// # Panics
    /// If openssl does not sign it.
    pub fn token(&self, repository: &str, actions: &[&str]) -> String {
        let read = |name: &str| fs::read(self.dir.path().join(name)).expect("a file");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("the time")
            .as_secs();
        let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(read("der"))] });
        let claims = json!({
            "iss": "test", "sub": "me", "aud": "test", "jti": now.to_string(),
            "iat": now, "nbf": now - 60, "exp": now + 60,
            "access": [{ "type": "repository", "name": repository, "actions": actions }],
        });
        let parts = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = parts.join(".");
        // Several tokens may be signed at once.
        let own = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        fs::write(own.path().join("message"), &message).expect("a file");
        openssl(
            &own,
            "dgst -sha256 -sign ../key -out signature message".split(' '),
        );
        let signature = fs::read(own.path().join("signature")).expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn make_certificate(dir: &TempDir) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    let extension = "subjectAltName=DNS:localhost";
    fs::write(dir.path().join("names"), extension).expect("a file");
    for words in [
        format!("req -x509 {key} authority.key -out authority -days 2 -subj /CN=authority"),
        format!("req -new {key} key -out request -subj /CN=localhost"),
        "x509 -req -in request -CA authority -CAkey authority.key -CAcreateserial -days 2 \
         -extfile names -out cert"
            .to_owned(),
    ] {
        openssl(dir, words.split_whitespace());
    }
}

/// Runs openssl in a directory.
///
/// # Panics
/// If it fails.
pub fn openssl<'a>(dir: &TempDir, words: impl IntoIterator<Item = &'a str>) {
    let output = Command::new("openssl")
        .args(words)
        .current_dir(dir)
        .output();
    let output = output.expect("openssl");
    assert!(output.status.success(), "{output:?}");
}

/// The digest of bytes, by sha256sum(1).
///
/// # Panics
/// If that does not run.
pub fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(bytes).expect("its stdin");
    drop(stdin);
    let output = child.wait_with_output().expect("its output").stdout;
    let hex = String::from_utf8_lossy(&output[..64]).into_owned();
    format!("sha256:{hex}")
}
