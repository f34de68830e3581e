//! What trampolines call when little is needed: the thunks save what C
//! functions may change, run the probes that need no more ([`Needs`]), and
//! leave everything else, as well as threads without a block and hits inside
//! hits, to the thunk in `entry`. They do not allocate, lock or call libc.

use core::arch::global_asm;

use super::entry;
use crate::guard::MARK;
use crate::probe::Needs;
use crate::shadow::offsets as block;
use crate::site::{ProbeList, offsets};

unsafe extern "C" {
    /// Probes at entry only, where nobody needs the flags any more.
    fn bpftime_attach_direct();
    /// Probes at entry only.
    fn bpftime_attach_direct_flags();
    /// Probes at return, and perhaps at entry.
    fn bpftime_attach_direct_return();
}

/// The thunk for a site with these probes. `flags_dead` tells that the probed
/// code overwrites the status flags before it reads them.
pub(crate) fn thunk(entry: &ProbeList, exit: &ProbeList, flags_dead: bool) -> u64 {
    let slow = |probes: &ProbeList| probes.needs().any_of(SLOW);
    let thunk = match (entry.is_empty(), exit.is_empty()) {
        _ if slow(entry) => return entry::address(),
        (true, true) => return entry::address(),
        (false, true) if flags_dead && !entry.needs().any_of(Needs::ALL_REGISTERS) => {
            bpftime_attach_direct as *const ()
        }
        (false, true) => bpftime_attach_direct_flags as *const (),
        (_, false) => bpftime_attach_direct_return as *const (),
    };
    thunk as u64
}

/// What these thunks leave to the other.
pub(super) const SLOW: Needs = Needs::HIT;

