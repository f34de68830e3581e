//! What a module imports, found one by one: so two imports of one function may
//! differ in their types, and what is missing has a name.

use wasmtime::{Extern, ExternType, Func, FuncType, Linker, Module as Compiled, Store, ValType};
use wasmtime_wasi::I32Exit;

use crate::guest::State;
use crate::run::{Error, Module};
use crate::{abi, arguments, packages, sleep};

/// WASI preview 1.
const WASI: &str = "wasi_snapshot_preview1";

/// Everything that a module imports, in its order.
pub(crate) fn resolve(
    store: &mut Store<State>,
    wasi: &Linker<State>,
    compiled: &Compiled,
    module: &Module<'_>,
) -> Result<Vec<Extern>, Error> {
    let mut found = Vec::new();
    for import in compiled.imports() {
        let wrong = || Error::ImportType {
            import: format!("{}.{}", import.module(), import.name()),
        };
        let own = match import.ty() {
            ExternType::Func(ty) => {
                let own = abi::function(store, import.module(), import.name(), &ty, module);
                own.map_err(|abi::WrongType| wrong())?
                    .or_else(|| packages::function(store, import.module(), import.name(), &ty))
                    .or_else(|| of_wasi(store, import.module(), import.name(), &ty))
            }
            _ => None,
        };
        let item = match own {
            Some(function) => Extern::Func(function),
            None => wasi
                .get_by_import(&mut *store, &import)
                .ok_or_else(|| Error::Import {
                    import: format!("{}.{}", import.module(), import.name()),
                })?,
        };
        let fits = match (&item, import.ty()) {
            (Extern::Func(function), ExternType::Func(ty)) => function.ty(&*store).matches(&ty),
            _ => false,
        };
        if !fits {
            return Err(wrong());
        }
        found.push(item);
    }
    let memory = matches!(compiled.get_export("memory"), Some(ExternType::Memory(_)));
    if !found.is_empty() && !memory {
        return Err(Error::NoMemory);
    }
    Ok(found)
}

/// Functions of WASI's that are other than wasmtime's: a status is any that a
/// process may end with, so are arguments, and who sleeps can be ended.
fn of_wasi(store: &mut Store<State>, module: &str, name: &str, ty: &FuncType) -> Option<Func> {
    let i32s = |types: &mut dyn Iterator<Item = ValType>, count: usize| {
        let types: Vec<ValType> = types.collect();
        types.len() == count && types.iter().all(|ty| matches!(ty, ValType::I32))
    };
    let shape = |parameters, results| {
        i32s(&mut ty.params(), parameters) && i32s(&mut ty.results(), results)
    };
    match (module, name) {
        (WASI, "proc_exit") if shape(1, 0) => {
            let exit = |status: i32| -> wasmtime::Result<()> { Err(I32Exit(status).into()) };
            Some(Func::wrap(store, exit))
        }
        (WASI, "args_sizes_get") if shape(2, 1) => Some(Func::wrap(store, arguments::sizes)),
        (WASI, "args_get") if shape(2, 1) => Some(Func::wrap(store, arguments::get)),
        (WASI, "poll_oneoff") if shape(4, 1) => Some(Func::wrap(store, sleep::poll_oneoff)),
        _ => None,
    }
}
