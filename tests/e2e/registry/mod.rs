//! What is run comes from anywhere: registries, web servers, stdin; and goes
//! to registries. Each test has a registry of its own, and an ordinary user.

mod breaks;
mod helpers;
mod refusals;
mod signatures;
mod stub;
mod tokens;
mod zstd;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bpftime_tests::registry::sha256;
use bpftime_tests::web::Answer;
use bpftime_tests::{Exit, Program, Registry, Web, World};
use serde_json::{Value, json};
use tempfile::TempDir;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const PACKAGE: &[u8] = b"{\"meta\": {}}\n";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Status and the only line, on stdout if it was 0 and else on stderr.
fn line(exit: &Exit) -> (i32, String) {
    let (said, silent) = match exit.code {
        0 => (&exit.stdout, &exit.stderr),
        _ => (&exit.stderr, &exit.stdout),
    };
    assert_eq!(silent, "", "{exit:?}");
    assert_eq!(said.lines().count(), 1, "{exit:?}");
    (exit.code, said.trim_end().to_owned())
}

/// A file of the ordinary user.
fn file(world: &World, name: &str, bytes: &[u8]) -> String {
    let path = world.home().join(name);
    fs::write(&path, bytes).expect("a file");
    chown(&path, Some(world.uid()), None).expect("its owner");
    path.to_str().expect("a path of ours").to_owned()
}

fn push(world: &World, words: &[&str]) -> String {
    let (code, said) = line(&world.run(&[&["push"], words].concat()));
    assert_eq!(code, 0, "{said}");
    said
}

/// What `pull` gives, which must be all right.
fn pull(world: &World, reference: &str) -> Vec<u8> {
    let path = world.home().join("pulled");
    let exit = world.run(&["pull", reference, "-o", path.to_str().expect("a path")]);
    assert_eq!(line(&exit), (0, path.display().to_string()), "{reference}");
    fs::read(path).expect("what was pulled")
}

/// How `pull` refuses, behind the name.
fn refused(world: &World, words: &[&str]) -> String {
    let before = files(world.home());
    let exit = world.run(&[&["pull"], words, &["-o", "pulled"]].concat());
    let (code, said) = line(&exit);
    assert_eq!(code, 1, "{said}");
    assert_eq!(files(world.home()), before, "nothing is left half way");
    let name = format!("bpftime: {}: ", words[0]);
    said.strip_prefix(&name).unwrap_or(&said).to_owned()
}

/// Files that are not in the cache.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// The one file in the cache with this digest.
fn cached(world: &World, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    world.home().join(".cache/bpftime/blobs/sha256").join(hex)
}

#[test]
fn what_is_pushed_comes_back() {
    let world = World::new();
    let mut registry = Registry::open();
    let object = fs::read(world.fixture("reports.bpf.o")).expect("an object");
    let forms = [
        (
            "a.bpf.o",
            &object[..],
            "application/vnd.bpftime.object.v1+elf",
        ),
        ("b.wasm", MODULE, "application/wasm"),
        ("c.json", PACKAGE, "application/vnd.bpftime.package.v1+json"),
    ];
    let mut pinned = String::new();
    for (name, bytes, media_type) in forms {
        let path = file(&world, name, bytes);
        let tag = format!("{}/tools/{}:1", registry.name, &name[..1]);
        let words = [&path, &tag, "-a", "org.opencontainers.image.licenses=MIT"];
        pinned = push(&world, &words);
        let manifest = registry.read(&format!("tools/{}", &name[..1]), "1");
        assert_eq!(manifest["layers"][0]["mediaType"], media_type);
        assert_eq!(
            manifest["layers"][0]["annotations"]["org.opencontainers.image.title"],
            name
        );
        assert_eq!(
            manifest["annotations"]["org.opencontainers.image.licenses"],
            "MIT"
        );
        assert_eq!(pull(&world, &tag), bytes);
        if name == "b.wasm" {
            assert_eq!(push(&world, &words), pinned, "the same is the same");
            let image = format!("{}/images/b:1", registry.name);
            push(&world, &["--image", &path, &image]);
            assert_eq!(pull(&world, &image), bytes);
        }
    }
    // Under its own name nothing is replaced.
    let mut again = world.bpftime(&["pull", &pinned]);
    again.current_dir(world.home());
    let exit = Program::on_pipes(again).finish();
    let said = "bpftime: c.json: cannot be written (File exists): name another by --output, or the same to replace it";
    assert_eq!(line(&exit), (1, said.to_owned()));
    registry.stop();
    // A digest says all; a tag must be asked for.
    assert_eq!(pull(&world, &format!("oci://{pinned}")), PACKAGE);
    let tag = format!("{}/tools/c:1", registry.name);
    let said = "cannot be reached (Connection refused): check the name and the network";
    assert_eq!(refused(&world, &[&tag]), said);
    // The cache is checked whenever it is read.
    let blob = cached(&world, &sha256(PACKAGE));
    fs::write(&blob, b"{\"evil\": 1}\n").expect("a damaged file");
    assert_eq!(refused(&world, &[&pinned]), said);
    assert!(!blob.exists(), "what is damaged goes");
}