// With S the stack pointer at the probe, on entry rsp = S - 144 and [rsp] is
// the return address in the trampoline, as in `entry`. The frame is 208 bytes:
//
//     0 mark   8 block   16 probe   24 flags   32 exit probes, entry's end
//     40 `PtRegs` up to 208   208 return address   216 the trampoline's word
//     344 S - 8   352 S: return address of the function   360 S + 8
//
// The order of mark, guard and the look at the lists is that of `guard`: the
// engine frees a list when no thread has a guard from before it was replaced.
// A probe's address is kept in memory during its call: no register that a
// callback preserves is touched, so that unwinders find them where they are.
global_asm!(
    include_str!("macros.s"),
    include_str!("run.s"),
    r#"
    .macro bpftime_attach_thunk name, flags, returns
    bpftime_attach_function \name, 6
    .cfi_def_cfa rsp, 152
    lea rsp, [rsp - 208]
    .cfi_adjust_cfa_offset 208
    mov [rsp + 120], rax
    .if \flags
    bpftime_attach_save_flags
    .endif
    mov [rsp + 128], rcx
    bpftime_attach_block rax, {guard}, 6f
    bpftime_attach_save_rest
    mov qword ptr [rsp], {mark}
    mov [rax + {guard}], rsp
    mov rdx, [rsp + 208]
    mov [rsp + 8], rax
    mov rsi, [rdx - {site_before_return}]
    lea rdx, [rdx + {restore_after_return}]
    mov rcx, [rsi + {entry}]
    mov [rsp + 216], rdx
    .if \returns
    mov rdx, [rsi + {exit}]
    mov [rsp + 32], rdx
    test byte ptr [rdx], {nothing}
    jnz 1f
    mov r8, [rax + {top}]
    lea r9, [rsp + 360]
    cmp [r8 - {entry_bytes}], r9
    jbe 5f
    cmp r8, [rax + {end}]
    jae 5f
1:
    test byte ptr [rcx], {slow_or_nothing}
    jnz 4f
    .elseif \flags
    test byte ptr [rcx], {slow_or_nothing}
    jnz 5f
    .else
    test byte ptr [rcx], {slow_or_nothing_or_all}
    jnz 5f
    .endif
    test byte ptr [rcx], {more_than_one}
    jnz 3f
    bpftime_attach_run_one
2:
    .if \returns
    mov rdx, [rsp + 32]
    test byte ptr [rdx], {nothing}
    jnz 1f
    mov rcx, [rsp + 208]
    mov r8, [rax + {top}]
    mov rsi, [rcx - {site_before_return}]
    mov r9, [rsp + 352]
    mov rdi, [rdx + {newest}]
    mov [r8 + {frame_return_address}], r9
    mov [r8 + {frame_site}], rsi
    mov [r8 + {frame_newest}], rdi
    lea r9, [rsp + 360]
    mov [r8], r9
    lea r8, [r8 + {entry_bytes}]
    mov [rax + {top}], r8
    lea r9, bpftime_attach_return_label[rip]
    mov [rsp + 352], r9
    lea rcx, [rcx + {displaced_after_return}]
    mov [rsp + 344], rcx
    lea r9, bpftime_attach_return_call[rip]
    mov [rsp + 216], r9
1:
    .endif
    mov qword ptr [rax + {guard}], 0
    .if \flags
    bpftime_attach_restore_flags
    .endif
    bpftime_attach_restore_rest
    mov rcx, [rsp + 128]
    mov rax, [rsp + 120]
    lea rsp, [rsp + 208]
    .cfi_adjust_cfa_offset -208
    ret
    .cfi_adjust_cfa_offset 208
3:
    .if \flags
    test byte ptr [rcx], {all_registers}
    jz 3f
    mov rdx, [rsi + {addr}]
    lea rdi, [rsp + 352]
    mov [rsp + 168], rdx
    mov [rsp + 192], rdi
    bpftime_attach_fill
3:
    .endif
    test byte ptr [rcx], {vectors}
    jnz 3f
    bpftime_attach_run_all rsp
    mov rax, [rsp + 8]
    jmp 2b
3:
    bpftime_attach_run_vectors 360
    mov rax, [rsp + 8]
    jmp 2b
    .if \returns
4:
    test byte ptr [rcx], {nothing}
    jnz 2b
    .endif
5:
    mov qword ptr [rax + {guard}], 0
    bpftime_attach_restore_rest
6:
    .if \flags
    bpftime_attach_restore_flags
    .endif
    mov rcx, [rsp + 128]
    mov rax, [rsp + 120]
    lea rsp, [rsp + 208]
    .cfi_adjust_cfa_offset -208
    jmp bpftime_attach_entry
    bpftime_attach_end \name
    .endm

    .pushsection .text.bpftime_attach_direct,"ax",@progbits
    bpftime_attach_thunk bpftime_attach_direct, 0, 0
    bpftime_attach_thunk bpftime_attach_direct_flags, 1, 0
    bpftime_attach_thunk bpftime_attach_direct_return, 1, 1
    .popsection
"#,
    include_str!("run_end.s"),
    include_str!("macros_end.s"),
    hits = const offsets::HITS,
    data = const offsets::DATA,
    callback = const offsets::CALLBACK,
    more = const offsets::MORE,
    next = const offsets::NEXT,
    guard = const block::GUARD,
    mark = const MARK,
    site_before_return = const entry::SITE_BEFORE_RETURN,
    restore_after_return = const entry::RESTORE_AFTER_RETURN,
    displaced_after_return = const entry::DISPLACED_AFTER_RETURN,
    entry = const offsets::ENTRY,
    exit = const offsets::EXIT,
    addr = const offsets::ADDR,
    first = const offsets::FIRST,
    newest = const offsets::NEWEST,
    top = const block::TOP,
    end = const block::END,
    entry_bytes = const block::ENTRY,
    frame_return_address = const block::RETURN_ADDRESS,
    frame_site = const block::SITE,
    frame_newest = const block::NEWEST,
    nothing = const Needs::NOTHING_TO_RUN.0,
    vectors = const Needs::VECTORS.0,
    all_registers = const Needs::ALL_REGISTERS.0,
    more_than_one = const Needs::VECTORS.and(Needs::ALL_REGISTERS).and(Needs::SEVERAL).0,
    slow_or_nothing = const SLOW.and(Needs::NOTHING_TO_RUN).0,
    slow_or_nothing_or_all = const SLOW.and(Needs::NOTHING_TO_RUN).and(Needs::ALL_REGISTERS).0,
);
