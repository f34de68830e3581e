//! The imports of wasm-bpf, in every shape that published modules have. A
//! module declares the types of what it imports, and gets the function with
//! just these: guests in Rust and Go pass pointers as 64-bit words, those in C
//! as 32-bit ones.

use wasmtime::{Caller, Func, FuncType, Store, Val, ValType};

use crate::guest::State;
use crate::memory::Result;
use crate::poll::{self, Ended};
use crate::run::Module;
use crate::{maps, objects};

/// The module of imports, and the one in which they were before 2023.
const NAMESPACES: [&str; 2] = ["wasm_bpf", "env"];

/// The calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Load,
    Close,
    Attach,
    AttachFd,
    Poll,
    MapFd,
    MapOperate,
    /// Polling with a function that the guest exports, for compilers whose
    /// functions are in no table.
    PollExported,
}

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// A place in the guest's memory: either.
    Pointer,
}

impl Call {
    fn named(name: &str) -> Option<Call> {
        Some(match name {
            "wasm_load_bpf_object" => Call::Load,
            "wasm_close_bpf_object" => Call::Close,
            "wasm_attach_bpf_program" => Call::Attach,
            "wasm_attach_bpf_program_fd" => Call::AttachFd,
            "wasm_bpf_buffer_poll" => Call::Poll,
            "wasm_bpf_map_fd_by_name" => Call::MapFd,
            "wasm_bpf_map_operate" => Call::MapOperate,
            _ => return None,
        })
    }

    /// Parameters and result.
    fn shape(self) -> (&'static [Word], Word) {
        use Word::{Int, Long, Pointer};
        match self {
            Call::Load => (&[Pointer, Int], Long),
            Call::Close => (&[Long], Int),
            Call::Attach => (&[Long, Pointer, Pointer], Int),
            Call::AttachFd => (&[Long, Pointer, Int], Int),
            Call::Poll => (&[Long, Int, Int, Int, Pointer, Int, Int], Int),
            Call::PollExported => (&[Long, Int, Int, Pointer, Int, Int], Int),
            Call::MapFd => (&[Long, Pointer], Int),
            Call::MapOperate => (&[Int, Int, Pointer, Pointer, Pointer, Long], Int),
        }
    }

    fn fits(self, ty: &FuncType) -> bool {
        let fits = |word: Word, ty: ValType| match ty {
            ValType::I32 => word != Word::Long,
            ValType::I64 => word != Word::Int,
            _ => false,
        };
        let (parameters, result) = self.shape();
        let same = |words: &[Word], types: &[ValType]| {
            words.len() == types.len()
                && words
                    .iter()
                    .zip(types)
                    .all(|(word, ty)| fits(*word, ty.clone()))
        };
        let types: Vec<ValType> = ty.params().collect();
        let results: Vec<ValType> = ty.results().collect();
        same(parameters, &types) && same(&[result], &results)
    }
}

/// An import of ours in a shape that it never had.
pub(crate) struct WrongType;

/// The function that a module imports by this name, if it is one of ours.
pub(crate) fn function(
    store: &mut Store<State>,
    namespace: &str,
    name: &str,
    ty: &FuncType,
    module: &Module<'_>,
) -> std::result::Result<Option<Func>, WrongType> {
    let wrapped = namespace == module.callback_module && name == "wasm_bpf_buffer_poll";
    let call = match Call::named(name) {
        _ if wrapped => Call::PollExported,
        Some(call) if NAMESPACES.contains(&namespace) => call,
        _ => return Ok(None),
    };
    if !call.fits(ty) {
        return Err(WrongType);
    }
    if call == Call::MapOperate
        && let Some(function) = map_operate(store, ty)
    {
        return Ok(Some(function));
    }
    let callback = module.callback_export.to_owned();
    let function = move |mut caller: Caller<'_, State>, words: &[Val], result: &mut [Val]| {
        let words: Vec<u64> = words.iter().map(word).collect();
        let value = answer(&mut caller, call, &words, &callback)?;
        result[0] = match call.shape().1 {
            Word::Long => Val::I64(value),
            _ => Val::I32(value as i32),
        };
        Ok(())
    };
    Ok(Some(Func::new(store, ty.clone(), function)))
}

