//! libbpf, as far as loading one program of an object alone needs it. It
//! knows no verdict.
//!
//! Both verifiers are asked through it, so that they see the same
//! instructions, maps, types and relocations.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use libbpf_sys as sys;

use super::verdict::Program;

/// What libbpf warned of since it was asked last. It hands its messages to a
/// function without an argument of ours.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Most bytes of a warning; the rest is cut off.
const MAX_WARNING: usize = 1024;

unsafe extern "C" {
    fn vsnprintf(
        buffer: *mut c_char,
        size: usize,
        format: *const c_char,
        arguments: *mut sys::__va_list_tag,
    ) -> c_int;
}

unsafe extern "C" fn keep_warning(
    level: sys::libbpf_print_level,
    format: *const c_char,
    arguments: *mut sys::__va_list_tag,
) -> c_int {
    if level != sys::LIBBPF_WARN {
        return 0;
    }
    let mut buffer = [0u8; MAX_WARNING];
    // SAFETY: format and arguments are libbpf's and belong together; the
    // buffer has the size that is said.
    unsafe { vsnprintf(buffer.as_mut_ptr().cast(), MAX_WARNING, format, arguments) };
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    let text = text.to_string_lossy();
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    warnings.push(text.trim_end().trim_start_matches("libbpf: ").to_owned());
    0
}

/// Keeps libbpf's warnings for [`take_warnings`]; it prints none of them.
pub fn keep_warnings() {
    // SAFETY: the function has the type that libbpf calls.
    unsafe { sys::libbpf_set_print(Some(keep_warning)) };
}

/// The warnings since the last call.
pub fn take_warnings() -> Vec<String> {
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *warnings)
}

/// An object file, opened and not loaded.
pub struct Object(NonNull<sys::bpf_object>);

