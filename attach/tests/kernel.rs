//! Which instructions take a probe: the running kernel's answer and ours.

mod common;

use std::arch::global_asm;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use bpftime_attach::{AttachError, Backend, Engine, Kind, Refusal};
use common::Recorder;

// Never run. What a name says comes first, then enough for any jump.
global_asm!(
    r#"
    .macro function name, first:vararg
    .p2align 4
    .globl kernel_\name
    .type kernel_\name,@function
kernel_\name:
    .byte \first
    .skip 12, 0x90
    ret
    .size kernel_\name, . - kernel_\name
    .endm
    .text
    function lock, 0xf0, 0x48, 0xff, 0x07
    function xacquire, 0xf2, 0xf0, 0x48, 0xff, 0x07
    function cs, 0x2e, 0x90
    function ds, 0x3e, 0x48, 0x89, 0xc0
    function notrack, 0x3e, 0xff, 0xe0
    function fs, 0x64, 0x48, 0x8b, 0x00
    function int3, 0xcc
    function int, 0xcd, 0x80
    function icebp, 0xf1
    function iret, 0x48, 0xcf
    function hlt, 0xf4
    function cli, 0xfa
    function in, 0xec
    function outs, 0x6e
    function push_es, 0x06
    function syscall, 0x0f, 0x05
    function nop, 0x90
    function ret, 0xc3
    function leave, 0xc9
    function endbr, 0xf3, 0x0f, 0x1e, 0xfa
    function rep, 0xf3, 0xa4
    function rdtsc, 0x0f, 0x31
    function cpuid, 0x0f, 0xa2
    function vex, 0xc5, 0xf4, 0x58, 0xc2
    function evex, 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1
    function jrcxz, 0xe3, 0x02
    function loop, 0xe2, 0x02
    function x87, 0xd9, 0xe8
    function rex, 0x4c, 0x89, 0xc0
    .purgem function
"#
);

macro_rules! functions {
    ($($name:ident),* $(,)?) => {
        unsafe extern "C" { $(fn $name();)* }
        const FUNCTIONS: &[(&str, unsafe extern "C" fn())] = &[$((stringify!($name), $name)),*];
    };
}

functions! {
    kernel_lock, kernel_xacquire, kernel_cs, kernel_ds, kernel_notrack, kernel_fs, kernel_int3,
    kernel_int, kernel_icebp, kernel_iret, kernel_hlt, kernel_cli, kernel_in, kernel_outs,
    kernel_push_es, kernel_syscall, kernel_nop, kernel_ret, kernel_leave, kernel_endbr, kernel_rep,
    kernel_rdtsc, kernel_cpuid, kernel_vex, kernel_evex, kernel_jrcxz, kernel_loop, kernel_x87,
    kernel_rex,
}

/// What the kernel says to a uprobe at `addr` of this process: 0 or an errno.
fn kernel_says(addr: usize) -> i32 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let offset = maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let inside = hex(start)?..hex(end)?;
        let offset = hex(fields.nth(1)?)?;
        inside
            .contains(&(addr as u64))
            .then(|| offset + addr as u64 - inside.start)
    });
    let kind = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type");
    let kind: u32 = kind.expect("uprobes").trim().parse().expect("a number");
    let path = std::env::current_exe().expect("own path");
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // struct perf_event_attr: type, size, …, config1 (path), config2 (offset).
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(kind) | 128 << 32;
    attr[7] = path.as_ptr() as u64;
    attr[8] = offset.expect("mapped");
    // SAFETY: the attributes and the path outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_ptr(),
            libc::getpid(),
            -1,
            -1,
            0,
        )
    };
    if fd < 0 {
        return std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    }
    // SAFETY: ours.
    unsafe { libc::close(fd as i32) };
    0
}

#[test]
fn the_kernel_refuses_the_same_instructions() {
    const ENOTSUPP: i32 = 524;
    // SAFETY: asks only.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("CI").is_none(), "needs uprobes");
        return;
    }
    let engine = Engine::new().expect("an engine");
    let (mut kernel, mut ours) = (BTreeMap::new(), BTreeMap::new());
    for (name, function) in FUNCTIONS {
        let addr = *function as *const () as usize;
        kernel.insert(*name, kernel_says(addr));
        let result = common::try_attach(&engine, addr, Kind::Entry, Recorder::leaked().probe());
        let errno = match result {
            Ok(id) => {
                engine.detach(&[id]);
                0
            }
            Err(AttachError::Refused {
                reason: Refusal::NotSupported,
                ..
            }) => ENOTSUPP,
            Err(other) => panic!("{name}: {other}"),
        };
        ours.insert(*name, errno);
    }
    assert_eq!(ours, kernel);
    assert_eq!(
        kernel.values().filter(|errno| **errno == ENOTSUPP).count(),
        14
    );
}
