//! The arrows between crates: a strict order, held here and nowhere else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Who may use whom. Dependencies for tests of a crate count as well.
const ALLOWED: &[(&str, &[&str])] = &[
    ("uapi", &[]),
    ("shm", &[]),
    ("vm", &["uapi"]),
    ("object", &["uapi"]),
    ("attach", &["object", "uapi"]),
    ("runtime", &["vm", "object", "shm", "uapi"]),
    ("syscall-server", &["runtime", "vm", "shm", "uapi"]),
    (
        "agent",
        &["runtime", "attach", "object", "vm", "shm", "uapi"],
    ),
    ("loader", &["object"]),
    ("package", &["object"]),
    ("wasm", &["loader", "package"]),
    ("registry", &[]),
    (
        "cli",
        &[
            "registry", "wasm", "package", "loader", "runtime", "vm", "object", "shm", "uapi",
        ],
    ),
    ("benches", &["runtime", "vm", "shm", "uapi", "tests"]),
    ("tests", &[]),
    ("tests/torture", &["attach", "object", "uapi"]),
    ("fuzz", &["syscall-server", "object", "vm", "uapi"]),
    ("xtask", &["runtime", "tests", "uapi"]),
];

/// What a traced process must not have to load, with the reason in CONTRIBUTING.md.
const KEPT_OUT_OF_TARGETS: &[&str] = &["serde", "serde_json", "clap", "tokio", "anyhow", "nix"];

/// Crates that end up in traced processes.
const IN_TARGETS: &[&str] = &["uapi", "shm", "vm", "object", "attach", "runtime", "agent"];

/// Names under any `[…dependencies]` table of a manifest, with the table.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_end_matches(']').to_owned();
            // [dependencies.name] is a dependency, too.
            if let Some((kind, name)) = table.clone().split_once("dependencies.") {
                found.push((format!("{kind}dependencies"), name.to_owned()));
            }
        } else if table.ends_with("dependencies") && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                found.push((table.clone(), name.to_owned()));
            }
        }
    }
    found
}

#[test]
fn only_the_allowed_arrows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let members: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let workspace = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace's manifest");
    let listed = workspace
        .split("members = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .expect("members");
    let listed: BTreeSet<&str> = listed
        .split(',')
        .map(|name| name.trim().trim_matches('"'))
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(listed, members, "a new crate needs its arrows in this list");

    for (name, allowed) in ALLOWED {
        let manifest = fs::read_to_string(root.join(name).join("Cargo.toml")).expect("a manifest");
        for (table, dependency) in dependencies(&manifest) {
            let short = dependency.strip_prefix("bpftime-").unwrap_or(&dependency);
            if members.contains(short) && short != *name {
                assert!(
                    allowed.contains(&short),
                    "{name} must not use {short} ([{table}])"
                );
            }
            if IN_TARGETS.contains(name) && !table.contains("dev-") {
                assert!(
                    !KEPT_OUT_OF_TARGETS.contains(&short),
                    "{name} is loaded into targets: no {short}"
                );
            }
        }
    }
}

#[test]
fn manifests_are_read_right() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n\
                    [dev-dependencies.c]\nversion = \"1\"\n[target.'cfg(unix)'.build-dependencies]\nd={}\n";
    let names: Vec<_> = dependencies(manifest)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
}
