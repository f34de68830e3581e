//! Builds the two preloaded libraries that the `bpftime` binary carries and
//! tells the crate where they are. It knows nothing of what is in them. It
//! also has libelf linked statically where that is installed, and takes the
//! headers for programs from libbpf's crate.
//!
//! `BPFTIME_LIBS_DIR` names a directory with both libraries ready built; no
//! nested build happens then. Under clippy the libraries are never looked
//! at, so empty files stand in for them.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Constant in the crate, package that makes the library, its file.
const LIBRARIES: [(&str, &str, &str); 2] = [
    ("AGENT", "bpftime-agent", "libbpftime_agent.so"),
    (
        "SYSCALL_SERVER",
        "bpftime-syscall-server",
        "libbpftime_syscall_server.so",
    ),
];

/// What the libraries are made of, relative to the workspace.
const SOURCES: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "uapi",
    "shm",
    "vm",
    "object",
    "runtime",
    "attach",
    "syscall-server",
    "agent",
];

/// What sources of programs include of libbpf, which carries many more.
const HEADERS: [&str; 6] = [
    "bpf_core_read.h",
    "bpf_endian.h",
    "bpf_helper_defs.h",
    "bpf_helpers.h",
    "bpf_tracing.h",
    "usdt.bpf.h",
];

const PROFILE: &str = "embedded";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the crate lies outside a workspace")?
        .to_owned();
    for source in SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    println!("cargo::rerun-if-env-changed=BPFTIME_LIBS_DIR");
    println!("cargo::rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");

    let out = PathBuf::from(variable("OUT_DIR")?);
    link_statically(&out)?;
    let built = match env::var_os("BPFTIME_LIBS_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => ready_built(dir.into()),
        None if under_clippy() => placeholders(&out)?,
        None => build(&workspace, &out)?,
    };
    write_constants(&built, &out)
}

/// What libbpf needs, so that one file can be copied to machines without it.
/// A directory that holds archives only comes before the system's.
fn link_statically(out: &Path) -> Result<()> {
    let dir = out.join("static");
    fs::create_dir_all(&dir)?;
    for library in ["elf", "z", "zstd"] {
        let file = format!("lib{library}.a");
        let asked = Command::new("cc")
            .arg(format!("-print-file-name={file}"))
            .output();
        let found = asked.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned());
        // The name comes back as it was asked for when there is no such file.
        if let Ok(found) = found.map(PathBuf::from)
            && found.is_absolute()
        {
            fs::copy(&found, dir.join(file))?;
        }
    }
    println!("cargo::rustc-link-search=native={}", dir.display());
    // Newer ones can compress with it. Arguments come after all libraries.
    let needs = Command::new("pkg-config")
        .args(["--static", "--libs", "libelf"])
        .output();
    if needs.is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).contains("-lzstd")) {
        println!("cargo::rustc-link-arg=-lzstd");
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}

fn ready_built(dir: PathBuf) -> PathBuf {
    for (_, _, file) in LIBRARIES {
        println!("cargo::rerun-if-changed={}", dir.join(file).display());
    }
    dir
}

fn under_clippy() -> bool {
    env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy"))
}

fn placeholders(out: &Path) -> Result<PathBuf> {
    let dir = out.join("placeholders");
    fs::create_dir_all(&dir)?;
    for (_, _, file) in LIBRARIES {
        fs::write(dir.join(file), b"")?;
    }
    Ok(dir)
}

/// Runs cargo once more, in a target directory of its own: the outer cargo
/// holds the lock of its own one until we are done.
fn build(workspace: &Path, out: &Path) -> Result<PathBuf> {
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE-HASH/out.
    let target_dir = out
        .ancestors()
        .nth(4)
        .ok_or("OUT_DIR is too short")?
        .join("embedded");
    let (host, target) = (variable("HOST")?, variable("TARGET")?);
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(workspace)
        // The outer cargo has resolved and written the lock file already.
        .args(["build", "--locked", "--quiet", "--profile", PROFILE])
        .arg("--target-dir")
        .arg(&target_dir)
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    for (_, package, _) in LIBRARIES {
        cargo.args(["--package", package]);
    }
    if env::var_os("CARGO_FEATURE_FRIDA").is_some() {
        cargo.args(["--features", "bpftime-agent/frida"]);
    }
    let mut built = target_dir;
    if host != target {
        cargo.args(["--target", &target]);
        built.push(&target);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the preloaded libraries failed: {status}").into());
    }
    built.push(PROFILE);
    Ok(built)
}

/// The libraries are copied: cargo would find files that the nested build
/// wrote newer than this run, and run it again.
fn write_constants(built: &Path, out: &Path) -> Result<()> {
    let mut code = String::new();
    let mut hash = FNV_OFFSET;
    for (name, _, file) in LIBRARIES {
        let path = built.join(file);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let copy = out.join(file);
        fs::write(&copy, &bytes)?;
        hash = fnv1a(hash, &bytes);
        code += &format!(
            "/// Contents of `{file}`.\npub const {name}: &[u8] = include_bytes!({copy:?});\n"
        );
    }
    // libbpf-sys tells where it has installed libbpf's (`links = "bpf"`).
    let headers = PathBuf::from(variable("DEP_BPF_INCLUDE")?).join("bpf");
    code += "/// libbpf's headers for programs: name and contents.\n";
    code += &format!("pub const HEADERS: [(&str, &str); {}] = [\n", HEADERS.len());
    for name in HEADERS {
        let copy = out.join(name);
        let bytes = fs::read(headers.join(name))
            .map_err(|error| format!("{}/{name}: {error}", headers.display()))?;
        fs::write(&copy, &bytes)?;
        hash = fnv1a(hash, &bytes);
        code += &format!("    ({name:?}, include_str!({copy:?})),\n");
    }
    code += "];\n";
    code += &format!(
        "/// Names the contents of both libraries and the headers.\npub const HASH: &str = \"{hash:016x}\";\n"
    );
    fs::write(out.join("libraries.rs"), code)?;
    Ok(())
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: tells builds apart, protects from nobody.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
