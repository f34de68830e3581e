//! The system's clang: where it is, what it is told, and what it made. Its
//! messages go where ours go, as it writes them. It knows no annotation.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::headers::Headers;
use crate::children;
use crate::libraries::reason;
use crate::problem::{CANNOT_RUN, NOT_FOUND, Problem};

/// Versions that Debian names after their number, newest first.
const VERSIONS: std::ops::RangeInclusive<u32> = 11..=23;
/// What is tested.
const PREFERRED: &str = "clang-19";

/// As libbpf's headers call this processor.
const ARCH: &str = match env::consts::ARCH.as_bytes() {
    b"aarch64" => "arm64",
    b"s390x" => "s390",
    b"riscv64" => "riscv",
    b"powerpc64" => "powerpc",
    b"loongarch64" => "loongarch",
    _ => "x86",
};

/// What is compiled.
pub struct Source<'a> {
    /// The file as it was named.
    pub path: &'a Path,
    /// Its text and what follows.
    pub text: &'a str,
}

/// What a user adds to the command.
pub struct Words<'a> {
    pub include: &'a [PathBuf],
    pub define: &'a [OsString],
    pub behind: &'a [OsString],
    /// Say the command on stderr.
    pub verbose: bool,
}

/// The command that compiles.
pub fn find(named: Option<&Path>) -> Result<PathBuf, Problem> {
    let path = env::var_os("PATH").unwrap_or_default();
    let missing = |name: &Path, advice: &str| {
        let happened = "no such compiler";
        Err(Problem::new(name.display(), happened, advice).with_status(NOT_FOUND))
    };
    if let Some(named) = named {
        return match on_path(&path, named.as_os_str()) {
            Some(found) => Ok(found),
            None => missing(named, "name a clang with the target bpf"),
        };
    }
    let numbered = VERSIONS.rev().map(|version| format!("clang-{version}"));
    let mut names = std::iter::once(PREFERRED.to_owned())
        .chain(numbered)
        .chain(["clang".to_owned()]);
    match names.find_map(|name| on_path(&path, OsStr::new(&name))) {
        Some(found) => Ok(found),
        None => missing(
            Path::new("clang"),
            "install it (apt install clang), or name one by --clang",
        ),
    }
}

fn on_path(path: &OsStr, name: &OsStr) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| path.is_file();
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(is_file);
    }
    let mut found = env::split_paths(path).map(|dir| dir.join(name));
    found.find(is_file)
}

/// Compiles; the object's bytes.
pub fn compile(
    clang: &Path,
    source: &Source<'_>,
    headers: &Headers,
    words: &Words<'_>,
) -> Result<Vec<u8>, Problem> {
    let mut command = Command::new(clang);
    command
        .args(arguments(source.path, headers, words))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if words.verbose {
        // Nobody is left to tell if stderr is gone.
        let _ = writeln!(io::stderr(), "{command:?}");
    }
    let cannot_run = |error: io::Error| {
        Problem::new(
            clang.display(),
            format_args!("cannot be run ({})", reason(&error)),
            "name another one by --clang",
        )
        .with_status(CANNOT_RUN)
    };
    let child = children::spawn(&mut command).map_err(cannot_run)?;
    let (object, status) = converse(child, source.text).map_err(cannot_run)?;
    match status.code() {
        Some(0) => Ok(object),
        code => {
            let problem = Problem::new(
                source.path.display(),
                format_args!("does not compile ({}: {status})", clang.display()),
                advice(),
            );
            let code = code.and_then(|code| u8::try_from(code).ok());
            Err(problem.with_status(code.unwrap_or(1)))
        }
    }
}

fn advice() -> &'static str {
    let installed = |header: &str| Path::new("/usr/include").join(header).exists();
    match (installed("linux/types.h"), installed("stdio.h")) {
        (true, true) => "see what clang says",
        (false, _) => "see what clang says; headers of Linux are in linux-libc-dev",
        (true, false) => "see what clang says; headers of C are in libc6-dev",
    }
}

/// Hands the source over and takes the object, neither of which a file holds.
fn converse(mut child: Child, text: &str) -> io::Result<(Vec<u8>, ExitStatus)> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut object = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A compiler that does not read to the end says why itself.
            let _ = stdin.map(|mut pipe| pipe.write_all(text.as_bytes()));
        });
        stdout.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut object))
    })?;
    Ok((object, child.wait()?))
}

fn arguments(source: &Path, headers: &Headers, words: &Words<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "-target",
        "bpf",
        "-mcpu=v3",
        "-g",
        "-O2",
        "-Wall",
        "-Wno-unknown-attributes",
    ]
    .map(OsString::from)
    .into();
    let joined = |flag: &str, value: &OsStr| {
        let mut word = OsString::from(flag);
        word.push(value);
        word
    };
    arguments.push(format!("-D__TARGET_ARCH_{ARCH}").into());
    arguments.extend(words.define.iter().map(|define| joined("-D", define)));
    let own = match source.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let first = std::iter::once(own).chain(words.include.iter().map(PathBuf::as_path));
    let ours = [headers.first.as_path(), headers.vmlinux.as_path()];
    for dir in first.chain(ours) {
        arguments.push(joined("-I", dir.as_os_str()));
    }
    // For the target bpf clang does not look there by itself.
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    for dir in [Path::new(&multiarch), &headers.last] {
        arguments.extend(["-idirafter".into(), dir.as_os_str().to_owned()]);
    }
    // The same source gives the same object wherever the headers lie.
    let mut map = joined("-fdebug-prefix-map=", headers.root.as_os_str());
    map.push("=bpftime");
    arguments.extend([map, "-fdebug-compilation-dir=.".into()]);
    arguments.extend(words.behind.iter().cloned());
    arguments.extend(["-x", "c", "-c", "-o", "-", "-"].map(OsString::from));
    arguments
}