/// Operations on maps for the usual shapes, with pointers that are all of one
/// width: guests make millions of them.
fn map_operate(store: &mut Store<State>, ty: &FuncType) -> Option<Func> {
    fn operate<P: Into<u64>>(
        mut caller: Caller<'_, State>,
        (fd, command): (i32, i32),
        (key, value, next_key): (P, P, P),
        flags: u64,
    ) -> i32 {
        let arguments = maps::Arguments {
            key: key.into(),
            value: value.into(),
            next_key: next_key.into(),
            flags,
        };
        maps::operate(&mut caller, fd, command, arguments).unwrap_or_else(|errno| errno)
    }
    let narrow =
        |caller: Caller<'_, State>, fd, command, key: u32, value: u32, next: u32, flags| {
            operate(caller, (fd, command), (key, value, next), flags)
        };
    let wide = |caller: Caller<'_, State>, fd, command, key: u64, value: u64, next: u64, flags| {
        operate(caller, (fd, command), (key, value, next), flags)
    };
    let functions = [
        Func::wrap(&mut *store, narrow),
        Func::wrap(&mut *store, wide),
    ];
    functions
        .into_iter()
        .find(|function| function.ty(&*store).matches(ty))
}

/// A word of a guest's; 32 bits are not extended by their sign.
fn word(value: &Val) -> u64 {
    match value {
        Val::I32(word) => u64::from(word.cast_unsigned()),
        Val::I64(word) => word.cast_unsigned(),
        // The type was checked.
        _ => 0,
    }
}

fn int(word: u64) -> i32 {
    (word as u32).cast_signed()
}

/// Makes a call. An error is the end of the guest.
fn answer(
    caller: &mut Caller<'_, State>,
    call: Call,
    words: &[u64],
    callback: &str,
) -> wasmtime::Result<i64> {
    let status = match (call, words) {
        (Call::Load, &[at, length]) => {
            return Ok(objects::load(caller, at, length).cast_signed());
        }
        (Call::Close, &[object]) => objects::close(caller, object),
        (Call::Attach, &[object, name, target]) => objects::attach(caller, object, name, target),
        (Call::AttachFd, &[object, name, fd]) => objects::attach_fd(caller, object, name, int(fd)),
        (Call::MapFd, &[object, name]) => objects::map_fd(caller, object, name),
        (Call::MapOperate, &[fd, command, key, value, next_key, flags]) => {
            let arguments = maps::Arguments {
                key,
                value,
                next_key,
                flags,
            };
            maps::operate(caller, int(fd), int(command), arguments)
        }
        (Call::Poll, &[object, fd, function, context, data, size, timeout]) => {
            let arguments = arguments(object, fd, context, data, size, timeout);
            let function = poll::in_table(caller, int(function));
            return polled(caller, arguments, function);
        }
        (Call::PollExported, &[object, fd, context, data, size, timeout]) => {
            let arguments = arguments(object, fd, context, data, size, timeout);
            let function = poll::exported(caller, callback);
            return polled(caller, arguments, function);
        }
        // The type was checked.
        _ => Err(-libc::EINVAL),
    };
    Ok(i64::from(status.unwrap_or_else(|errno| errno)))
}

fn arguments(
    object: u64,
    fd: u64,
    context: u64,
    data: u64,
    size: u64,
    timeout: u64,
) -> poll::Arguments {
    poll::Arguments {
        object,
        fd: int(fd),
        context: int(context),
        data,
        size: int(size),
        timeout: int(timeout),
    }
}

fn polled(
    caller: &mut Caller<'_, State>,
    arguments: poll::Arguments,
    function: Result<wasmtime::TypedFunc<(i32, i32, i32), i32>>,
) -> wasmtime::Result<i64> {
    let polled = function
        .map_err(Ended::Errno)
        .and_then(|function| poll::poll(caller, arguments, &function));
    match polled {
        Ok(value) | Err(Ended::Errno(value)) => Ok(i64::from(value)),
        Err(Ended::Trap(error)) => Err(error),
    }
}