/// `reports` for two calls; what it printed but times.
fn reports(world: &World, source: &str, stdin: Option<&Path>) -> String {
    let target = world.fixture("tgt");
    let target = target.to_str().expect("a path of ours");
    let attach = format!("on_call={target}:tgt_add");
    let words = [
        "run", "--json", "--attach", &attach, source, "--", target, "3", "0",
    ];
    let mut command = world.bpftime(&words);
    let exit = match stdin {
        None => Program::on_pipes(command).finish(),
        Some(path) => {
            command.stdin(fs::File::open(path).expect("a file"));
            let output = command.stderr(Stdio::piped()).output().expect("bpftime");
            Exit {
                code: output.status.code().expect("an exit"),
                stdout: String::from_utf8(output.stdout).expect("text"),
                stderr: String::from_utf8(output.stderr).expect("text"),
            }
        }
    };
    assert_eq!(exit.code, 0, "{exit:?}");
    let mut lines: Vec<&str> = exit.stdout.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn an_object_runs_from_anywhere() {
    let world = World::new();
    let registry = Registry::open();
    let object = world.fixture("reports.bpf.o");
    let path = object.to_str().expect("a path of ours");
    let expected = reports(&world, path, None);
    assert_ne!(expected, "");
    let tag = format!("{}/reports:1", registry.name);
    let pinned = push(&world, &[path, &tag]);
    let server = serve(vec![
        (
            "/reports.bpf.o",
            "200 OK",
            fs::read(&object).expect("an object"),
        ),
        ("/old", "302 Found\r\nLocation: /reports.bpf.o", Vec::new()),
    ]);
    for source in [
        &tag,
        &pinned,
        &format!("{server}/old"),
        &format!("file://{path}"),
    ] {
        assert_eq!(reports(&world, source, None), expected, "{source}");
    }
    assert_eq!(reports(&world, "-", Some(&object)), expected);
}

/// A web server with these files, each behind a status and headers; its URL.
fn serve(files: Vec<(&'static str, &'static str, Vec<u8>)>) -> String {
    let web = Web::new(move |asked| {
        let found = files.iter().find(|(name, _, _)| *name == asked.path);
        found.map_or(Answer::status("404 Not Found"), |(_, status, body)| {
            Answer {
                body: body.clone(),
                ..Answer::status(status)
            }
        })
    });
    format!("http://{}", web.name)
}

/// Logs in as `me`.
fn login(world: &World, registry: &str, password: &str) -> (i32, String) {
    let words = ["login", registry, "-u", "me", "--password-stdin"];
    let mut login = Program::on_pipes(world.bpftime(&words));
    login.tell(password);
    line(&login.finish())
}

#[test]
fn logins_are_tried_kept_and_forgotten() {
    let world = World::new();
    let registry = Registry::guarded();
    let name = registry.name.as_str();
    let path = file(&world, "a.wasm", MODULE);
    let tag = format!("{name}/a:1");
    let login = |password: &str| login(&world, name, password);
    let wants = format!("bpftime: {tag}: the registry wants a login: bpftime login {name}");
    assert_eq!(line(&world.run(&["push", &path, &tag])), (1, wants));
    let not =
        format!("bpftime: {name}: the registry does not accept the login: bpftime login {name}");
    assert_eq!(login("wrong"), (1, not));
    let kept = world.home().join(".config/bpftime/auth.json");
    assert!(!kept.exists(), "a wrong password is not kept");
    let said = format!("{name}: logged in; kept in {}", kept.display());
    assert_eq!(login("secret"), (0, said));
    let mode = fs::metadata(&kept).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    push(&world, &[&path, &tag]);
    assert_eq!(pull(&world, &tag), MODULE);
    let out = format!("{name}: logged out");
    assert_eq!(line(&world.run(&["logout", name])), (0, out));
    let wants = format!("the registry wants a login: bpftime login {name}");
    assert_eq!(refused(&world, &[&tag]), wants);
    let gone = format!("bpftime: {name}: there is no login: nothing was changed");
    assert_eq!(line(&world.run(&["logout", name])), (1, gone));
    // Docker's own file counts as well.
    fs::create_dir(world.home().join(".docker")).expect("a directory");
    let auths = json!({ "auths": { name: { "auth": "bWU6c2VjcmV0" } } });
    file(&world, ".docker/config.json", auths.to_string().as_bytes());
    assert_eq!(pull(&world, &tag), MODULE);
}

/// A manifest in `images` under this tag.
fn image(registry: &Registry, tag: &str, config: &[u8], layers: &[(&str, &[u8])]) -> Value {
    let blob = |(media_type, bytes): &(&str, &[u8])| registry.blob("images", media_type, bytes);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": registry.blob("images", CONFIG, config),
        "layers": layers.iter().map(blob).collect::<Vec<_>>(),
    });
    let digest = registry.manifest("images", tag, &manifest);
    json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.to_string().len() })
}

