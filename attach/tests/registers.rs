//! A probed function sees and leaves every register, flag and the red zone as
//! without probes, whatever the callback does to its own; and the callback
//! sees them in its `PtRegs`.

mod common;

use std::arch::{asm, global_asm};
use std::cell::UnsafeCell;
use std::sync::Mutex;

use bpftime_attach::{Hit, Kind, Probe};
use common::attach;
use uapi::PtRegs;

/// What the assembly loads and stores, in its order.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Debug)]
struct State {
    /// rax rbx rcx rdx rsi rdi rbp r8 … r15
    general: [u64; 15],
    flags: u64,
    xmm: [u128; 16],
    /// The 128 bytes below the stack pointer.
    red_zone: [u64; 16],
}

global_asm!(
    r#"
    .macro each_red_zone from, to
    .set at, 0
    .rept 16
    mov rax, [\from + at]
    mov [\to + at], rax
    .set at, at + 8
    .endr
    .endm

    .text
    .p2align 4
    .globl reg_victim
    .type reg_victim,@function
reg_victim:
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    ret
    .size reg_victim, . - reg_victim

    .p2align 4
    .globl reg_victim_push
    .type reg_victim_push,@function
reg_victim_push:
    push rbp
    push r12
    lea r12, [r12 + 0]
    pop r12
    pop rbp
    ret
    .size reg_victim_push, . - reg_victim_push

    # reg_run(in: rdi, out: rsi, victim: rdx): loads `in`, calls, stores `out`.
    .p2align 4
    .globl reg_run
    .type reg_run,@function
reg_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    push rdx
    # The zone lies below the stack pointer in the victim: 8 for its return address.
    lea rcx, [rsp - 136]
    lea rdx, [rdi + 384]
    each_red_zone rdx, rcx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmm\n, [rdi + 128 + 16 * \n]
    .endr
    mov rax, [rdi]
    mov rbx, [rdi + 8]
    mov rcx, [rdi + 16]
    mov rdx, [rdi + 24]
    mov rsi, [rdi + 32]
    mov rbp, [rdi + 48]
    mov r8, [rdi + 56]
    mov r9, [rdi + 64]
    mov r10, [rdi + 72]
    mov r11, [rdi + 80]
    mov r12, [rdi + 88]
    mov r13, [rdi + 96]
    mov r14, [rdi + 104]
    mov r15, [rdi + 112]
    lea rsp, [rsp - 256]
    push qword ptr [rdi + 120]
    popfq
    lea rsp, [rsp + 256]
    mov rdi, [rdi + 40]
    call [rsp]
    lea rsp, [rsp - 256]
    pushfq
    push rax
    push rdi
    cld
    mov rdi, [rsp + 256 + 24 + 8]
    mov rax, [rsp + 8]
    mov [rdi], rax
    mov [rdi + 8], rbx
    mov [rdi + 16], rcx
    mov [rdi + 24], rdx
    mov [rdi + 32], rsi
    mov rax, [rsp]
    mov [rdi + 40], rax
    mov [rdi + 48], rbp
    mov [rdi + 56], r8
    mov [rdi + 64], r9
    mov [rdi + 72], r10
    mov [rdi + 80], r11
    mov [rdi + 88], r12
    mov [rdi + 96], r13
    mov [rdi + 104], r14
    mov [rdi + 112], r15
    mov rax, [rsp + 16]
    mov [rdi + 120], rax
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps [rdi + 128 + 16 * \n], xmm\n
    .endr
    lea rsp, [rsp + 24]
    lea rcx, [rsp + 256 - 136]
    lea rdx, [rdi + 384]
    each_red_zone rcx, rdx
    lea rsp, [rsp + 256 + 16]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .size reg_run, . - reg_run
"#
);

unsafe extern "C" {
    fn reg_victim();
    fn reg_victim_push();
    fn reg_run(state_in: *const State, state_out: *mut State, victim: unsafe extern "C" fn());
}

fn run(state: &State, victim: unsafe extern "C" fn()) -> State {
    let mut out = *state;
    out.general = [0; 15];
    // SAFETY: the assembly keeps to the C ABI; victims touch no register.
    unsafe { reg_run(state, &raw mut out, victim) };
    out
}

struct Seen(UnsafeCell<PtRegs>);
// SAFETY: one thread writes and reads it.
unsafe impl Sync for Seen {}

