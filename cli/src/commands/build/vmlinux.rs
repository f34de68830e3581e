//! `vmlinux.h`: the kernel's types as C declares them, from its BTF. It knows
//! no file but those that hold BTF.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs;
use std::io;
use std::path::Path;

use libbpf_sys::{__va_list_tag, btf, btf_dump, btf_dump_emit_type_decl_opts};
use uapi::btf::{BTF_KIND_DECL_TAG, BTF_KIND_FUNC};

use crate::libraries::reason;
use crate::problem::Problem;

/// What sources include.
pub const NAME: &str = "vmlinux.h";

/// The running kernel's types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// As bpftool writes it, so that sources which look for its guard find it.
const BEGIN: &str = "\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

";
/// Functions of the kernel that programs may call.
const FUNCTIONS: &str = "
#ifndef BPF_NO_KFUNC_PROTOTYPES
#ifndef __ksym
#define __ksym __attribute__((section(\".ksyms\")))
#endif
#ifndef __weak
#define __weak __attribute__((weak))
#endif
";
const END: &str = "
#endif
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
";

/// BTF of the running kernel, or of `file`, which is raw or an ELF file.
/// Where the kernel has none, what stands in for it in user space.
pub fn types(file: Option<&Path>) -> Result<Vec<u8>, Problem> {
    let Some(file) = file else {
        return Ok(fs::read(KERNEL).unwrap_or_else(|_| runtime::tasks::types().to_vec()));
    };
    let bytes = fs::read(file).map_err(|error| {
        Problem::new(
            file.display(),
            format_args!("cannot be read ({})", reason(&error)),
            "name a file with BTF, such as /sys/kernel/btf/vmlinux",
        )
    })?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    let section = object::ElfFile::parse(&bytes).ok();
    let section = section.and_then(|elf| elf.section(".BTF").map(|(_, bytes)| bytes.to_vec()));
    section.ok_or_else(|| {
        Problem::new(
            file.display(),
            "has no section .BTF",
            "name a file with BTF, such as /sys/kernel/btf/vmlinux",
        )
    })
}

/// The header for these types; `file` is where they come from.
pub fn header(types: &[u8], file: Option<&Path>) -> Result<String, Problem> {
    let dumped = dump(types).map_err(|errno| {
        let file = file.unwrap_or(Path::new(KERNEL));
        Problem::new(
            file.display(),
            format_args!("is no BTF that libbpf can read ({})", reason(&errno)),
            "name a file with BTF, such as /sys/kernel/btf/vmlinux",
        )
    })?;
    let is_stand_in = file.is_none() && types == runtime::tasks::types();
    let more = if is_stand_in { STAND_IN } else { "" };
    Ok(format!("{BEGIN}{more}{dumped}{END}"))
}

