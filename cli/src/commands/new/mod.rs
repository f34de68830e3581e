//! `bpftime new`: a project to begin with, which `bpftime build` and `bpftime
//! run` take as it is. It knows no compiler.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::commands::build::output;
use crate::problem::Problem;

/// Begin a project: a source, a header and how to build and run them
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The project and its directory
    #[arg(value_name = "NAME")]
    name: PathBuf,

    /// What the project is to begin with
    #[arg(long, short, value_enum, default_value_t = Template::Uprobe)]
    template: Template,
}

const EXAMPLES: &str = "\
Examples:
  bpftime new lookups && cd lookups && cat README.md
  bpftime new opens --template syscall";

/// What there is to begin with.
#[derive(Clone, Copy, ValueEnum)]
enum Template {
    /// A probe on a function of a library
    Uprobe,
    /// A tracepoint of a system call
    Syscall,
    /// A map that is shown as a histogram
    Histogram,
}

/// What the name of a project is in templates.
const NAME: &str = "@NAME@";

const IGNORED: &str = "*.bpf.o\npackage.json\n";

impl Template {
    /// The program's source and its header.
    fn sources(self) -> (&'static str, &'static str) {
        match self {
            Template::Uprobe => (
                include_str!("templates/uprobe.bpf.c"),
                include_str!("templates/uprobe.h"),
            ),
            Template::Syscall => (
                include_str!("templates/syscall.bpf.c"),
                include_str!("templates/syscall.h"),
            ),
            Template::Histogram => (
                include_str!("templates/histogram.bpf.c"),
                include_str!("templates/histogram.h"),
            ),
        }
    }

    /// Something to look at, and what the program is about.
    fn example(self) -> (&'static str, &'static str) {
        match self {
            Template::Uprobe => ("Names that programs look up.", "getent ahosts localhost"),
            Template::Syscall => ("Files that programs open.", "cat /etc/hostname"),
            Template::Histogram => (
                "Sizes of writes.",
                "dd if=/dev/zero of=/dev/null bs=1k count=100",
            ),
        }
    }

    fn files(self, name: &str) -> [(String, String); 4] {
        let (source, header) = self.sources();
        let (about, example) = self.example();
        let readme = format!(
            "# {name}\n{about}\n\n    bpftime build {name}.bpf.c {name}.h\n    \
             bpftime run package.json -- {example}\n"
        );
        [
            (format!("{name}.bpf.c"), source.replace(NAME, name)),
            (format!("{name}.h"), header.to_owned()),
            ("README.md".to_owned(), readme),
            (".gitignore".to_owned(), IGNORED.to_owned()),
        ]
    }
}

pub fn run(args: &Args) -> Result<(), Problem> {
    let dir = args.name.as_path();
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        return Err(Problem::new(
            dir.display(),
            "is no name for a project",
            "use letters, digits, - and _ only",
        ));
    }
    // Made here or not at all: nobody's files are written over.
    fs::create_dir(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Problem::new(
            dir.display(),
            "is there already",
            "choose another name, or remove it",
        ),
        _ => output::refused(dir, &error),
    })?;
    let files = args.template.files(&name);
    let files = files.map(|(file, text)| (dir.join(file), text.into_bytes()));
    output::write(&files).inspect_err(|_| {
        // Empty, as none of the files is there.
        let _ = fs::remove_dir(dir);
    })?;
    super::print(&told(dir, &name))
}

fn told(dir: &Path, name: &str) -> String {
    format!(
        "{}: build it by bpftime build {name}.bpf.c {name}.h; README.md says how to run it\n",
        dir.display()
    )
}
