//! Displaced code on trial: what an instruction of a real library does to
//! registers, flags and memory, its trampoline does, too. Both are executed, a
//! step at a time, by a traced child that shares its memory with the test.

mod cpu;
mod state;

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};
use object::ElfFile;

use super::decode::First;
use super::emit;
use cpu::{Cpu, Outcome};
use state::State;

const FILES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0",
    "/bin/bash",
];
/// Registers that make an instruction fault are given up so often.
const ATTEMPTS: u64 = 4;
/// Most instructions before the one that becomes a jump.
const MOST_UNDONE: usize = 8;

/// How often what happened.
#[derive(Debug, Default)]
struct Tally {
    /// Ran to their end, alike.
    ran: usize,
    /// Faulted, alike.
    faulted: usize,
    /// What cannot be compared, and what cannot be moved.
    skipped: BTreeMap<String, usize>,
}

impl Tally {
    fn skip(&mut self, why: &str, instruction: &Instruction) {
        let what = format!("{why} {:?}", instruction.code());
        *self.skipped.entry(what).or_default() += 1;
    }
}

/// Whether running it twice may give two results, or would leave the child's hands.
fn is_beyond_compare(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        // Enter the kernel, or change how steps are made.
        Mnemonic::Syscall | Mnemonic::Popf | Mnemonic::Popfq | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq
        // Times and chance.
        | Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdrand | Mnemonic::Rdseed | Mnemonic::Rdpmc
        // Store where the last x87 instruction was.
        | Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fnstenv | Mnemonic::Fnsave
        | Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xsavec | Mnemonic::Xsavec64
        // Take what is random here for a state of the processor.
        | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 | Mnemonic::Xrstor | Mnemonic::Xrstor64
        | Mnemonic::Fldcw | Mnemonic::Fldenv | Mnemonic::Frstor | Mnemonic::Ldmxcsr | Mnemonic::Wrpkru
    ) || matches!(instruction.code(), Code::Wrfsbase_r64 | Code::Wrgsbase_r64)
}

/// One group of instructions, of which the last becomes the jump.
fn check(cpu: &mut Cpu, group: &[Instruction], far: u64, tally: &mut Tally) {
    let Some(last) = group.last() else {
        return;
    };
    if let Some(beyond) = group.iter().find(|i| is_beyond_compare(i)) {
        return tally.skip("beyond compare:", beyond);
    }
    let displaced: Result<Vec<First>, _> = group
        .iter()
        .map(|i| First::decode(cpu.image().bytes(i.ip(), i.len()), i.ip()))
        .collect();
    let code = displaced.and_then(|displaced| emit::trampoline(far, 0, &displaced));
    let Ok(code) = code else {
        return tally.skip("immovable:", last);
    };
    let entry = far + emit::DISPLACED_AT;
    for attempt in 0..ATTEMPTS {
        let state = State::for_group(group, attempt);
        let original = cpu.run_group(&state, group);
        cpu.place(far, &code);
        let whole = far..far + code.len() as u64;
        let moved = cpu.run_within(&state, group, entry, whole);
        // A call's return address is pushed before its target is read.
        let may_differ = last.code() == Code::Call_rm64;
        let both_fault = original.fault().is_some() && original.fault() == moved.fault();
        if !(may_differ && both_fault) && original != moved {
            let shown = original.differences(&moved);
            panic!(
                "{:x} {last:?} of {group:?} with {state:x?} became {code:x?}:\n{shown}",
                last.ip()
            );
        }
        if original.fault().is_none() {
            tally.ran += 1;
            return;
        }
    }
    tally.faulted += 1;
}

/// The instruction at `n`, and it and what is before it if that can be undone.
fn groups(code: &[Instruction], n: usize) -> Vec<&[Instruction]> {
    let mut groups = vec![&code[n..=n]];
    if n == 0 {
        let undone = code.iter().take(MOST_UNDONE).take_while(|i| {
            let nothing = [0; 15];
            let mut encoder = iced_x86::Encoder::new(64);
            let bytes = encoder.encode(i, i.ip()).map(|_| encoder.take_buffer());
            let first = First::decode(bytes.as_deref().unwrap_or(&nothing), i.ip());
            first.is_ok_and(|first| first.undone_by().is_some())
        });
        let undone = undone.count();
        groups.extend((1..=undone).filter_map(|n| code.get(..=n)));
    }
    groups
}

