//! From the bytes of a module to its exit code.

use std::path::PathBuf;

use send_wrapper::SendWrapper;
use wasmtime::{Config, Engine, Linker, Store, StoreLimitsBuilder, Trap};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

use crate::abi;
use crate::guest::{Guest, State};

/// What a guest may take of the host.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: usize,
    /// Elements of its tables.
    pub table: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: 512 << 20,
            table: 1 << 20,
        }
    }
}

/// A module and what it is run with.
#[derive(Debug, Clone)]
pub struct Module<'a> {
    /// Its bytes, binary or as text.
    pub bytes: &'a [u8],
    /// Its arguments; the first is its name.
    pub arguments: Vec<String>,
    /// Directories that it may use: of the host, and by its own names.
    pub directories: Vec<(PathBuf, String)>,
    /// Where it imports polling with an exported function from
    /// (`callback-wrapper`).
    pub callback_module: &'a str,
    /// That function (`go-callback`).
    pub callback_export: &'a str,
    /// What it may take.
    pub limits: Limits,
}

/// Why a module did not run, or did not run to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("is no Wasm module ({0})")]
    NotAModule(String),
    #[error("is a Wasm component, which bpftime cannot run")]
    Component,
    #[error("imports {import} with a type that it never had")]
    ImportType { import: String },
    #[error("needs what bpftime does not have ({0})")]
    Import(String),
    #[error("has no function _start")]
    NoStart,
    #[error("may use directory {path}, which cannot be opened ({reason})")]
    Directory { path: String, reason: String },
    #[error("ended by a trap: {0}")]
    Trap(String),
    #[error("took too long")]
    Timeout,
    #[error("cannot be hosted ({0})")]
    Host(String),
}

/// Runs a module and gives its exit code. What it loaded, attached and opened
/// is gone afterwards.
///
/// # Errors
/// If it cannot run, or traps.
pub fn run(module: &Module<'_>) -> Result<i32, Error> {
    let engine = engine()?;
    let compiled = compile(&engine, module.bytes)?;
    let mut linker: Linker<State> = Linker::new(&engine);
    p1::add_to_linker_sync(&mut linker, |state: &mut State| &mut state.wasi).map_err(host)?;
    abi::link(&mut linker, &compiled, module)?;

    let limits = StoreLimitsBuilder::new()
        .memory_size(module.limits.memory)
        .table_elements(module.limits.table)
        .instances(1)
        .tables(8)
        .memories(1)
        .build();
    let state = State {
        wasi: wasi(module)?,
        limits,
        guest: SendWrapper::new(Guest::default()),
        directories: module
            .directories
            .iter()
            .map(|(path, _)| path.clone())
            .collect(),
    };
    let mut store = Store::new(&engine, state);
    store.limiter(|state| &mut state.limits);
    let instance = linker
        .instantiate(&mut store, &compiled)
        .map_err(|error| Error::Import(first_line(&error)))?;
    let start = instance
        .get_typed_func::<(), ()>(&mut store, "_start")
        .map_err(|_| Error::NoStart)?;
    match start.call(&mut store, ()) {
        Ok(()) => Ok(0),
        Err(error) => match (
            error.downcast_ref::<I32Exit>(),
            error.downcast_ref::<Trap>(),
        ) {
            (Some(exit), _) => Ok(exit.0),
            (None, Some(trap)) => Err(Error::Trap(trap.to_string())),
            (None, None) => Err(Error::Trap(first_line(&error))),
        },
    }
}

fn engine() -> Result<Engine, Error> {
    let mut config = Config::new();
    config.wasm_backtrace_max_frames(None);
    Engine::new(&config).map_err(host)
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<wasmtime::Module, Error> {
    /// The layer of a component in its header (the component model's binary format).
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    if bytes.starts_with(COMPONENT) {
        return Err(Error::Component);
    }
    wasmtime::Module::new(engine, bytes).map_err(|error| Error::NotAModule(first_line(&error)))
}

fn wasi(module: &Module<'_>) -> Result<WasiP1Ctx, Error> {
    let mut builder = WasiCtxBuilder::new();
    builder
        .inherit_stdio()
        // There is one thread, and nothing else waits for it.
        .allow_blocking_current_thread(true)
        .args(&module.arguments);
    for (path, name) in &module.directories {
        builder
            .preopened_dir(path, name, FsPerms::ReadWrite)
            .map_err(|error| Error::Directory {
                path: path.display().to_string(),
                reason: first_line(&error),
            })?;
    }
    Ok(builder.build_p1())
}

fn host(error: wasmtime::Error) -> Error {
    Error::Host(first_line(&error))
}

/// The innermost reason, in one line.
fn first_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}