/// Destroys every register that a C function may destroy, and flags.
unsafe extern "C" fn destroy(regs: *mut PtRegs, data: *const (), _hit: *mut Hit) -> u64 {
    // SAFETY: `data` is the leaked `Seen`, `regs` is valid during the hit.
    unsafe { *(*data.cast::<Seen>()).0.get() = *regs };
    // SAFETY: all that is written is declared.
    unsafe {
        asm!(
            "xor eax, eax",
            "not rax",
            "mov rcx, rax",
            "mov rdx, rax",
            "mov rsi, rax",
            "mov rdi, rax",
            "mov r8, rax",
            "mov r9, rax",
            "mov r10, rax",
            "mov r11, rax",
            "movq xmm0, rax",
            "movaps xmm1, xmm0",
            "movaps xmm2, xmm0",
            "movaps xmm3, xmm0",
            "movaps xmm4, xmm0",
            "movaps xmm5, xmm0",
            "movaps xmm6, xmm0",
            "movaps xmm7, xmm0",
            "movaps xmm8, xmm0",
            "movaps xmm9, xmm0",
            "movaps xmm10, xmm0",
            "movaps xmm11, xmm0",
            "movaps xmm12, xmm0",
            "movaps xmm13, xmm0",
            "movaps xmm14, xmm0",
            "movaps xmm15, xmm0",
            "add al, 1",
            clobber_abi("C"),
        );
    }
    0
}

fn expected_regs(state: &State, seen: &PtRegs, ip: u64) -> PtRegs {
    let [
        ax,
        bx,
        cx,
        dx,
        si,
        di,
        bp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = state.general;
    PtRegs {
        r15,
        r14,
        r13,
        r12,
        bp,
        bx,
        r11,
        r10,
        r9,
        r8,
        ax,
        cx,
        dx,
        si,
        di,
        orig_ax: u64::MAX,
        ip,
        cs: 0x33,
        flags: state.flags,
        sp: seen.sp,
        ss: 0x2b,
    }
}

fn check(victim: unsafe extern "C" fn(), flags: u64) {
    const ALWAYS_SET: u64 = 0x202;
    let engine = common::engine();
    let addr = victim as *const () as usize;
    let state = State {
        general: std::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 1)),
        flags: flags | ALWAYS_SET,
        xmm: std::array::from_fn(|i| {
            0x1111_1111_1111_1111_1111_1111_1111_1111 * (i as u128 % 15 + 1)
        }),
        red_zone: std::array::from_fn(|i| !(i as u64)),
    };
    let plain = run(&state, victim);
    let same = |out: State| {
        // Nobody relies on memory below the stack pointer at a call or return.
        let red_zone = plain.red_zone;
        assert_eq!(State { red_zone, ..out }, plain, "flags {flags:#x}");
    };
    assert_eq!(
        (plain.general, plain.xmm, plain.flags),
        (state.general, state.xmm, state.flags)
    );

    let seen: [&'static Seen; 2] =
        [0, 1].map(|_| &*Box::leak(Box::new(Seen(UnsafeCell::default()))));
    let probe = |i: usize| Probe::new(destroy, (&raw const *seen[i]).cast());
    // SAFETY: no hit runs while we look.
    let regs = |i: usize| unsafe { *seen[i].0.get() };
    let entry = attach(engine, addr, Kind::Entry, probe(0));
    same(run(&state, victim));
    assert_eq!(regs(0), expected_regs(&state, &regs(0), addr as u64));
    let exit = attach(engine, addr, Kind::Return, probe(1));
    same(run(&state, victim));
    let at_return = regs(1);
    assert_eq!(at_return, expected_regs(&state, &at_return, at_return.ip));
    assert_eq!(at_return.sp, regs(0).sp + 8);
    engine.detach(&[entry]);
    same(run(&state, victim));
    engine.detach(&[exit]);
    same(run(&state, victim));
}

/// The tests share victims: a return probe of one would be in the way of the other.
static VICTIMS: Mutex<()> = Mutex::new(());

#[test]
fn all_registers_and_flags() {
    let _victims = VICTIMS.lock();
    // CF PF AF ZF SF OF, and DF, which no function may leave set but may find.
    for flags in [0, 0x1, 0x4, 0x10, 0x40, 0x80, 0x800, 0x8d5, 0x400, 0xcd5] {
        check(reg_victim, flags);
        check(reg_victim_push, flags);
    }
}

#[test]
fn the_red_zone_of_an_entry_probe() {
    let _victims = VICTIMS.lock();
    let engine = common::engine();
    let addr = reg_victim as *const () as usize;
    let seen: &'static Seen = Box::leak(Box::new(Seen(UnsafeCell::default())));
    let state = State {
        general: [5; 15],
        flags: 0x202,
        xmm: [7; 16],
        red_zone: std::array::from_fn(|i| 0xabcd_0000 + i as u64),
    };
    let entry = attach(
        engine,
        addr,
        Kind::Entry,
        Probe::new(destroy, (&raw const *seen).cast()),
    );
    let out = run(&state, reg_victim);
    assert_eq!(out.red_zone, state.red_zone);
    engine.detach(&[entry]);
}
