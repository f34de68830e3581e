//! A Wasm module's story: the words behind its file are its own.

use wasm::{Error, Limits, Module};

use super::here::Asked;
use crate::problem::{CANNOT_RUN, Problem};

pub fn run(asked: &Asked<'_>, bytes: &[u8]) -> Result<(), Problem> {
    let words = |word: &std::ffi::OsString| word.to_string_lossy().into_owned();
    let mut arguments = vec![asked.file.display().to_string()];
    arguments.extend(asked.behind.iter().map(words));
    let module = Module {
        bytes,
        arguments,
        directories: Vec::new(),
        callback_module: "callback-wrapper",
        callback_export: "go-callback",
        limits: Limits::default(),
    };
    match wasm::run(&module) {
        Ok(0) => Ok(()),
        Ok(status) => std::process::exit(status),
        Err(error) => Err(problem(asked, &error)),
    }
}

fn problem(asked: &Asked<'_>, error: &Error) -> Problem {
    let advice = match error {
        Error::NotAModule(_) => "compile it again: the file is damaged or made for something else",
        Error::Component => "build it for wasm32-wasip1",
        Error::ImportType { .. } | Error::Import(_) => {
            "see docs/support.md for what modules may import"
        }
        Error::NoStart => "build it as a command, not as a library",
        Error::Directory { .. } => "check --dir",
        Error::Trap(_) => "it is the module's own fault; ask who made it",
        Error::Timeout => "give it more time",
        Error::Host(_) => "report it, please",
    };
    Problem::new(asked.file.display(), error, advice).with_status(CANNOT_RUN)
}
