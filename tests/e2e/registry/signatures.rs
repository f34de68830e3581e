//! Signatures as cosign writes them, made here by openssl: by a key of the
//! user's, by somebody's, of something else, and none.

use std::fs;

use bpftime_tests::registry::openssl;
use bpftime_tests::{Program, Registry, World};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MANIFEST, MODULE, file, line, push, refused};

const NOTE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A directory with the keys `mine` and `other`.
fn keys() -> TempDir {
    let dir = TempDir::new().expect("a directory");
    for name in ["mine", "other"] {
        let made = format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}");
        openssl(&dir, made.split(' '));
        openssl(
            &dir,
            format!("pkey -in {name} -pubout -out {name}.pub").split(' '),
        );
    }
    dir
}

/// Bytes in base64.
fn encoded(dir: &TempDir, bytes: &[u8]) -> String {
    fs::write(dir.path().join("bytes"), bytes).expect("a file");
    openssl(dir, "base64 -A -in bytes -out text".split(' '));
    fs::read_to_string(dir.path().join("text")).expect("text")
}

/// The signature by `mine`, in base64.
fn signature(dir: &TempDir, message: &[u8]) -> String {
    fs::write(dir.path().join("message"), message).expect("a file");
    openssl(
        dir,
        "dgst -sha256 -sign mine -out signature message".split(' '),
    );
    encoded(
        dir,
        &fs::read(dir.path().join("signature")).expect("a signature"),
    )
}

/// Puts a note that `mine` signed `digest` beside the image `of`.
fn sign(registry: &Registry, dir: &TempDir, repository: &str, of: &str, digest: &str) {
    sign_with(registry, dir, repository, of, digest, json!({}));
}

/// The same with more annotations.
fn sign_with(
    registry: &Registry,
    dir: &TempDir,
    repository: &str,
    of: &str,
    digest: &str,
    more: Value,
) {
    let note = json!({
        "critical": {
            "identity": { "docker-reference": "" },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let note = note.to_string().into_bytes();
    let mut layer = registry.blob(repository, NOTE, &note);
    layer["annotations"] = more;
    layer["annotations"]["dev.cosignproject.cosign/signature"] = signature(dir, &note).into();
    let manifest = of_layers(registry, repository, &[layer]);
    let tag = format!("{}.sig", of.replace(':', "-"));
    registry.manifest(repository, &tag, &manifest);
}

fn of_layers(registry: &Registry, repository: &str, layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": registry.blob(repository, "application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": layers,
    })
}

/// Puts a bundle with a statement of this kind by `mine` beside an image.
fn bundle(registry: &Registry, dir: &TempDir, repository: &str, digest: &str, predicate: &str) {
    let by_key = json!({ "publicKey": { "hint": "" } });
    bundle_with(registry, dir, repository, digest, predicate, &by_key);
}

/// The same by what this says.
fn bundle_with(
    registry: &Registry,
    dir: &TempDir,
    repository: &str,
    digest: &str,
    predicate: &str,
    material: &Value,
) {
    let hex = &digest["sha256:".len()..];
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": hex } }],
        "predicateType": predicate,
        "predicate": {},
    });
    let statement = statement.to_string();
    let kind = "application/vnd.in-toto+json";
    let message = format!(
        "DSSEv1 {} {kind} {} {statement}",
        kind.len(),
        statement.len()
    );
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": encoded(dir, statement.as_bytes()),
            "payloadType": kind,
            "signatures": [{ "sig": signature(dir, message.as_bytes()) }],
        },
    });
    let layer = registry.blob(repository, BUNDLE, bundle.to_string().as_bytes());
    let manifest = of_layers(registry, repository, &[layer]);
    let tag = format!("bundle-{}", predicate.len());
    let size = manifest.to_string().len();
    let refers = registry.manifest(repository, &tag, &manifest);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": MANIFEST, "digest": refers, "size": size, "artifactType": BUNDLE }],
    });
    registry.manifest(repository, &digest.replace(':', "-"), &index);
}

const UNSIGNED: &str = "is not signed: ask who published it, or leave out --key";
const NOT_YOURS: &str =
    "is not signed by any of your keys (1 signature): do not run it; ask who published it";

