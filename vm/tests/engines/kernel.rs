//! The kernel as oracle: `BPF_PROG_TYPE_SYSCALL` programs, whose ctx is any
//! memory, run by `BPF_PROG_TEST_RUN`. Without the right to load programs
//! the tests say so and pass. Knows bpf(2) and no engine.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uapi::Insn;
use uapi::insn::{BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_JMP, BPF_PSEUDO_CALL, BPF_RSH};
use uapi::map::BPF_MAP_TYPE_PROG_ARRAY;
use uapi::prog::{BPF_F_SLEEPABLE, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SYSCALL};

use crate::common::Left;

/// Size of `struct __sk_buff`.
pub const SK_BUFF_BYTES: usize = 192;

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_TEST_RUN: i64 = 10;

/// bpf(2) with an attribute made of 32-bit words.
fn bpf(command: i64, attr: &mut [u32]) -> io::Result<i32> {
    // SAFETY: `attr` may be read and written for its length, and the addresses in it are
    // of memory that the callers below hold and that fits the command.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).expect("an fd or 0"))
}

fn fd(command: i64, attr: &mut [u32]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command returned a new fd.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn words<T>(pointer: *const T) -> [u32; 2] {
    [pointer as u64 as u32, (pointer as u64 >> 32) as u32]
}

/// Loads a program as it stands, of type `BPF_PROG_TYPE_SYSCALL`.
pub fn load(insns: &[Insn]) -> io::Result<OwnedFd> {
    load_as(BPF_PROG_TYPE_SYSCALL, BPF_F_SLEEPABLE, insns)
}

/// Loads a program that gets a packet, of type `BPF_PROG_TYPE_SCHED_CLS`.
pub fn load_classifier(insns: &[Insn]) -> io::Result<OwnedFd> {
    load_as(BPF_PROG_TYPE_SCHED_CLS, 0, insns)
}

fn load_as(prog_type: u32, flags: u32, insns: &[Insn]) -> io::Result<OwnedFd> {
    let [insns_low, insns_high] = words(insns.as_ptr());
    let [license_low, license_high] = words(c"GPL".as_ptr());
    let count = insns.len() as u32;
    let mut attr = [0; 32];
    attr[..6].copy_from_slice(&[
        prog_type,
        count,
        insns_low,
        insns_high,
        license_low,
        license_high,
    ]);
    attr[11] = flags;
    fd(BPF_PROG_LOAD, &mut attr)
}

/// Runs a loaded program on `memory`; r0's lower half.
pub fn test_run(program: &OwnedFd, memory: &mut [u8]) -> io::Result<u32> {
    let [low, high] = words(memory.as_mut_ptr());
    let mut attr = [0; 20];
    attr[0] = program.as_raw_fd() as u32;
    // ctx_size_in; ctx_in is a pointer 8 bytes on.
    attr[10] = memory.len() as u32;
    if !memory.is_empty() {
        attr[12] = low;
        attr[13] = high;
    }
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr[1])
}

/// Runs a classifier on an empty packet; its `struct __sk_buff` afterwards.
pub fn test_run_classifier(program: &OwnedFd) -> io::Result<[u8; SK_BUFF_BYTES]> {
    let packet = [0u8; 64];
    let mut buffer = [0u8; SK_BUFF_BYTES];
    let [packet_low, packet_high] = words(packet.as_ptr());
    let [low, high] = words(buffer.as_mut_ptr());
    let bytes = SK_BUFF_BYTES as u32;
    let mut attr = [0; 20];
    attr[0] = program.as_raw_fd() as u32;
    attr[2] = 64;
    attr[4..6].copy_from_slice(&[packet_low, packet_high]);
    attr[10..16].copy_from_slice(&[bytes, bytes, low, high, low, high]);
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(buffer)
}

/// An empty program array.
pub fn program_array(slots: u32) -> io::Result<OwnedFd> {
    fd(
        BPF_MAP_CREATE,
        &mut [BPF_MAP_TYPE_PROG_ARRAY, 4, 4, slots, 0],
    )
}

/// Puts a program into a slot.
pub fn set_slot(array: &OwnedFd, index: u32, program: &OwnedFd) -> io::Result<()> {
    let value = program.as_raw_fd();
    let [key_low, key_high] = words(&raw const index);
    let [value_low, value_high] = words(&raw const value);
    let array = array.as_raw_fd() as u32;
    let mut attr = [array, 0, key_low, key_high, value_low, value_high, 0, 0];
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
}

/// Runs a program as a subprogram of a main that returns one half of r0, once
/// for each half. `None` if the verifier refuses it.
pub fn run(insns: &[Insn], memory: &[u8]) -> Option<Left> {
    let call = |rel| Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, rel);
    let exit = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    let upper = Insn::new(BPF_ALU64 | BPF_RSH, 0, 0, 0, 32);
    let mut halves = [0; 2];
    let mut after = memory.to_vec();
    for (half, main) in halves
        .iter_mut()
        .zip([&[call(1), exit][..], &[call(2), upper, exit]])
    {
        let program = load(&[main, insns].concat()).ok()?;
        after.copy_from_slice(memory);
        *half = test_run(&program, &mut after).expect("a loaded program runs");
    }
    let [low, high] = halves.map(u64::from);
    Some(Left {
        r0: high << 32 | low,
        memory: after,
    })
}

/// Whether programs can be loaded; says why not.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub fn available() -> bool {
    let mov = Insn::new(0xb7, 0, 0, 0, 0);
    match load(&[mov, Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)]) {
        Ok(_) => true,
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "in CI nothing is left out, bpf(2) says: {error}"
            );
            eprintln!("skipped: no comparison with the kernel, bpf(2) says: {error}");
            false
        }
    }
}