/// A tar archive of these files, by tar(1).
fn tar(options: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = TempDir::new().expect("a directory");
    let mut command = Command::new("tar");
    command.args([options, "-"]).current_dir(&dir);
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).expect("a file");
        command.arg(format!("./{name}"));
    }
    command.output().expect("tar").stdout
}

#[test]
fn images_of_every_form_are_understood() {
    let world = World::new();
    let registry = Registry::open();
    let pulled = |tag: &str| pull(&world, &format!("{}/images:{tag}", registry.name));
    let not = |tag: &str| refused(&world, &[&format!("{}/images:{tag}", registry.name)]);
    // As eunomia's ecli and wasm-to-oci write them.
    image(
        &registry,
        "old",
        b"{}",
        &[("application/vnd.wasm.content.layer.v1+wasm", MODULE)],
    );
    assert_eq!(pulled("old"), MODULE);
    // A file under whatever type, as oras writes them.
    image(
        &registry,
        "any",
        b"{}",
        &[("application/octet-stream", PACKAGE)],
    );
    assert_eq!(pulled("any"), PACKAGE);
    let packed = tar(
        "cf",
        &[
            ("app.wasm", MODULE),
            ("notes.txt", b"x"),
            ("config.json", PACKAGE),
        ],
    );
    let wasm = image(&registry, "tar", b"{}", &[(TAR, &packed)]);
    assert_eq!(pulled("tar"), MODULE);
    let other = tar("czf", &[("b.json", PACKAGE)]);
    let plain = image(
        &registry,
        "gzip",
        b"{}",
        &[(TAR, &packed), (&format!("{TAR}+gzip"), &other)],
    );
    assert_eq!(pulled("gzip"), PACKAGE, "the upper layer");
    let mut newer = MODULE.to_vec();
    newer.extend(b"\0\x02\x01x");
    let several = tar("cf", &[("a.wasm", MODULE), ("b.wasm", &newer)]);
    let starts = json!({ "config": { "Entrypoint": ["/b.wasm"] } }).to_string();
    image(&registry, "starts", starts.as_bytes(), &[(TAR, &several)]);
    assert_eq!(pulled("starts"), newer);
    image(&registry, "several", b"{}", &[(TAR, &several)]);
    assert_eq!(
        not("several"),
        "has several files that could be run (a.wasm, b.wasm): push the one that is meant"
    );
    image(
        &registry,
        "none",
        b"{}",
        &[(TAR, &tar("cf", &[("x", b"x")]))],
    );
    assert_eq!(
        not("none"),
        "has nothing that can be run in it: push a Wasm module, an eBPF object or a JSON package"
    );
    let for_platform = |image: &Value, os: &str| {
        let mut entry = image.clone();
        entry["platform"] = json!({ "architecture": "wasm", "os": os });
        entry
    };
    let index = |entries: Vec<Value>| {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        })
    };
    let list = index(vec![plain.clone(), for_platform(&wasm, "wasip1")]);
    registry.manifest("images", "list", &list);
    assert_eq!(pulled("list"), MODULE);
    registry.manifest("images", "first", &index(vec![plain]));
    assert_eq!(pulled("first"), PACKAGE);
    registry.manifest("images", "empty", &index(Vec::new()));
    assert_eq!(
        not("empty"),
        "has nothing that can be run in it: push a Wasm module, an eBPF object or a JSON package"
    );
}
