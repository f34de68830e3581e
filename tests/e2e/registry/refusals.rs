//! What cannot be fetched, published or kept is refused in a line, and leaves
//! nothing behind.

use std::fs;

use bpftime_tests::registry::sha256;
use bpftime_tests::{Program, Registry, World};

use super::{MODULE, file, line, pull, push, refused, serve};

#[test]
fn what_does_not_come_is_said_in_a_line() {
    let world = World::new();
    let registry = Registry::open();
    let name = registry.name.as_str();
    let module = file(&world, "a.wasm", MODULE);
    let tag = format!("{name}/a:1");
    let pinned = push(&world, &[&module, &tag]);
    let server = serve(vec![
        ("/large.wasm", "200 OK", vec![0; 2048]),
        ("/round", "302 Found\r\nLocation: /round", Vec::new()),
    ]);
    let url = |path: &str| format!("{server}/{path}");
    let unknown = "the registry has no such name or tag: check how it is written";
    let large = "is larger than 1 KiB: --max-size allows more";
    for (words, said) in [
        (vec![format!("{name}/a:2")], unknown.to_owned()),
        (vec![format!("{name}/b:1")], unknown.to_owned()),
        (vec![format!("{}0000", &pinned[..pinned.len() - 4])], unknown.to_owned()),
        (
            vec!["a-tool".to_owned()],
            "no such file, and no registry in front of it: check the path, or write REGISTRY/NAME:TAG".to_owned(),
        ),
        (vec!["./a-tool".to_owned()], "no such file: check the path".to_owned()),
        (vec![module.clone()], "is here already: name a reference or a URL".to_owned()),
        (
            vec!["ftp://localhost/a".to_owned()],
            "is no URL that can be fetched (scheme ftp): write http://…, https://… or file:///…".to_owned(),
        ),
        (vec![url("none")], "there is no such file on the server (status 404): check how it is written".to_owned()),
        (vec![url("round")], "too many redirects: ask who runs the registry".to_owned()),
        (vec![url("large.wasm"), "--max-size=1k".to_owned()], large.to_owned()),
        (
            vec![url("large.wasm"), format!("--key={module}")],
            format!("bpftime: {module}: checks signatures in registries only: leave out --key, or push to a registry and sign there"),
        ),
        (
            vec![tag.clone(), "--max-size=7".to_owned()],
            "is larger than 7 bytes: --max-size allows more".to_owned(),
        ),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(refused(&world, &words), said, "{words:?}");
    }
    let text = file(&world, "notes", b"hello");
    let said = "bpftime: notes: is nothing that can be run or pushed: name a Wasm module, an eBPF object or a package";
    assert_eq!(
        line(&world.run(&["push", &text, &tag])),
        (1, said.to_owned())
    );
    registry.damage(&sha256(MODULE), b"\0asm\x01\0\0\x01");
    let wrong = refused(&world, &[&tag]);
    let (wanted, got) = (sha256(MODULE), sha256(b"\0asm\x01\0\0\x01"));
    assert_eq!(
        wrong,
        format!(
            "what came is not what was asked for (wanted {wanted}, got {got}): do not trust it; ask who published it"
        )
    );
}

#[test]
fn a_registry_must_show_a_certificate_that_is_known() {
    let world = World::new();
    let registry = Registry::with_tls();
    let module = file(&world, "a.wasm", MODULE);
    let tag = format!("{}/a:1", registry.name);
    let (code, said) = line(&world.run(&["push", &module, &tag]));
    assert_eq!(code, 1);
    let start = format!("bpftime: {tag}: its certificate is not accepted (");
    let end = "): name its authority by SSL_CERT_FILE, or use --insecure if it speaks plain HTTP";
    assert!(said.starts_with(&start) && said.ends_with(end), "{said}");
    let certificate = fs::read(registry.authority()).expect("a certificate");
    let certificate = file(&world, "cert", &certificate);
    for words in [["push", &module, &tag], ["pull", &tag, "-o/dev/null"]] {
        let mut command = world.bpftime(&words);
        command.env("SSL_CERT_FILE", &certificate);
        assert_eq!(line(&Program::on_pipes(command).finish()).0, 0);
    }
}

/// As in an image from scratch.
#[test]
fn a_machine_without_authorities_takes_what_is_plain() {
    let world = World::new();
    let open = Registry::open();
    let guarded = Registry::with_tls();
    let module = file(&world, "a.wasm", MODULE);
    let tag = format!("{}/a:1", open.name);
    push(&world, &[&module, &tag]);
    let url = serve(vec![("/a.wasm", "200 OK", MODULE.to_vec())]);
    let pull = |name: &str| {
        let mut command = world.bpftime(&["pull", name, "-o/dev/null"]);
        let none = world.home().join("no-such");
        command
            .env("SSL_CERT_FILE", &none)
            .env("SSL_CERT_DIR", &none);
        line(&Program::on_pipes(command).finish())
    };
    assert_eq!(pull(&tag), (0, "/dev/null".to_owned()));
    assert_eq!(pull(&format!("{url}/a.wasm")).0, 0);
    let tag = format!("{}/a:1", guarded.name);
    let said = "no certificates of authorities are here to check it by: \
                install ca-certificates, or name a file with them by SSL_CERT_FILE";
    assert_eq!(pull(&tag), (1, format!("bpftime: {tag}: {said}")));
}

#[test]
fn a_full_disk_keeps_nothing_and_breaks_nothing() {
    let Some(world) = World::privileged() else {
        return;
    };
    let registry = Registry::open();
    let object = world.fixture("reports.bpf.o");
    let object = object.to_str().expect("a path of ours");
    let tag = format!("{}/a:1", registry.name);
    push(&world, &[object, &tag]);
    let home = world.home().display();
    // In a mount namespace of its own; what is in the way of the file is shown at the end.
    let on_full = |dir: &str, words: &str| {
        let binary = world.binary();
        let script = format!(
            "mkdir -p {home}/{dir} && mount -t tmpfs -o size=8k tmpfs {home}/{dir} && \
             {} pull {tag} {words}; echo status $?; ls -A {home}/{dir} | grep -v '^bpftime$'",
            binary.display()
        );
        Program::on_pipes(world.plain(&["unshare", "-m", "sh", "-c", &script])).finish()
    };
    let exit = on_full("full", &format!("-o {home}/full/a.o"));
    let said = format!(
        "bpftime: {home}/full/a.o: cannot be written (No space left on device): make room, or name another place by --output\n"
    );
    assert_eq!((exit.stdout.as_str(), exit.stderr), ("status 1\n", said));
    // The cache is a help and no more.
    fs::remove_dir_all(world.home().join(".cache")).expect("the cache");
    let exit = on_full(".cache", &format!("-o {home}/whole"));
    assert_eq!(
        (exit.stdout, exit.stderr),
        (format!("{home}/whole\nstatus 0\n"), String::new())
    );
    let whole = fs::read(world.home().join("whole")).expect("what was pulled");
    assert_eq!(whole, fs::read(object).expect("the object"));
    assert_eq!(pull(&world, &tag), whole);
}
