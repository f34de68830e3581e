//! Logins that helpers of docker's keep (`docker-credential-NAME`), as its
//! configuration names them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bpftime_tests::{Exit, Program, Registry, World};
use serde_json::{Value, json};

use super::{MODULE, file, line, push};

/// Makes a helper of the user's: a script that is told the registry.
fn helper(world: &World, name: &str, script: &str) {
    let name = format!("bin/docker-credential-{name}");
    let script = format!("#!/bin/sh\nread -r registry\n{script}\n");
    let path = file(world, &name, script.as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the helper");
}

fn pulled(world: &World, tag: &str) -> Exit {
    let mut command = world.bpftime(&["pull", tag, "-o", "/dev/null"]);
    let path = format!("{}/bin:/usr/bin:/bin", world.home().display());
    command.env("PATH", path);
    Program::on_pipes(command).finish()
}

#[test]
fn helpers_are_asked() {
    let world = World::new();
    let registry = Registry::guarded();
    let name = registry.name.as_str();
    for directory in [".docker", "bin"] {
        fs::create_dir(world.home().join(directory)).expect("a directory");
    }
    let configure = |config: &Value| {
        file(&world, ".docker/config.json", config.to_string().as_bytes());
    };
    configure(&json!({ "auths": { name: { "auth": "bWU6c2VjcmV0" } } }));
    let tag = format!("{name}/a:1");
    push(&world, &[&file(&world, "a.wasm", MODULE), &tag]);

    let asked = world.home().join("asked");
    let answer = format!(
        "echo \"$1 $registry\" > {}; echo '{{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"secret\"}}'",
        asked.display()
    );
    helper(&world, "right", &answer);
    // Only of this registry are others asked, but a store of all.
    configure(&json!({ "credHelpers": { name: "right" }, "credsStore": "no-such" }));
    assert_eq!(line(&pulled(&world, &tag)), (0, "/dev/null".to_owned()));
    let said = fs::read_to_string(&asked).expect("what it was asked");
    assert_eq!(said, format!("get {name}\n"));
    configure(&json!({ "credsStore": "right", "auths": { name: {} } }));
    assert_eq!(line(&pulled(&world, &tag)), (0, "/dev/null".to_owned()));
    configure(&json!({ "credsStore": "right", "credHelpers": { "other.example": "no-such" } }));
    assert_eq!(line(&pulled(&world, &tag)), (0, "/dev/null".to_owned()));

    // What they have for us is not always right.
    helper(
        &world,
        "wrong",
        "echo '{\"Username\":\"me\",\"Secret\":\"wrong\"}'",
    );
    helper(
        &world,
        "none",
        "echo credentials not found in native keychain; exit 1",
    );
    helper(&world, "locked", "echo the keyring is locked; exit 1");
    helper(&world, "mute", "exit 3");
    helper(&world, "chatty", "echo hello");
    let wants = "the registry wants a login";
    for (helper, said) in [
        ("wrong", "the registry does not accept the login".to_owned()),
        ("none", wants.to_owned()),
        (
            "absent",
            format!("{wants}, and docker-credential-absent gives none (No such file or directory)"),
        ),
        (
            "locked",
            format!("{wants}, and docker-credential-locked gives none (the keyring is locked)"),
        ),
        (
            "mute",
            format!("{wants}, and docker-credential-mute gives none (exit status: 3)"),
        ),
        (
            "chatty",
            format!(
                "{wants}, and docker-credential-chatty gives none \
                 (its answer is damaged: expected value at line 1 column 1)"
            ),
        ),
        (
            "../bin/sh",
            format!("{wants}, and docker-credential-../bin/sh gives none (no name of a helper)"),
        ),
    ] {
        let line = |said: &str| (1, format!("bpftime: {tag}: {said}: bpftime login {name}"));
        configure(&json!({ "credHelpers": { name: helper } }));
        assert_eq!(super::line(&pulled(&world, &tag)), line(&said), "{helper}");
        if helper == "absent" {
            configure(&json!({ "credsStore": helper }));
            assert_eq!(super::line(&pulled(&world, &tag)), line(&said), "{helper}");
        }
    }
    file(&world, ".docker/config.json", b"{");
    let (code, said) = line(&pulled(&world, &tag));
    let start = format!(
        "bpftime: {tag}: {wants}, and {}/.docker/config.json: is not a list of logins (",
        world.home().display()
    );
    assert!(code == 1 && said.starts_with(&start), "{said}");

    // A registry that lets everybody in is not refused for that.
    let open = Registry::open();
    let tag = format!("{}/a:1", open.name);
    push(&world, &[&file(&world, "a.wasm", MODULE), &tag]);
    configure(&json!({ "credsStore": "absent" }));
    assert_eq!(line(&pulled(&world, &tag)), (0, "/dev/null".to_owned()));
}
