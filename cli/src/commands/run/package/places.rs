//! Where a package puts its programs, in the words of `--attach`.

use std::ffi::CStr;

use libbpf_rs::ProgramType;
use loader::Target;
use loader::open::ProgramInfo;
use package::Meta;
use package::meta::{Program, TcHook, TcOptions, TcPoint};

use crate::problem::Problem;

/// The interface that is meant when none is said: the loopback.
const LOOPBACK: i64 = 1;
/// `XDP_FLAGS_…` (include/uapi/linux/if_link.h) and their words.
const XDP_MODES: [(u32, &str); 3] = [
    (1 << 1, ":generic"),
    (1 << 2, ":native"),
    (1 << 3, ":offload"),
];

/// What each program of a package is put on, if the user does not say.
pub fn usual(meta: &Meta) -> Result<impl Fn(&ProgramInfo) -> Target + use<>, Problem> {
    let programs = meta.bpf_skel.progs.clone();
    for program in &programs {
        let custom = |hook: TcHook| hook.attach_point == TcPoint::Custom;
        if program.tchook.is_some_and(custom) {
            return Err(Problem::new(
                &program.name,
                "is to be put on a parent of its own (BPF_TC_CUSTOM), which the package cannot name",
                format_args!("--attach {}=INTERFACE:ingress or :egress", program.name),
            ));
        }
        if program
            .xdpopts
            .is_some_and(|options| options.old_prog_fd > 0)
        {
            return Err(Problem::new(
                &program.name,
                "is to replace the program of an fd (xdpopts), which a package cannot have",
                "set old_prog_fd to 0, and take the other program off first",
            ));
        }
    }
    Ok(move |info: &ProgramInfo| {
        let found = programs.iter().find(|program| program.name == info.name);
        match found {
            Some(program) => target(program, info),
            // What is not named is loaded only, if anything is named.
            None if !programs.is_empty() => Target::Nothing,
            None => target(&Program::default(), info),
        }
    })
}

fn target(program: &Program, info: &ProgramInfo) -> Target {
    match (info.kind, info.section.as_str()) {
        (ProgramType::Xdp, "xdp" | "xdp.frags") => {
            let flags = program.flags.unwrap_or(0);
            let mode = XDP_MODES.iter().find(|(flag, _)| flags & flag != 0);
            let mode = mode.map_or("", |(_, word)| word);
            let interface = interface(program.ifindex.unwrap_or(LOOPBACK));
            Target::Words(format!("{interface}{mode}"))
        }
        (ProgramType::SchedCls, section) if section.starts_with("tcx") => {
            let hook = program.tchook.unwrap_or_default();
            Target::Words(interface(hook.ifindex))
        }
        (ProgramType::SchedCls, section) => {
            let hook = program.tchook.unwrap_or_default();
            let TcOptions { handle, priority } = program.tcopts.unwrap_or_default();
            let by_section = program.tchook.is_none() && section.contains("egress");
            let way = match hook.attach_point == TcPoint::Egress || by_section {
                true => "egress",
                false => "ingress",
            };
            let interface = interface(hook.ifindex);
            Target::Words(format!("{interface}:{way}:{priority}:{handle}"))
        }
        // Once a second on each processor, as loaders of packages do.
        (ProgramType::PerfEvent, "perf_event") => Target::Words("cpu-clock@1".to_owned()),
        _ => Target::Section,
    }
}

/// The name of an interface; what stands for one where there is none.
fn interface(index: i64) -> String {
    let mut name = [0; libc::IF_NAMESIZE];
    let index = u32::try_from(index).unwrap_or(0);
    // SAFETY: the buffer has the size that the call demands.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return format!("number {index}");
    }
    // SAFETY: the call succeeded and left a terminated string in the buffer.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    name.to_string_lossy().into_owned()
}
