//! `bpftime new`: a project to begin with, which `bpftime build` or `make` and
//! `bpftime run` take as it is. It knows no compiler.
//!
//! `template` has the files.

mod template;

use std::fs;
use std::path::{Path, PathBuf};

use crate::commands::build::output;
use crate::commands::generate;
use crate::problem::Problem;
use template::Template;

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
  bpftime new opens --template syscall
  bpftime new hello --template wasm && cd hello && make";

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
    // cargo's rule.
    if matches!(args.template, Template::WasmRust) && name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(Problem::new(
            dir.display(),
            "is no name for a crate",
            "begin it with a letter",
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
    let mut made = vec![dir.to_owned()];
    let object = generate::default_name(Path::new(&format!("{name}.bpf.o")));
    let files = args.template.files(&name, &object);
    fill(dir, &files, &mut made).inspect_err(|_| {
        // Empty, as none of the files is there.
        for dir in made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    })?;
    super::print(&told(args.template, dir, &name))
}

/// Writes the files; `made` are the directories that were made for them.
fn fill(dir: &Path, files: &[(String, String)], made: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let files = files.iter();
    let files: Vec<_> = files
        .map(|(file, text)| (dir.join(file), text.as_bytes().to_vec()))
        .collect();
    for (file, _) in &files {
        let parents: Vec<&Path> = file.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            if !parent.starts_with(dir) || made.iter().any(|made| made == parent) {
                continue;
            }
            fs::create_dir(parent).map_err(|error| output::refused(parent, &error))?;
            made.push(parent.to_owned());
        }
    }
    output::write(&files)
}

fn told(template: Template, dir: &Path, name: &str) -> String {
    format!(
        "{}: build it by {}; README.md says how to run it\n",
        dir.display(),
        template.build().replace(template::NAME, name)
    )
}
