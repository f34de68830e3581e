//! Takes an object's debugging information away, which is many times as long
//! as all that a loader looks at.

use std::fs;

use libbpf_rs::Linker;
use object::ElfFile;

use crate::problem::Problem;

/// The object without it, or as it is if it has none.
pub fn without_debug_info(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let has = ElfFile::parse(bytes).is_ok_and(|elf| elf.section(".debug_info").is_some());
    if !has {
        return Ok(bytes.to_vec());
    }
    // libbpf's linker copies what loaders need, and works on files.
    let directory = std::env::temp_dir().join(format!("bpftime-gen-{}", std::process::id()));
    let linked = link(&directory, bytes);
    // What cannot be removed does no harm.
    let _ = fs::remove_dir_all(&directory);
    linked.map_err(|error| {
        Problem::new(
            directory.display(),
            format_args!("cannot be used to link the object ({error})"),
            "check TMPDIR, or take debugging information away by llvm-strip -g",
        )
    })
}

fn link(directory: &std::path::Path, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    fs::create_dir(directory)?;
    let (from, to) = (directory.join("in.bpf.o"), directory.join("out.bpf.o"));
    fs::write(&from, bytes)?;
    let mut linker = Linker::new(&to)?;
    linker.add_file(&from)?;
    linker.link()?;
    Ok(fs::read(&to)?)
}