impl Object {
    /// Opens `path`; the errno when libbpf cannot make sense of it.
    pub fn open(path: &Path) -> Result<Object, i32> {
        use std::os::unix::ffi::OsStrExt;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
        // SAFETY: a terminated string; null options are the defaults.
        let object = unsafe { sys::bpf_object__open_file(name.as_ptr(), ptr::null()) };
        NonNull::new(object)
            .map(Object)
            .ok_or_else(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    fn raw_programs(&self) -> Vec<*mut sys::bpf_program> {
        let next = |program| {
            // SAFETY: the object is open, `program` null or one of its programs.
            let next = unsafe { sys::bpf_object__next_program(self.0.as_ptr(), program) };
            (!next.is_null()).then_some(next)
        };
        std::iter::successors(next(ptr::null_mut()), |&program| next(program)).collect()
    }

    /// The object's programs, in its order.
    pub fn programs(&self) -> Vec<Program> {
        self.raw_programs().into_iter().map(describe).collect()
    }

    /// Loads the program with this number and no other. Returns 0 or the
    /// errno, and its instructions with those of its subprograms. What the
    /// verifier says at `log_level` goes to `log`.
    pub fn load(self, index: usize, log_level: u32, log: &mut [u8]) -> (i32, usize) {
        let programs = self.raw_programs();
        for (number, &program) in programs.iter().enumerate() {
            // SAFETY: a program of the open object, which is not loaded yet.
            unsafe { sys::bpf_program__set_autoload(program, number == index) };
            if number == index {
                // SAFETY: as above; the buffer outlives the object, which
                // this function consumes.
                unsafe {
                    sys::bpf_program__set_log_level(program, log_level);
                    sys::bpf_program__set_log_buf(
                        program,
                        log.as_mut_ptr().cast(),
                        log.len() as sys::size_t,
                    );
                }
            }
        }
        let chosen = programs.get(index).copied();
        // SAFETY: a program of the open object.
        let kind = chosen.map(|program| unsafe { sys::bpf_program__type(program) });
        self.prepare_maps(kind == Some(sys::BPF_PROG_TYPE_STRUCT_OPS));
        // SAFETY: the object is open.
        let errno = -unsafe { sys::bpf_object__load(self.0.as_ptr()) };
        // SAFETY: programs live as long as their object.
        let insns = chosen.map_or(0, |program| unsafe { sys::bpf_program__insn_cnt(program) });
        (errno, insns as usize)
    }

    /// Maps of operations load the programs that they name, whatever was
    /// chosen; they are made only for such programs.
    fn prepare_maps(&self, struct_ops: bool) {
        let next = |map| {
            // SAFETY: the object is open, `map` null or one of its maps.
            let next = unsafe { sys::bpf_object__next_map(self.0.as_ptr(), map) };
            (!next.is_null()).then_some(next)
        };
        for map in std::iter::successors(next(ptr::null_mut()), |&map| next(map)) {
            complete(map);
            // SAFETY: a map of the open object, which is not loaded yet.
            unsafe {
                if !struct_ops && sys::bpf_map__type(map) == sys::BPF_MAP_TYPE_STRUCT_OPS {
                    sys::bpf_map__set_autocreate(map, false);
                }
            }
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: open, and nobody uses it after this.
        unsafe { sys::bpf_object__close(self.0.as_ptr()) };
    }
}

/// A string of libbpf's, which may be missing.
///
/// # Safety
/// It is null or a terminated string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's contract.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

fn describe(program: *mut sys::bpf_program) -> Program {
    // SAFETY: a program of an open object, whose strings live as long; the
    // names of types are static.
    unsafe {
        let number = sys::bpf_program__type(program);
        let mut type_name = text(sys::libbpf_bpf_prog_type_str(number));
        if type_name.is_empty() {
            type_name = format!("type {number}");
        }
        Program {
            name: text(sys::bpf_program__name(program)),
            section: text(sys::bpf_program__section_name(program)),
            type_name,
            insns: sys::bpf_program__insn_cnt(program) as usize,
        }
    }
}

/// Entries of maps that a tool sizes between opening and loading.
const ENTRIES: u32 = 64;
/// Bytes of a ring buffer that a tool sizes, frames of a stack trace.
const RING_BYTES: u32 = 64 << 10;
const STACK_BYTES: u32 = 127 * 8;

/// Gives a map the size that its tool would give it at run time. Templates of
/// maps of maps stay as they are: libbpf takes no change of them.
fn complete(map: *mut sys::bpf_map) {
    // SAFETY: a map of an open object that is not loaded yet, here and below.
    let (kind, entries, value) = unsafe {
        (
            sys::bpf_map__type(map),
            sys::bpf_map__max_entries(map),
            sys::bpf_map__value_size(map),
        )
    };
    let sized = match kind {
        sys::BPF_MAP_TYPE_RINGBUF | sys::BPF_MAP_TYPE_USER_RINGBUF => RING_BYTES,
        // Without entries by design, or sized by libbpf.
        sys::BPF_MAP_TYPE_SK_STORAGE
        | sys::BPF_MAP_TYPE_INODE_STORAGE
        | sys::BPF_MAP_TYPE_TASK_STORAGE
        | sys::BPF_MAP_TYPE_CGRP_STORAGE
        | sys::BPF_MAP_TYPE_CGROUP_STORAGE
        | sys::BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE
        | sys::BPF_MAP_TYPE_PERF_EVENT_ARRAY
        | sys::BPF_MAP_TYPE_STRUCT_OPS => 0,
        _ => ENTRIES,
    };
    if entries == 0 && sized != 0 {
        // SAFETY: as above. It fails for maps that have their size from the
        // object, such as global data.
        unsafe { sys::bpf_map__set_max_entries(map, sized) };
    }
    if kind == sys::BPF_MAP_TYPE_STACK_TRACE && value == 0 {
        // SAFETY: as above.
        unsafe {
            sys::bpf_map__set_key_size(map, 4);
            sys::bpf_map__set_value_size(map, STACK_BYTES);
        }
    }
}
