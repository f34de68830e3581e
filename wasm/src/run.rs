//! From the bytes of a module to its exit code.

use std::path::PathBuf;
use std::sync::Arc;

use send_wrapper::SendWrapper;
use wasmtime::{Config, Engine, ExternType, Instance, Linker, Store, StoreLimitsBuilder, Trap};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

use crate::cache::{Cache, Key};
use crate::guest::{Guest, State, Wishes};
use crate::sleep::Clock;
use crate::stop::{Reason, Stop};
use crate::{imports, packages, streams};

/// Most bytes of a module; those of tools have a thousandth to a tenth of that.
pub(crate) const MAX_MODULE: usize = 64 << 20;

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
    pub arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// Directories that it may use.
    pub directories: Vec<Directory>,
    /// Where it imports polling with an exported function from
    /// (`callback-wrapper`).
    pub callback_module: &'a str,
    /// That function (`go-callback`).
    pub callback_export: &'a str,
    /// What it may take.
    pub limits: Limits,
    /// A directory for compiled modules.
    pub cache: Option<PathBuf>,
    /// What its user says of the programs that it loads.
    pub wishes: Wishes,
}

/// A directory of the host that a module may use.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Where it is.
    pub host: PathBuf,
    /// What the module calls it.
    pub guest: String,
    /// Whether nothing in it may be changed.
    pub read_only: bool,
}

/// Why a module did not run, or did not run to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("is no Wasm module ({0})")]
    NotAModule(String),
    #[error("is larger than the {MAX_MODULE} bytes that a module may have")]
    TooLarge,
    #[error("is a Wasm component, which bpftime cannot run")]
    Component,
    #[error("imports {import} with a type that it never had")]
    ImportType { import: String },
    #[error("imports {import}, which bpftime does not have")]
    Import { import: String },
    #[error("exports no memory")]
    NoMemory,
    #[error("has no function _start")]
    NoStart,
    #[error("may use directory {path}, which cannot be opened ({reason})")]
    Directory { path: String, reason: String },
    #[error("ended by a trap: {0}")]
    Trap(String),
    #[error("cannot be started ({0})")]
    Start(String),
    #[error("was stopped")]
    Stopped(Reason),
    #[error("cannot be hosted ({0})")]
    Host(String),
}

/// Runs a module and gives its exit code. What it loaded, attached and opened
/// is gone afterwards.
///
/// # Errors
/// If it cannot run, traps, or is asked to end by `stop`.
pub fn run(module: &Module<'_>, stop: &Arc<Stop>) -> Result<i32, Error> {
    let engine = engine()?;
    stop.begin(&engine);
    let compiled = compile(&engine, module)?;
    let mut linker: Linker<State> = Linker::new(&engine);
    p1::add_to_linker_sync(&mut linker, |state: &mut State| &mut state.wasi).map_err(host)?;
    let mut store = Store::new(&engine, state(module, stop)?);
    store.limiter(|state| &mut state.limits);
    // The first request to end is the first epoch.
    store.set_epoch_deadline(1);
    let imports = imports::resolve(&mut store, &linker, &compiled, module)?;
    let is_function = |name| matches!(compiled.get_export(name), Some(ExternType::Func(_)));
    if !is_function("_start") && !is_function(packages::MAIN) {
        return Err(Error::NoStart);
    }
    if stop.asked().is_some() {
        // The epoch may have moved before there was a deadline.
        store.set_epoch_deadline(0);
    }
    let ended = Instance::new(&mut store, &compiled, &imports)
        .map_err(|error| ended(&error, stop, Error::Start))
        .and_then(|instance| start(&mut store, &instance, module, stop));
    stop.end();
    match ended {
        Ok(status) | Err(Ended::Status(status)) => Ok(status),
        Err(Ended::Error(error)) => Err(error),
    }
}

/// Calls a module's main function, of either age.
fn start(
    store: &mut Store<State>,
    instance: &Instance,
    module: &Module<'_>,
    stop: &Stop,
) -> Result<i32, Ended> {
    let called = match (
        instance.get_typed_func::<(), ()>(&mut *store, "_start"),
        instance.get_typed_func::<(i32, i32), i32>(&mut *store, packages::MAIN),
    ) {
        (Ok(start), _) => start.call(store, ()).map(|()| 0),
        (_, Ok(main)) => packages::main(store, instance, &main, &module.arguments),
        _ => return Err(Ended::Error(Error::NoStart)),
    };
    called.map_err(|error| ended(&error, stop, Error::Trap))
}

