//! A probed function sees and leaves every register, flag and the red zone as
//! without probes, whatever the callback does to its own; and the callback
//! sees them in its `PtRegs`.

mod common;

use std::arch::{asm, global_asm};
use std::cell::UnsafeCell;
use std::sync::Mutex;

use bpftime_attach::{Counter, Hit, Kind, Needs, Probe};
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

    .p2align 4
    .globl reg_victim_flags
    .type reg_victim_flags,@function
reg_victim_flags:
    lea rax, [rax + rcx + 100]
    cmp rax, rdx
    adc rax, 0
    ret
    .size reg_victim_flags, . - reg_victim_flags

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
    fn reg_victim_flags();
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

/// Destroys every general register that a C function may destroy, and flags.
unsafe extern "C" fn destroy_general(regs: *mut PtRegs, data: *const (), _hit: *mut Hit) -> u64 {
    // SAFETY: `data` is the leaked `Seen`; what the needs leave out of `regs`
    // is memory all the same.
    unsafe { copy_words(regs, (*data.cast::<Seen>()).0.get()) };
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
            "add al, 1",
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    0
}

/// Copies without a vector register, whichever way DF says.
unsafe fn copy_words(from: *const PtRegs, to: *mut PtRegs) {
    for i in 0..size_of::<PtRegs>() / 8 {
        // SAFETY: both are records of so many words.
        unsafe {
            to.cast::<u64>()
                .add(i)
                .write_volatile(from.cast::<u64>().add(i).read_volatile())
        };
    }
}

/// Destroys vector registers, too.
unsafe extern "C" fn destroy(regs: *mut PtRegs, data: *const (), hit: *mut Hit) -> u64 {
    // SAFETY: all that is written is declared. With DF set it would run away.
    unsafe {
        asm!(
            "pushfq",
            "test byte ptr [rsp + 1], 4",
            "jz 2f",
            "ud2",
            "2: lea rsp, [rsp + 8]",
            "pcmpeqd xmm0, xmm0",
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
            clobber_abi("C"),
        );
    }
    // SAFETY: the same contract.
    unsafe { destroy_general(regs, data, hit) }
}

/// The callback that makes the most of what it was said to need.
fn destroyer(needs: Needs) -> Probe {
    let callback = if needs == Needs::LITTLE || needs == Needs::ALL_REGISTERS {
        destroy_general
    } else {
        destroy
    };
    Probe::new(callback, std::ptr::null()).needing(needs)
}

