//! Every kind of first instruction: the function computes what it computed,
//! probes see its arguments and result, and its bytes come back.

mod common;

use std::arch::global_asm;

use bpftime_attach::Kind;
use common::{Recorder, attach, text};

// Each function takes (a, b) and returns a value that `expected` computes.
global_asm!(
    r#"
    .macro function name
    .p2align 4
    .globl \name
    .type \name,@function
\name:
    .endm
    .macro end name
    .size \name, . - \name
    .endm

    .section .data.victims,"aw"
victim_word: .quad 1000
victim_pointer: .quad victim_add

    .text
    function victim_add
    lea rax, [rdi + rsi]
    ret
    end victim_add

    function victim_endbr
    endbr64
    lea rax, [rdi + rsi]
    ret
    end victim_endbr

    function victim_push
    push rbp
    mov rbp, rsp
    lea rax, [rdi + rsi]
    pop rbp
    ret
    end victim_push

    function victim_push_r15
    push r15
    push r14
    lea r15, [rdi + rsi]
    mov rax, r15
    pop r14
    pop r15
    ret
    end victim_push_r15

    function victim_sub_rsp
    sub rsp, 0x18
    mov [rsp + 8], rdi
    mov rax, [rsp + 8]
    add rax, rsi
    add rsp, 0x18
    ret
    end victim_sub_rsp

    function victim_rip
    mov rax, [rip + victim_word]
    add rax, rdi
    add rax, rsi
    sub rax, 1000
    ret
    end victim_rip

    function victim_lea_rip
    lea rdx, [rip + victim_word]
    mov rax, rdi
    add rax, rsi
    ret
    end victim_lea_rip

    function victim_mov_imm
    mov eax, 7
    lea rax, [rdi + rsi]
    ret
    end victim_mov_imm

    function victim_xor
    xor eax, eax
    add rax, rdi
    add rax, rsi
    ret
    end victim_xor

    function victim_jmp
    jmp victim_add
    end victim_jmp

    function victim_jmp_indirect
    jmp qword ptr [rip + victim_pointer]
    end victim_jmp_indirect

    function victim_jcc
    je 2f
2:  lea rax, [rdi + rsi]
    ret
    end victim_jcc

    function victim_jrcxz
    jrcxz 2f
2:  lea rax, [rdi + rsi]
    ret
    end victim_jrcxz

    function victim_call
    call victim_add
    ret
    end victim_call

    function victim_call_indirect
    call qword ptr [rip + victim_pointer]
    ret
    end victim_call_indirect

    function victim_call_register
    mov rax, rsi
    lea rax, [rax + rdi]
    ret
    end victim_call_register

    function victim_loop
    dec rsi
    inc rdi
    test rsi, rsi
    jg victim_loop
    mov rax, rdi
    add rax, rsi
    ret
    end victim_loop

    function victim_flags
    test rdi, rdi
    lea rax, [rdi + rsi]
    ret
    end victim_flags

    function victim_fs
    mov rdx, qword ptr fs:[0]
    lea rax, [rdi + rsi]
    ret
    end victim_fs

    function victim_ret
    ret
    end victim_ret

    function victim_last
    lea rax, [rdi + rsi]
    ret
    end victim_last
"#
);

macro_rules! victims {
    ($($name:ident),* $(,)?) => {
        unsafe extern "C" { $(fn $name(a: u64, b: u64) -> u64;)* }
        const VICTIMS: &[(&str, unsafe extern "C" fn(u64, u64) -> u64)] = &[$((stringify!($name), $name)),*];
    };
}

victims! {
    victim_add, victim_endbr, victim_push, victim_push_r15, victim_sub_rsp, victim_rip, victim_lea_rip,
    victim_mov_imm, victim_xor, victim_jmp, victim_jmp_indirect, victim_jcc, victim_jrcxz, victim_call,
    victim_call_indirect, victim_call_register, victim_loop, victim_flags, victim_fs, victim_last,
}

unsafe extern "C" {
    fn victim_ret();
}

const RET: u8 = 0xc3;

fn check(name: &str, victim: unsafe extern "C" fn(u64, u64) -> u64) {
    let engine = common::engine();
    let addr = victim as *const () as usize;
    let before = text(addr, 16);
    // SAFETY: the victims above take two words and give one.
    let call = |a, b| unsafe { victim(a, b) };
    let unprobed = call(30, 12);
    assert_eq!(unprobed, 42, "{name}");

    let entry = Recorder::leaked();
    let exit = Recorder::leaked();
    let entry_id = attach(engine, addr, Kind::Entry, entry.probe());
    assert_ne!(text(addr, 16), before, "{name}");
    assert_eq!(call(30, 12), unprobed, "{name} with an entry probe");
    // A loop back to the entry is a hit each time round, and each hit a return.
    let rounds = if name == "victim_loop" { 12 } else { 1 };
    let last_argument = 30 + rounds - 1;
    assert_eq!(
        (entry.last().di, entry.last().ip),
        (last_argument, addr as u64),
        "{name}"
    );
    assert_eq!(entry.hits(), rounds, "{name}");

    let exit_id = attach(engine, addr, Kind::Return, exit.probe());
    assert_eq!(call(31, 12), 43, "{name} with both probes");
    assert_eq!((entry.hits(), exit.hits()), (2 * rounds, rounds), "{name}");
    assert_eq!(exit.last().ax, 43, "{name}");
    assert_eq!(exit.last().sp, entry.last().sp + 8, "{name}");
    assert_eq!(
        exit.func_ip.load(std::sync::atomic::Ordering::Relaxed),
        addr as u64
    );
    engine.detach(&[entry_id]);
    assert_eq!(call(32, 12), 44, "{name} with a return probe");
    assert_eq!(
        (entry.hits(), exit.hits()),
        (2 * rounds, 2 * rounds),
        "{name}"
    );
    engine.detach(&[exit_id]);
    // A jump in the padding behind it may stay: which place takes a jump depends
    // on where the linker has put the function.
    let end = before.iter().position(|byte| *byte == RET);
    let own = end.map_or(before.len(), |ret| ret + 1);
    assert_eq!(
        text(addr, 16)[..own],
        before[..own],
        "{name} has its bytes back"
    );
    assert_eq!(call(30, 12), unprobed, "{name} after all");
    assert_eq!(entry.missed() + exit.missed(), 0);
}

#[test]
fn every_first_instruction() {
    for (name, victim) in VICTIMS {
        check(name, *victim);
        check(name, *victim);
    }
}

#[test]
fn a_function_of_one_byte() {
    let engine = common::engine();
    let addr = victim_ret as *const () as usize;
    let before = text(addr, 8);
    let (entry, exit) = (Recorder::leaked(), Recorder::leaked());
    let ids = [
        attach(engine, addr, Kind::Entry, entry.probe()),
        attach(engine, addr, Kind::Return, exit.probe()),
    ];
    for _ in 0..3 {
        // SAFETY: it only returns.
        unsafe { victim_ret() };
    }
    assert_eq!((entry.hits(), exit.hits()), (3, 3));
    engine.detach(&ids);
    // SAFETY: it only returns.
    unsafe { victim_ret() };
    assert_eq!((entry.hits(), exit.hits()), (3, 3));
    assert_eq!(text(addr, 8), before);
}