fn dump(types: &[u8]) -> io::Result<String> {
    let error = io::Error::last_os_error;
    let mut text: Vec<u8> = Vec::with_capacity(4 << 20);
    let size = u32::try_from(types.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: libbpf copies the bytes, which outlive the call.
    let btf = unsafe { libbpf_sys::btf__new(types.as_ptr().cast(), size) };
    if btf.is_null() {
        return Err(error());
    }
    // SAFETY: `btf` lives until it is freed below, `text` for the whole function,
    // and `append` takes just that.
    let dumped = unsafe {
        let into = &raw mut text;
        let dump = libbpf_sys::btf_dump__new(btf, Some(append), into.cast(), std::ptr::null());
        let result = match dump.is_null() {
            true => Err(error()),
            false => dump_all(btf, dump, into),
        };
        libbpf_sys::btf_dump__free(dump);
        libbpf_sys::btf__free(btf);
        result
    };
    dumped?;
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// # Safety
/// `dump` must be of `btf` and append to `text`, and all three live.
unsafe fn dump_all(btf: *mut btf, dump: *mut btf_dump, text: *mut Vec<u8>) -> io::Result<()> {
    let check = |result: i32| match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: as the caller promises; ids are below the count, names are libbpf's.
    unsafe {
        let count = libbpf_sys::btf__type_cnt(btf);
        for id in 1..count {
            check(libbpf_sys::btf_dump__dump_type(dump, id))?;
        }
        (*text).extend_from_slice(FUNCTIONS.as_bytes());
        for id in 1..count {
            let Some((name, prototype)) = kernel_function(btf, id) else {
                continue;
            };
            let options = btf_dump_emit_type_decl_opts {
                sz: size_of::<btf_dump_emit_type_decl_opts>() as u64,
                field_name: name,
                ..Default::default()
            };
            (*text).extend_from_slice(b"extern ");
            check(libbpf_sys::btf_dump__emit_type_decl(
                dump,
                prototype,
                &raw const options,
            ))?;
            (*text).extend_from_slice(b" __weak __ksym;\n");
        }
    }
    Ok(())
}

/// Name and prototype of the function that a tag marks for programs.
///
/// # Safety
/// `btf` must live.
unsafe fn kernel_function(btf: *const btf, tag: u32) -> Option<(*const c_char, u32)> {
    // SAFETY: as the caller promises; libbpf checks ids and offsets, and types and
    // names live as long as `btf`.
    unsafe {
        let (name, function) = reference(btf, tag, BTF_KIND_DECL_TAG)?;
        if CStr::from_ptr(name) != c"bpf_kfunc" {
            return None;
        }
        reference(btf, function, BTF_KIND_FUNC)
    }
}

/// Name and type id of a type of this kind.
///
/// # Safety
/// `btf` must live.
unsafe fn reference(btf: *const btf, id: u32, kind: u8) -> Option<(*const c_char, u32)> {
    // SAFETY: as the caller promises.
    unsafe {
        let ty = libbpf_sys::btf__type_by_id(btf, id).as_ref()?;
        let name = libbpf_sys::btf__name_by_offset(btf, ty.name_off);
        let is_kind = (ty.info >> 24) & 0x1f == u32::from(kind) && !name.is_null();
        is_kind.then_some((name, ty.__bindgen_anon_1.type_))
    }
}

unsafe extern "C" {
    fn vsnprintf(
        into: *mut c_char,
        size: usize,
        format: *const c_char,
        args: *mut __va_list_tag,
    ) -> c_int;
}

/// Longer than any identifier with what stands around it.
const LONGEST: usize = 4096;

/// Appends what libbpf prints to a `Vec<u8>`.
unsafe extern "C" fn append(into: *mut c_void, format: *const c_char, args: *mut __va_list_tag) {
    let mut piece = [0_u8; LONGEST];
    // SAFETY: format and arguments are libbpf's, made for each other; the size is the buffer's.
    let length = unsafe { vsnprintf(piece.as_mut_ptr().cast(), LONGEST, format, args) };
    let length = usize::try_from(length).unwrap_or(0).min(LONGEST - 1);
    // SAFETY: `dump` passes its vector, which nobody else uses meanwhile.
    let text = unsafe { &mut *into.cast::<Vec<u8>>() };
    text.extend_from_slice(&piece[..length]);
}

/// Words of the kernel's own that sources use, where its BTF does not say them.
const STAND_IN: &str = "\
typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u8 u8;
typedef __s8 s8;
typedef __u16 u16;
typedef __s16 s16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;
typedef __u8 uint8_t;
typedef __s8 int8_t;
typedef __u16 uint16_t;
typedef __s16 int16_t;
typedef __u32 uint32_t;
typedef __s32 int32_t;
typedef __u64 uint64_t;
typedef __s64 int64_t;
typedef int pid_t;
typedef unsigned int uid_t, gid_t, dev_t;
typedef unsigned short umode_t;
typedef unsigned long size_t, uintptr_t;
typedef long ssize_t, ptrdiff_t;
typedef long long loff_t, time64_t;
typedef _Bool bool;
enum { false = 0, true = 1 };
enum bpf_map_type {
	BPF_MAP_TYPE_UNSPEC, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY,
	BPF_MAP_TYPE_STACK_TRACE, BPF_MAP_TYPE_CGROUP_ARRAY, BPF_MAP_TYPE_LRU_HASH,
	BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_ARRAY_OF_MAPS,
	BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_QUEUE = 22, BPF_MAP_TYPE_STACK,
	BPF_MAP_TYPE_RINGBUF = 27, BPF_MAP_TYPE_TASK_STORAGE = 29, BPF_MAP_TYPE_BLOOM_FILTER,
	BPF_MAP_TYPE_USER_RINGBUF, BPF_MAP_TYPE_ARENA = 33,
};
enum { BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK = 4 };
enum {
	BPF_F_NO_PREALLOC = 1, BPF_F_NO_COMMON_LRU = 2, BPF_F_RDONLY_PROG = 128,
	BPF_F_WRONLY_PROG = 256, BPF_F_MMAPABLE = 1024, BPF_F_INNER_MAP = 4096,
};
enum { BPF_F_SKIP_FIELD_MASK = 255, BPF_F_USER_STACK = 256, BPF_F_FAST_STACK_CMP = 512, BPF_F_REUSE_STACKID = 1024 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE, BPF_RB_CONS_POS, BPF_RB_PROD_POS };
enum { BPF_LOCAL_STORAGE_GET_F_CREATE = 1 };
#define BPF_F_INDEX_MASK 0xffffffffULL
#define BPF_F_CURRENT_CPU BPF_F_INDEX_MASK
";