/// Every `step`-th instruction of a file's functions, and all entries.
fn check_file(path: &str, step: u64) -> Tally {
    let bytes = std::fs::read(path).expect("the file");
    let elf = ElfFile::parse(&bytes).expect("an ELF file");
    let mut tally = Tally::default();
    let mut cpu = Cpu::new(&elf);
    for function in elf.functions().iter() {
        let start = cpu.image().address(function.range.start);
        let len = (function.range.end - function.range.start).min(1 << 20) as usize;
        let text = cpu.image().bytes(start, len).to_vec();
        let decoder = Decoder::with_ip(64, &text, start, DecoderOptions::NONE);
        let code: Vec<Instruction> = decoder
            .into_iter()
            .take_while(|i| !i.is_invalid())
            .collect();
        for n in 0..code.len() {
            if n != 0 && !(n as u64 + start / 16).is_multiple_of(step) {
                continue;
            }
            for (turn, group) in groups(&code, n).into_iter().enumerate() {
                let far = cpu::FAR[(n + turn) % cpu::FAR.len()] + start % 64 * 16;
                check(&mut cpu, group, far, &mut tally);
            }
        }
    }
    tally
}

#[expect(
    clippy::print_stderr,
    reason = "what was left out is what one runs this test for"
)]
fn check_whole(path: &str) {
    if !std::path::Path::new(path).exists() {
        assert!(std::env::var_os("CI").is_none(), "needs {path}");
        return;
    }
    let step = if std::env::var_os("TORTURE_LONG").is_some() {
        1
    } else {
        128
    };
    let tally = check_file(path, step);
    let skipped: usize = tally.skipped.values().sum();
    eprintln!("{path}: {tally:?}");
    assert!(tally.ran > 2000, "{tally:?}");
    assert!(tally.faulted * 50 < tally.ran, "{tally:?}");
    assert!(skipped * 200 < tally.ran, "{tally:?}");
}

#[test]
fn libc_does_the_same_displaced() {
    check_whole(FILES[0]);
}

#[test]
fn libstdcxx_does_the_same_displaced() {
    check_whole(FILES[1]);
}

#[test]
fn libcrypto_does_the_same_displaced() {
    check_whole(FILES[2]);
}

#[test]
fn libpython_does_the_same_displaced() {
    check_whole(FILES[3]);
}

#[test]
fn bash_does_the_same_displaced() {
    check_whole(FILES[4]);
}

#[test]
fn a_wrong_relocation_would_be_seen() {
    let bytes = std::fs::read(FILES[0]).expect("the file");
    let elf = ElfFile::parse(&bytes).expect("an ELF file");
    let mut cpu = Cpu::new(&elf);
    let image = cpu.image();
    let start = image.address(
        elf.functions()
            .iter()
            .next()
            .expect("a function")
            .range
            .start,
    );
    // lea rax, [rdi + rsi] and, in its place, lea rax, [rdi + rsi + 1], and
    // others that differ in a flag, in memory, in the next address.
    let pairs: [(&[u8], &[u8]); 4] = [
        (&[0x48, 0x8d, 0x04, 0x37], &[0x48, 0x8d, 0x44, 0x37, 0x01]),
        (&[0x48, 0x89, 0xf8], &[0x48, 0x89, 0xf8, 0xf9]),
        (
            &[0x48, 0x89, 0xf8],
            &[0x48, 0x89, 0xf8, 0xc6, 0x44, 0x24, 0xf0, 0x77],
        ),
        (&[0x90], &[0xeb, 0x01]),
    ];
    for (original, moved) in pairs {
        cpu.place(start, original);
        cpu.place(cpu::FAR[0], moved);
        let group = [Decoder::with_ip(64, original, start, DecoderOptions::NONE).decode()];
        let mut state = State::for_group(&group, 0);
        state.regs.eflags &= !1;
        let there = cpu::FAR[0]..cpu::FAR[0] + moved.len() as u64;
        let one = cpu.run_group(&state, &group);
        let mut other = cpu.run_within(&state, &group, there.start, there.clone());
        assert!(matches!(one.outcome, Outcome::At(_)));
        if other.outcome == Outcome::At(there.end) {
            other.outcome = one.outcome;
        }
        assert_ne!(one, other, "{original:x?}");
    }
}