/// What a callback with these needs may look at.
fn promised(needs: Needs, regs: PtRegs) -> PtRegs {
    if needs != Needs::LITTLE && needs != Needs::VECTORS {
        return regs;
    }
    PtRegs {
        bx: 0,
        bp: 0,
        r12: 0,
        r13: 0,
        r14: 0,
        r15: 0,
        orig_ax: 0,
        cs: 0,
        flags: 0,
        ip: 0,
        sp: 0,
        ss: 0,
        ..regs
    }
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

fn check(victim: unsafe extern "C" fn(), flags: u64, needs: [Needs; 2]) {
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
        assert_eq!(
            State { red_zone, ..out },
            plain,
            "{needs:?}, flags {flags:#x}"
        );
    };
    assert_eq!(
        (plain.general, plain.xmm, plain.flags),
        (state.general, state.xmm, state.flags)
    );

    let seen: [&'static Seen; 2] =
        [0, 1].map(|_| &*Box::leak(Box::new(Seen(UnsafeCell::default()))));
    let counters = [0, 1].map(|_| Counter::new().expect("a counter"));
    let hits = [0, 1].map(|i: usize| counters[i].hits());
    let probe = |i: usize| Probe {
        data: (&raw const *seen[i]).cast(),
        ..destroyer(needs[i]).counting_hits(hits[i])
    };
    // SAFETY: no hit runs while we look.
    let regs = |i: usize| unsafe { *seen[i].0.get() };
    let expect = |i: usize, ip: u64| {
        let expected = promised(needs[i], expected_regs(&state, &regs(i), ip));
        assert_eq!(promised(needs[i], regs(i)), expected, "{needs:?}");
    };
    let entry = attach(engine, addr, Kind::Entry, probe(0));
    // Twice: a thread's first hit goes another way.
    same(run(&state, victim));
    same(run(&state, victim));
    expect(0, addr as u64);
    let exit = attach(engine, addr, Kind::Return, probe(1));
    same(run(&state, victim));
    expect(0, addr as u64);
    expect(1, regs(1).ip);
    if needs == [Needs::EVERYTHING; 2] {
        assert_eq!(regs(1).sp, regs(0).sp + 8);
    }
    engine.detach(&[entry]);
    same(run(&state, victim));
    expect(1, regs(1).ip);
    engine.detach(&[exit]);
    same(run(&state, victim));
    assert_eq!(counters.each_ref().map(Counter::take), [3, 2]);
}

/// The tests share victims: a return probe of one would be in the way of the other.
static VICTIMS: Mutex<()> = Mutex::new(());

const NEEDS: [Needs; 5] = [
    Needs::LITTLE,
    Needs::VECTORS,
    Needs::ALL_REGISTERS,
    Needs::ALL_REGISTERS.and(Needs::VECTORS),
    Needs::EVERYTHING,
];

#[test]
fn all_registers_and_flags() {
    let _victims = VICTIMS.lock();
    // CF PF AF ZF SF OF, and DF, which no function may leave set but may find.
    for flags in [0, 0x1, 0x4, 0x10, 0x40, 0x80, 0x800, 0x8d5, 0x400, 0xcd5] {
        for entry in NEEDS {
            for exit in NEEDS {
                check(reg_victim, flags, [entry, exit]);
                check(reg_victim_push, flags, [entry, exit]);
            }
        }
    }
}

#[test]
fn the_red_zone_of_an_entry_probe() {
    let _victims = VICTIMS.lock();
    let engine = common::engine();
    let addr = reg_victim as *const () as usize;
    let state = State {
        general: [5; 15],
        flags: 0x202,
        xmm: [7; 16],
        red_zone: std::array::from_fn(|i| 0xabcd_0000 + i as u64),
    };
    for needs in NEEDS {
        let seen: &'static Seen = Box::leak(Box::new(Seen(UnsafeCell::default())));
        let probe = Probe {
            data: (&raw const *seen).cast(),
            ..destroyer(needs)
        };
        let entry = attach(engine, addr, Kind::Entry, probe);
        let out = run(&state, reg_victim);
        assert_eq!(out.red_zone, state.red_zone, "{needs:?}");
        engine.detach(&[entry]);
    }
}

/// Where flags are overwritten before they are read, nobody saves them; the
/// code behind computes the same.
#[test]
fn flags_that_nobody_reads() {
    let _victims = VICTIMS.lock();
    let engine = common::engine();
    let addr = reg_victim_flags as *const () as usize;
    let state = State {
        general: std::array::from_fn(|i| 7 + i as u64),
        flags: 0x202,
        xmm: [7; 16],
        red_zone: [0; 16],
    };
    let plain = run(&state, reg_victim_flags);
    let seen: &'static Seen = Box::leak(Box::new(Seen(UnsafeCell::default())));
    for flags in [0x202, 0xad7] {
        for needs in NEEDS {
            let probe = Probe {
                data: (&raw const *seen).cast(),
                ..destroyer(needs)
            };
            let entry = attach(engine, addr, Kind::Entry, probe);
            let out = run(&State { flags, ..state }, reg_victim_flags);
            assert_eq!(
                (out.general, out.flags, out.xmm),
                (plain.general, plain.flags, plain.xmm)
            );
            engine.detach(&[entry]);
        }
    }
}