/// How a guest ended that did not return.
enum Ended {
    Status(i32),
    Error(Error),
}

/// Tells it from what wasmtime says; `other` is for what is none of its traps.
fn ended(error: &wasmtime::Error, stop: &Stop, other: fn(String) -> Error) -> Ended {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ended::Status(exit.0);
    }
    if let Some(reason) = stop.asked() {
        return Ended::Error(Error::Stopped(reason));
    }
    Ended::Error(match error.downcast_ref::<Trap>() {
        Some(trap) => Error::Trap(trap.to_string()),
        None => other(first_line(error)),
    })
}

fn state(module: &Module<'_>, stop: &Arc<Stop>) -> Result<State, Error> {
    let limits = StoreLimitsBuilder::new()
        .memory_size(module.limits.memory)
        .table_elements(module.limits.table)
        .instances(1)
        .tables(8)
        .memories(1)
        .build();
    let directories = module.directories.iter().map(|one| one.host.clone());
    Ok(State {
        wasi: wasi(module, stop)?,
        limits,
        guest: SendWrapper::new(Guest::default()),
        arguments: module.arguments.clone(),
        directories: directories.collect(),
        memory: None,
        stop: Arc::clone(stop),
        wishes: module.wishes.clone(),
        record: 0,
    })
}

fn engine() -> Result<Engine, Error> {
    let mut config = Config::new();
    config.wasm_backtrace_max_frames(None);
    config.epoch_interruption(true);
    Engine::new(&config).map_err(host)
}

fn compile(engine: &Engine, module: &Module<'_>) -> Result<wasmtime::Module, Error> {
    /// The layer of a component in its header (the component model's binary format).
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    let bytes = module.bytes;
    if bytes.len() > MAX_MODULE {
        return Err(Error::TooLarge);
    }
    if bytes.starts_with(COMPONENT) {
        return Err(Error::Component);
    }
    let cache = module.cache.as_deref().and_then(Cache::open);
    let cache = cache.map(|cache| (cache, Key::new(engine, bytes)));
    let stored = cache.as_ref().and_then(|(cache, key)| cache.get(key));
    if let Some(code) = stored {
        // SAFETY: wants what `serialize` gave, and that is what `Cache::get` gives:
        // `put` below is its only source, its directory and file were this user's
        // and closed to all others when they were opened, and the bytes, a copy
        // of our own by now, are those that were stored (their digest says so).
        // What another version or configuration made has another key, and
        // wasmtime looks at that, too.
        if let Ok(compiled) = unsafe { wasmtime::Module::deserialize(engine, code) } {
            return Ok(compiled);
        }
    }
    let compiled = wasmtime::Module::new(engine, bytes)
        .map_err(|error| Error::NotAModule(first_line(&error)))?;
    if let Some((cache, key)) = cache
        && let Ok(code) = compiled.serialize()
    {
        cache.put(&key, &code);
    }
    Ok(compiled)
}

fn wasi(module: &Module<'_>, stop: &Arc<Stop>) -> Result<WasiP1Ctx, Error> {
    let mut builder = WasiCtxBuilder::new();
    streams::inherit(&mut builder, stop);
    builder
        // There is one thread, and nothing else waits for it.
        .allow_blocking_current_thread(true)
        .monotonic_clock(Clock)
        .envs(&module.environment);
    for one in &module.directories {
        let allowed = match one.read_only {
            true => FsPerms::ReadOnly,
            false => FsPerms::ReadWrite,
        };
        builder
            .preopened_dir(&one.host, &one.guest, allowed)
            .map_err(|error| Error::Directory {
                path: one.host.display().to_string(),
                reason: without_number(&first_line(&error)),
            })?;
    }
    Ok(builder.build_p1())
}

fn host(error: wasmtime::Error) -> Error {
    Error::Host(first_line(&error))
}

/// What Rust says of a system call's error, without its number.
fn without_number(text: &str) -> String {
    let words = text.split(" (os error ").next();
    words.unwrap_or(text).to_owned()
}

/// The innermost reason, in one line.
fn first_line(error: &wasmtime::Error) -> String {
    let text = error.root_cause().to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
