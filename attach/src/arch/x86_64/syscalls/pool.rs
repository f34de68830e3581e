//! The `syscall` instructions that stand for those of the program. They lie in
//! this library, not in trampolines: the instruction pointer of a blocked
//! system call is in one, and unwind information must lead from there to the
//! program's own.
//!
//! A plain stub leaves the stack alone, for a child may come back from it on
//! another one. A deep stub runs 144 bytes further down, with the number of
//! the call where the stack pointer shows.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::thunk;

/// Bytes from one stub to the next, of a table entry, and of a page's header.
const STRIDE: usize = 16;
/// Stubs are found by their place in a page.
const PAGE: usize = 4096;
const PLAIN_PAGES: usize = 16;
const DEEP_PAGES: usize = 4;
const PER_PAGE: usize = PAGE / STRIDE - 1;

/// What one stub does behind its system call. Never freed.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Exit {
    /// Where the stub jumps, with the address of this in rcx: `thunk::...`.
    pub(crate) target: AtomicU64,
    /// Where the program goes on.
    pub(crate) continuation: AtomicU64,
    /// The number of the system call; of a deep stub, unused.
    pub(crate) nr: i64,
}

/// One entry for each place in the pool: its `Exit`, and the address at which
/// unwinders go on.
#[repr(C)]
struct Slot {
    exit: AtomicU64,
    address: AtomicU64,
}

const _: () = assert!(size_of::<Slot>() == STRIDE);

unsafe extern "C" {
    fn bpftime_syscalls_plain();
    fn bpftime_syscalls_deep();
    static bpftime_syscalls_plain_table: [Slot; PLAIN_PAGES * PAGE / STRIDE];
    static bpftime_syscalls_deep_table: [Slot; DEEP_PAGES * PAGE / STRIDE];
}

// Every page of stubs begins with the distance to its part of the table, by
// which the unwind rule finds it:
//
//     page = pc & -4096; ra = *(page + *page + (pc & 4080) + 8)
//
// The frame is a signal frame: it shares its caller's CFA, and the address is
// exact.
global_asm!(
    include_str!("../macros.s"),
    r#"
    .macro bpftime_syscalls_pool name, pages, depth
    .pushsection .bss.bpftime_syscalls_\name,"aw",@nobits
    .globl bpftime_syscalls_\name\()_table
    .hidden bpftime_syscalls_\name\()_table
    .type bpftime_syscalls_\name\()_table,@object
    .size bpftime_syscalls_\name\()_table, 4096 * \pages
    .p2align 4
bpftime_syscalls_\name\()_table:
    .zero 4096 * \pages
    .popsection

    .pushsection .text.bpftime_syscalls_\name,"ax",@progbits
    bpftime_attach_function bpftime_syscalls_\name, 12
    .cfi_signal_frame
    .cfi_def_cfa rsp, \depth
    .cfi_escape 0x16, 0x10, 0x13, 0x80, 0x00, 0x12, 0x0b, 0x00, 0xf0, 0x1a, 0x12, 0x06, 0x22, 0x16, 0x0a, 0xf0, 0x0f, 0x1a, 0x22, 0x23, 0x08, 0x06
    .set bpftime_syscalls_page, 0
    .rept \pages
    .p2align 12
    .quad bpftime_syscalls_\name\()_table + bpftime_syscalls_page - .
    .set bpftime_syscalls_slot, bpftime_syscalls_page + 16
    .rept 255
    .p2align 4
    syscall
    mov rcx, qword ptr [rip + bpftime_syscalls_\name\()_table + bpftime_syscalls_slot]
    jmp qword ptr [rcx]
    .set bpftime_syscalls_slot, bpftime_syscalls_slot + 16
    .endr
    .set bpftime_syscalls_page, bpftime_syscalls_page + 4096
    .endr
    bpftime_attach_end bpftime_syscalls_\name
    .popsection
    .endm

    bpftime_syscalls_pool plain, 16, 0
    bpftime_syscalls_pool deep, 4, 144
"#,
    include_str!("../macros_end.s"),
);

/// Whether an address is in the pool: a program that has the engine linked in
/// finds it in its text.
pub(crate) fn holds(addr: u64) -> bool {
    let of = |start: u64, pages: usize| (start..start + (pages * PAGE) as u64).contains(&addr);
    of(bpftime_syscalls_plain as *const () as u64, PLAIN_PAGES)
        || of(bpftime_syscalls_deep as *const () as u64, DEEP_PAGES)
}

/// Which stubs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Leaves the stack alone.
    Plain,
    /// Keeps the number on the stack.
    Deep,
}

/// Tells where the program goes on behind a stub that was made for a place to be
/// known later.
pub(crate) fn set_continuation(stub: u64, exit: &Exit, continuation: u64) {
    exit.continuation.store(continuation, Ordering::Relaxed);
    let slot = |start: u64, table: &'static [Slot]| {
        table.get((stub.checked_sub(start)? as usize) / STRIDE)
    };
    // SAFETY: zeroed atomics of this library, changed by atomics only.
    let (plain, deep) = unsafe { (&bpftime_syscalls_plain_table, &bpftime_syscalls_deep_table) };
    let plain = slot(bpftime_syscalls_plain as *const () as u64, plain);
    let slot = plain.or_else(|| slot(bpftime_syscalls_deep as *const () as u64, deep));
    if let Some(slot) = slot {
        slot.address.store(continuation, Ordering::Release);
    }
}

/// Stubs given away; they never come back.
static PLAIN_USED: AtomicUsize = AtomicUsize::new(0);
static DEEP_USED: AtomicUsize = AtomicUsize::new(0);

/// A new stub for a system call behind which the program goes on at
/// `continuation`; `None` when there are none left.
pub(crate) fn stub(kind: Kind, continuation: u64, nr: i64) -> Option<(u64, &'static Exit)> {
    let (used, pages, code) = match kind {
        Kind::Plain => (
            &PLAIN_USED,
            PLAIN_PAGES,
            bpftime_syscalls_plain as *const () as u64,
        ),
        Kind::Deep => (
            &DEEP_USED,
            DEEP_PAGES,
            bpftime_syscalls_deep as *const () as u64,
        ),
    };
    let index = used.fetch_add(1, Ordering::Relaxed);
    if index >= pages * PER_PAGE {
        used.store(pages * PER_PAGE, Ordering::Relaxed);
        return None;
    }
    let place = index / PER_PAGE * (PAGE / STRIDE) + index % PER_PAGE + 1;
    let slot = match kind {
        // SAFETY: zeroed atomics of this library, changed by atomics only.
        Kind::Plain => unsafe { bpftime_syscalls_plain_table.get(place) },
        // SAFETY: as above.
        Kind::Deep => unsafe { bpftime_syscalls_deep_table.get(place) },
    }?;
    let exit: &'static Exit = Box::leak(Box::new(Exit {
        target: AtomicU64::new(thunk::pass_address()),
        continuation: AtomicU64::new(continuation),
        nr,
    }));
    slot.address.store(continuation, Ordering::Relaxed);
    slot.exit
        .store(core::ptr::from_ref(exit) as u64, Ordering::Release);
    Some((code + (place * STRIDE) as u64, exit))
}