#[test]
fn signatures_count_by_whose_they_are() {
    let world = World::new();
    let mut registry = Registry::open();
    let dir = keys();
    let key = |name: &str| {
        let bytes = fs::read(dir.path().join(name)).expect("a key");
        file(&world, name, &bytes)
    };
    let (mine, other) = (key("mine.pub"), key("other.pub"));
    let module = file(&world, "a.wasm", MODULE);
    let pushed = |name: &str| {
        let tag = format!("{}/{name}:1", registry.name);
        let pinned = push(&world, &[&module, &tag]);
        let digest = pinned.split_once('@').expect("a digest").1.to_owned();
        (pinned, digest)
    };
    let fine = |words: &[&str]| {
        let exit = world.run(&[&["pull", "-o", "/dev/null"], words].concat());
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
    };
    let (signed, digest) = pushed("signed");
    assert_eq!(refused(&world, &[&signed, "--key", &mine]), UNSIGNED);
    sign(&registry, &dir, "signed", &digest, &digest);
    fine(&[&signed, "--key", &mine]);
    fine(&[&signed, "--key", &other, "--key", &mine]);
    assert_eq!(refused(&world, &[&signed, "--key", &other]), NOT_YOURS);
    let exit = world.run(&["pull", &signed, "-o", "/dev/null"]);
    let unknown = format!(
        "bpftime: {signed}: is signed, by someone you have no key of: --key FILE checks signatures\n"
    );
    assert_eq!((exit.code, exit.stderr), (0, unknown));

    // The same manifest under another name has the same digest: a note about
    // something else must not count for it.
    let (_, mut wrong) = pushed("replayed");
    wrong.replace_range(wrong.len() - 4.., "0000");
    let (replayed, digest) = pushed("replayed");
    sign(&registry, &dir, "replayed", &digest, &wrong);
    fs::remove_dir_all(world.home().join(".cache")).expect("the cache");
    assert_eq!(refused(&world, &[&replayed, "--key", &mine]), NOT_YOURS);

    let (bundled, digest) = pushed("bundled");
    bundle(
        &registry,
        &dir,
        "bundled",
        &digest,
        "https://spdx.dev/Document",
    );
    fs::remove_dir_all(world.home().join(".cache")).expect("the cache");
    assert_eq!(refused(&world, &[&bundled, "--key", &mine]), UNSIGNED);
    bundle(
        &registry,
        &dir,
        "bundled",
        &digest,
        "https://sigstore.dev/cosign/sign/v1",
    );
    assert_eq!(refused(&world, &[&bundled, "--key", &other]), NOT_YOURS);
    fine(&[&bundled, "--key", &mine]);

    // Keys in the user's directory ask nobody to sign, but do not take others'.
    let keys = world.home().join(".config/bpftime/keys");
    fs::create_dir_all(&keys).expect("a directory");
    fs::copy(&other, keys.join("other.pub")).expect("a key");
    assert_eq!(refused(&world, &[&bundled]), NOT_YOURS);
    fs::copy(&mine, keys.join("mine.pub")).expect("a key");
    fine(&[&bundled]);

    registry.stop();
    fine(&[&bundled, "--key", &mine]);
    let exit = Program::on_pipes(world.bpftime(&["pull", &bundled, "--key", &other])).finish();
    let lost = format!(
        "bpftime: {bundled}: its signatures cannot be fetched (cannot be reached (Connection refused)): try again, or leave out the keys"
    );
    assert_eq!(line(&exit), (1, lost));
}

/// What `cosign sign` without a key writes: it is told for what it is, in both
/// of its forms, and is nobody's signature.
#[test]
fn signatures_by_certificates_are_nobodys() {
    const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
    let world = World::new();
    let registry = Registry::open();
    let dir = keys();
    let made = "req -x509 -key mine -out certificate -days 1 -subj /CN=x \
                -addext subjectAltName=email:me@example.org";
    openssl(&dir, made.split_whitespace());
    let certificate = fs::read_to_string(dir.path().join("certificate")).expect("a certificate");
    openssl(
        &dir,
        "x509 -in certificate -outform DER -out der".split(' '),
    );
    let der = encoded(
        &dir,
        &fs::read(dir.path().join("der")).expect("a certificate"),
    );
    // A key of the user's that is none of theirs.
    let other = fs::read(dir.path().join("other.pub")).expect("a key");
    let other = file(&world, "other.pub", &other);
    let module = file(&world, "a.wasm", MODULE);
    let noted = push(&world, &[&module, &format!("{}/noted:1", registry.name)]);
    let bundled = push(&world, &[&module, &format!("{}/bundled:1", registry.name)]);
    let digest = noted.split_once('@').expect("a digest").1;
    let notes = json!({
        "dev.sigstore.cosign/certificate": certificate,
        "dev.sigstore.cosign/chain": certificate,
        "dev.sigstore.cosign/bundle": "{\"SignedEntryTimestamp\": \"\", \"Payload\": {}}",
    });
    sign_with(&registry, &dir, "noted", digest, digest, notes);
    let material = json!({
        "certificate": { "rawBytes": der },
        "tlogEntries": [{ "logIndex": "1", "integratedTime": "1700000000" }],
    });
    bundle_with(&registry, &dir, "bundled", digest, SIGN, &material);
    let keyless = "is signed by certificates alone (keyless), not by any of your keys (1 signature): \
                   check it by cosign verify, or ask for a signature by a key";
    for image in [&noted, &bundled] {
        fs::remove_dir_all(world.home().join(".cache")).ok();
        let exit = world.run(&["pull", image, "-o", "/dev/null"]);
        let told = format!(
            "bpftime: {image}: is signed by a certificate (keyless), which is not checked here: cosign verify checks it\n"
        );
        assert_eq!((exit.code, exit.stderr), (0, told));
        assert_eq!(refused(&world, &[image, "--key", &other]), keyless);
        // `run` says the same, and runs nothing.
        let exit = world.run(&["run", "--key", &other, image]);
        assert_eq!(line(&exit), (1, format!("bpftime: {image}: {keyless}")));
    }
    // Keys that cannot be read would not be missed otherwise.
    let dir = world.home().join(".config/bpftime");
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("keys"), "").expect("a file");
    let exit = world.run(&["pull", &noted, "-o", "/dev/null"]);
    let said = format!(
        "bpftime: {}/keys: cannot be read (Not a directory): check path, rights and space",
        dir.display()
    );
    assert_eq!(line(&exit), (1, said));
}
