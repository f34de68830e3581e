//! The older interface of modules, from before wasm-bpf: a module hands over a
//! JSON package as a whole, and gets all records in one function of its own.
//! Its `main` is called `bpf_main`, and its arguments come as JSON, too.

use loader::{Buffers, Loaded, Opened, Options, Record, Target};
use package::Package;
use wasmtime::{Caller, Func, FuncType, Instance, Store, TypedFunc};

use crate::guest::State;
use crate::memory;
use crate::objects::tell;
use crate::run::MAX_MODULE;
use crate::stop::LOOK;

/// The module of imports.
const NAMESPACE: &str = "env";
/// The guest's main function.
pub(crate) const MAIN: &str = "bpf_main";
/// Bytes of the place for records, which longer ones are cut to.
const RECORD: usize = 4096;
/// Most packages of a guest.
const MAX_PACKAGES: usize = 64;
/// Bytes of a page of memory.
const PAGE: u64 = 65536;

/// A package of a guest's.
pub enum Held {
    /// It was read.
    Opened(Box<Opened>),
    /// Its programs run.
    Running(Box<(Buffers, Loaded)>),
    /// It could not be run.
    Gone,
}

/// The function of this interface that a module imports by this name.
pub(crate) fn function(
    store: &mut Store<State>,
    namespace: &str,
    name: &str,
    ty: &FuncType,
) -> Option<Func> {
    if namespace != NAMESPACE {
        return None;
    }
    let function = match name {
        "create_bpf" => Func::wrap(
            &mut *store,
            |mut caller: Caller<'_, State>, at: i32, size: i32| {
                create(&mut caller, at.cast_unsigned(), size).unwrap_or_else(|errno| errno)
            },
        ),
        "run_bpf" => Func::wrap(&mut *store, |mut caller: Caller<'_, State>, id: i32| {
            start(caller.data_mut(), id).map_or_else(|errno| errno, |()| 0)
        }),
        "wait_and_poll_bpf" => Func::wrap(&mut *store, |mut caller: Caller<'_, State>, id: i32| {
            follow(&mut caller, id)
        }),
        _ => return None,
    };
    // A function of another type under one of these names is another's.
    function.ty(&*store).matches(ty).then_some(function)
}

/// Calls `bpf_main` with the arguments.
pub(crate) fn main(
    store: &mut Store<State>,
    instance: &Instance,
    main: &TypedFunc<(i32, i32), i32>,
    arguments: &[Vec<u8>],
) -> wasmtime::Result<i32> {
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, "_initialize") {
        initialize.call(&mut *store, ())?;
    }
    // JSON has no other bytes than text.
    let words = arguments.iter().map(|word| String::from_utf8_lossy(word));
    let mut text = serde_json::to_vec(&words.collect::<Vec<_>>())?;
    let length = i32::try_from(text.len())?;
    text.push(0);
    let arguments = place(store, instance, text.len())?;
    let record = place(store, instance, RECORD)?;
    let no_memory = || wasmtime::Error::msg("exports no memory");
    let memory = instance
        .get_memory(&mut *store, "memory")
        .ok_or_else(no_memory)?;
    memory.write(&mut *store, arguments as usize, &text)?;
    store.data_mut().record = record;
    main.call(store, (arguments.cast_signed(), length))
}

/// A part of the guest's memory that it does not use otherwise: by its own
/// malloc(3), or behind what it has.
fn place(store: &mut Store<State>, instance: &Instance, size: usize) -> wasmtime::Result<u32> {
    let own = instance.get_typed_func::<i32, i32>(&mut *store, "malloc");
    if let Ok(malloc) = own {
        let at = malloc.call(&mut *store, i32::try_from(size)?)?;
        if at != 0 {
            return Ok(at.cast_unsigned());
        }
    }
    let no_memory = || wasmtime::Error::msg("exports no memory");
    let memory = instance
        .get_memory(&mut *store, "memory")
        .ok_or_else(no_memory)?;
    let pages = memory.grow(&mut *store, (size as u64).div_ceil(PAGE))?;
    Ok(u32::try_from(pages * PAGE)?)
}

