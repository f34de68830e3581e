//! Directories and files on disk that stand for those of tracefs and sysfs: in
//! the directory of this library, made when something is first looked for in
//! them. It knows no path of the tool's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use runtime::command::kprobe;
use runtime::command::tracepoint::Tracepoint;

use super::probe::Kind;
use crate::files::KPROBE_TYPE;
use crate::server;

/// The directory of all trees, beside this library.
const NAME: &str = "virtual";
/// The tree of tracefs in it.
pub const TRACING: &str = "tracing";
/// What events say of themselves that nobody can change here.
const COMMON_FILES: [(&str, &str); 2] = [("enable", "0\n"), ("filter", "none\n")];

/// Where the trees are; makes them if nobody has.
pub fn root() -> Option<PathBuf> {
    let trees = server::own_path()?.with_file_name(NAME);
    if !trees.exists() {
        let temporary = trees.with_file_name(format!(".{NAME}.{}", std::process::id()));
        let made = fill(&temporary).and_then(|()| fs::rename(&temporary, &trees));
        if made.is_err() {
            // Another tool may have been faster.
            drop(fs::remove_dir_all(&temporary));
        }
    }
    trees.exists().then_some(trees)
}

/// Where the trees are, if there are any: a path without symbolic links, as the
/// kernel tells those of fds.
pub fn existing() -> Option<&'static Path> {
    static EXISTING: OnceLock<PathBuf> = OnceLock::new();
    if let Some(trees) = EXISTING.get() {
        return Some(trees);
    }
    let trees = server::own_path()?
        .with_file_name(NAME)
        .canonicalize()
        .ok()?;
    Some(EXISTING.get_or_init(|| trees))
}

fn fill(trees: &Path) -> io::Result<()> {
    directory(&trees.join("uprobe/format"))?;
    file(&trees.join("uprobe/type"), "8\n", 0o444)?;
    file(&trees.join("uprobe/format/retprobe"), "config:0\n", 0o444)?;
    let counter = trees.join("uprobe/format/ref_ctr_offset");
    file(&counter, "config:32-63\n", 0o444)?;
    directory(&trees.join("kprobe/format"))?;
    let number = format!("{KPROBE_TYPE}\n");
    file(&trees.join("kprobe/type"), &number, 0o444)?;
    file(&trees.join("kprobe/format/retprobe"), "config:0\n", 0o444)?;

    let root = trees.join(TRACING);
    directory(&root.join("events"))?;
    for (name, text) in COMMON_FILES {
        file(&trees.join(name), text, 0o440)?;
    }
    let mut names = String::new();
    for tracepoint in Tracepoint::all() {
        let (category, name) = (tracepoint.category(), tracepoint.name());
        let event = root.join("events").join(category).join(&name);
        make_event(&root, &event, tracepoint.id(), &tracepoint.format())?;
        names += &format!("{category}:{name}\n");
    }
    file(&root.join("available_events"), &names, 0o440)?;
    let functions: String = kprobe::functions().map(|(_, name)| name + "\n").collect();
    file(&root.join("available_filter_functions"), &functions, 0o440)?;
    file(&root.join("trace_pipe"), "", 0o440)?;
    for kind in [Kind::Uprobe, Kind::Kprobe] {
        file(&root.join(kind.file()), "", 0o640)?;
    }
    Ok(())
}

/// Makes the directory of an event, below `root`, and its group's.
pub fn make_event(root: &Path, event: &Path, id: u32, format: &str) -> io::Result<()> {
    directory(event)?;
    for group in [Some(event), event.parent()].into_iter().flatten() {
        for (name, _) in COMMON_FILES {
            match fs::hard_link(root.with_file_name(name), group.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }
    file(&event.join("format"), format, 0o440)?;
    file(&event.join("id"), &format!("{id}\n"), 0o440)
}

/// With its parents, as those of tracefs can be entered by anybody.
fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

fn file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// Puts a text in the place of a file's, all of it at once.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let trees = server::own_path().ok_or(io::ErrorKind::NotFound)?;
    // Whose process ended in the middle left it there.
    let new = trees.with_file_name(format!(".{name}.new"));
    drop(fs::remove_file(&new));
    file(&new, text, 0o640)?;
    fs::rename(&new, path)
}
