//! Maps of types that only the kernel has: programs that use them are the
//! kernel's, too, and all of an object that brings operations.

use loader::open::MapInfo;
use loader::{Opened, Options};
use runtime::maps::kernels_only;
use uapi::map::BPF_MAP_TYPE_STRUCT_OPS;

use super::here::{Asked, is_object};
use super::{Args, source};
use crate::commands::load::Runtime;
use crate::commands::verify::may_load_into_kernel;
use crate::problem::Problem;

/// Why the object is the kernel's; `None` for one that is not, and for what is
/// no object's file: that is looked at where it is run.
pub fn why(args: &Args) -> Option<String> {
    let bytes = source::of_file(args)?;
    let opened = match is_object(&bytes) && may_load_into_kernel() {
        true => Opened::read(&bytes, &Options::default()).ok()?,
        false => return None,
    };
    let is_there = |map: &MapInfo| map.kind == BPF_MAP_TYPE_STRUCT_OPS;
    opened.maps().iter().find(|map| is_there(map)).map(|map| {
        format!(
            "programs of map {} are named by the kernel's own fds",
            map.name
        )
    })
}

/// Refuses an object with such a map where it would not be the kernel's.
pub fn check(asked: &Asked<'_>, opened: &Opened) -> Result<(), Problem> {
    match obstacle(opened) {
        Some((map, why)) if !may_ask(asked.args.runtime) => Err(Problem::new(
            map,
            format_args!("{why}, {}", missing(asked.args.runtime)),
            "run it as root, by --runtime auto or kernel",
        )),
        _ => Ok(()),
    }
}

/// Whether the kernel may be asked to host something.
fn may_ask(runtime: Runtime) -> bool {
    match runtime {
        Runtime::Kernel => true,
        Runtime::Auto => may_load_into_kernel(),
        Runtime::User => false,
    }
}

/// The first such map, and what is the matter with it.
pub fn obstacle(opened: &Opened) -> Option<(String, String)> {
    opened.maps().into_iter().find_map(|map| {
        let reason = kernels_only(map.kind)?;
        let why = format!("only the kernel hosts map {}: {reason}", map.name);
        Some((map.name, why))
    })
}

/// What is missing for the kernel to host something.
pub fn missing(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::User => "which --runtime user forbids",
        _ => "which takes CAP_BPF and CAP_PERFMON, as root has",
    }
}