/// `create_bpf`: the package's number.
fn create(caller: &mut Caller<'_, State>, at: u32, size: i32) -> memory::Result<i32> {
    let size = usize::try_from(size).map_err(|_| -libc::EINVAL)?;
    if size > MAX_MODULE {
        return Err(-libc::E2BIG);
    }
    let bytes = memory::read(caller, at.into(), size)?;
    let State { guest, wishes, .. } = caller.data_mut();
    if guest.packages.len() >= MAX_PACKAGES {
        return Err(-libc::EMFILE);
    }
    let refuse = |error: &dyn std::fmt::Display| {
        tell(error);
        -libc::EINVAL
    };
    let package = Package::parse(&bytes).map_err(|error| refuse(&error))?;
    let object = package.object.as_deref().ok_or(-libc::EINVAL)?;
    let options = Options {
        name: "guest".to_owned(),
        btf: wishes.btf.clone(),
    };
    let opened = Opened::read(object, &options).and_then(|mut opened| {
        set(&mut opened, &package)?;
        Ok(opened)
    });
    let opened = opened.map_err(|error| {
        tell(&error);
        -error.errno
    })?;
    guest.packages.push(Held::Opened(Box::new(opened)));
    Ok(guest.packages.len() as i32 - 1)
}

/// Gives variables the values that the package has for them. Of others than
/// the object's it may speak, as it always could.
fn set(opened: &mut Opened, package: &Package) -> Result<(), loader::Error> {
    let Some(btf) = opened.types()? else {
        return Ok(());
    };
    for variable in loader::globals::variables(&btf) {
        let Some(value) = package.meta.runtime_args.get(&variable.name) else {
            continue;
        };
        let words = match value {
            serde_json::Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let place = variable.offset..variable.offset + variable.size;
        let section = opened.section_mut(&variable.section);
        match (
            variable.bytes(&btf, &words),
            section.and_then(|section| section.get_mut(place)),
        ) {
            (Ok(bytes), Some(place)) => place.copy_from_slice(&bytes),
            (Err(reason), _) => tell(&format_args!("{}: {reason}", variable.name)),
            (_, None) => {}
        }
    }
    Ok(())
}

/// `run_bpf`: loads the programs and puts each where its section says.
fn start(state: &mut State, id: i32) -> memory::Result<()> {
    let State { guest, wishes, .. } = state;
    let held = usize::try_from(id)
        .ok()
        .and_then(|id| guest.packages.get_mut(id));
    let held = held.ok_or(-libc::EINVAL)?;
    let opened = match std::mem::replace(held, Held::Gone) {
        Held::Opened(opened) => opened,
        other => {
            *held = other;
            return Err(-libc::EINVAL);
        }
    };
    let started = opened.load().and_then(|mut loaded| {
        let buffers = loaded.buffers()?;
        for program in loaded.programs() {
            let words = wishes.target(&program.name).unwrap_or("");
            loaded.attach(&program.name, &Target::from(words), wishes.pid)?;
        }
        Ok((buffers, loaded))
    });
    let started = started.map_err(|error| {
        tell(&error);
        -error.errno
    })?;
    *held = Held::Running(Box::new(started));
    Ok(())
}

/// `wait_and_poll_bpf`: hands records to `process_event` until the guest ends.
fn follow(caller: &mut Caller<'_, State>, id: i32) -> wasmtime::Result<i32> {
    let process = caller
        .get_export("process_event")
        .and_then(|export| export.into_func());
    let process = process.and_then(|process| process.typed::<(i32, i32, i32), i32>(&*caller).ok());
    let at = caller.data().record;
    loop {
        caller.data().stop.check()?;
        let held = usize::try_from(id).ok();
        let held = held.and_then(|id| caller.data_mut().guest.packages.get_mut(id));
        let Some(Held::Running(running)) = held else {
            return Ok(-libc::EINVAL);
        };
        let mut records = Vec::new();
        let polled = poll(&mut running.0, &mut records);
        if let Err(error) = polled {
            return Ok(-error.errno);
        }
        let Some(process) = &process else {
            continue;
        };
        for record in &records {
            if memory::write(caller, at.into(), record).is_err() {
                return Ok(-libc::EFAULT);
            }
            // A negative answer keeps the record from others; there are none.
            process.call(&mut *caller, (0, at.cast_signed(), record.len() as i32))?;
        }
    }
}

/// Waits for records, or for a while.
fn poll(buffers: &mut Buffers, records: &mut Vec<Vec<u8>>) -> Result<(), loader::Error> {
    if buffers.is_empty() {
        std::thread::sleep(LOOK);
        return Ok(());
    }
    let mut lost = 0;
    let polled = buffers.poll(LOOK, |record| match record {
        Record::Bytes { bytes, .. } => records.push(bytes[..bytes.len().min(RECORD)].to_vec()),
        Record::Lost { count, .. } => lost += count,
    });
    if lost > 0 {
        tell(&format_args!(
            "{lost} records were lost, for the module did not read them in time"
        ));
    }
    match polled {
        Err(error) if error.errno != libc::EINTR => Err(error),
        _ => Ok(()),
    }
}
