//! Callbacks that need the record only.

use std::sync::atomic::{AtomicU64, Ordering};

use bpftime_attach::syscalls::{LightCallback, LightFunction};
use bpftime_attach::{Engine, SyscallProbe, When};

use crate::world::*;

/// What light callbacks saw: the record at enter and at exit, and how often.
static RECORDS: [[AtomicU64; 8]; 2] = [const { [const { AtomicU64::new(0) }; 8] }; 2];
static LIGHT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Notes the record and leaves nothing as it was that it may change.
macro_rules! light_callback {
    ($name:ident, $side:literal, $words:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(_record: *mut u8, _nothing: *mut ()) -> u64 {
            std::arch::naked_asm!(
                "lea rdx, [rip + {records} + 64 * {side}]",
                "xor ecx, ecx",
                "2:",
                "mov rax, [rdi + 8 * rcx]",
                "mov [rdx + 8 * rcx], rax",
                "inc ecx",
                "cmp ecx, {words}",
                "jb 2b",
                "mov [rdx], rsi",
                "lock inc qword ptr [rip + {count} + 8 * {side}]",
                "mov rax, -1",
                "mov rdx, rax",
                "mov rsi, rax",
                "mov rdi, rax",
                "mov r8, rax",
                "mov r9, rax",
                "mov r10, rax",
                "mov r11, rax",
                "mov rcx, rax",
                "add eax, 0x7fffffff",
                "ret",
                records = sym RECORDS,
                count = sym LIGHT,
                side = const $side,
                words = const $words,
            )
        }
    };
}

light_callback!(light_enter, 0, 8);
light_callback!(light_exit, 1, 3);

/// The same as compiled code does it: with vector registers, by an aligned stack
/// and strings that go up, or not at all.
macro_rules! vector_callback {
    ($name:ident, $light:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(_record: *mut u8, _nothing: *mut ()) -> u64 {
            std::arch::naked_asm!(
                "lea rax, [rsp + 8]",
                "test al, 15",
                "jnz 2f",
                "pushfq",
                "pop rax",
                "test ah, 4",
                "jnz 2f",
                "pxor xmm0, xmm0",
                "pxor xmm7, xmm7",
                "pxor xmm15, xmm15",
                "jmp {light}",
                "2:",
                "ret",
                light = sym $light,
            )
        }
    };
}

vector_callback!(vector_enter, light_enter);
vector_callback!(vector_exit, light_exit);

/// What callbacks find in their second argument.
const DATA: u64 = 0xda7a;

fn light_probe(when: When, nr: Option<i64>, is_raw: bool, needs_vectors: bool) -> SyscallProbe {
    let function: LightFunction = match (when, needs_vectors) {
        (When::Enter, false) => light_enter,
        (When::Exit, false) => light_exit,
        (When::Enter, true) => vector_enter,
        (When::Exit, true) => vector_exit,
    };
    let light = LightCallback {
        function,
        data: DATA as *const (),
        needs_vectors,
        is_raw,
    };
    SyscallProbe {
        light: Some(light),
        ..probe(when, nr)
    }
}

fn light_counts() -> [u64; 2] {
    [0, 1].map(|side| LIGHT[side].load(Ordering::Relaxed))
}

fn record(side: usize, words: usize) -> Vec<u64> {
    let record = RECORDS[side].iter().take(words);
    record.map(|word| word.load(Ordering::Relaxed)).collect()
}

#[test]
fn light_callbacks_get_the_record_and_change_nothing() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let getppid = libc::SYS_getppid;
    let nr = getppid as u64;
    let cases = [
        (Some(getppid), false, false),
        (None, true, false),
        (Some(getppid), false, true),
        (None, true, true),
    ];
    for (wanted, is_raw, vectors) in cases {
        let probe = |when| light_probe(when, wanted, is_raw, vectors);
        let probes = [When::Enter, When::Exit].map(probe);
        engine.trace_syscalls(&modules(), &probes);
        // The first call of a thread takes the long way, which counts there.
        // SAFETY: calls without effect; the state is restored.
        let (state, parent) = unsafe {
            test_constant(0, 0, 0);
            let before = light_counts();
            let state = (test_state(), test_state());
            let parent = test_constant(11, 12, 13);
            let after = light_counts();
            assert_eq!([0, 1].map(|side| after[side] - before[side]), [3, 3]);
            (state, parent as u64)
        };
        assert_eq!(state, (0, 0));
        assert_eq!(record(0, 5), [DATA, nr, 11, 12, 13]);
        let second = if is_raw { parent } else { nr };
        assert_eq!(record(1, 3), [DATA, second, parent]);
        // A number from elsewhere takes the short way where no exit is wanted.
        engine.trace_syscalls(&modules(), &probes[..1]);
        // SAFETY: as above.
        let variable = unsafe { test_variable(getppid | 7 << 32, 21) } as u64;
        assert_eq!((variable, &record(0, 3)[..]), (parent, &[DATA, nr, 21][..]));
        engine.trace_syscalls(&modules(), &[]);
    }
}

#[test]
fn light_and_other_callbacks_count_the_same_calls() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let count = |light: Option<bool>| {
        let make = |when| match light {
            Some(vectors) => light_probe(when, None, false, vectors),
            None => probe(when, None),
        };
        let sum = || {
            let all = |counts: &[AtomicU64]| -> u64 {
                counts
                    .iter()
                    .map(|count| count.load(Ordering::Relaxed))
                    .sum()
            };
            let [enter, exit] = light_counts();
            (all(&ENTERED) + enter, all(&EXITED) + exit)
        };
        engine.trace_syscalls(&modules(), &[make(When::Enter), make(When::Exit)]);
        let before = sum();
        for _ in 0..20 {
            // SAFETY: the child ends at once; calls without effect.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(libc::syscall(libc::SYS_getppid) as i32 & 1);
                }
                wait_for(child);
                libc::raise(libc::SIGCHLD);
                test_variable(libc::SYS_getuid, 0);
            }
        }
        let after = sum();
        engine.trace_syscalls(&modules(), &[]);
        (after.0 - before.0, after.1 - before.1)
    };
    assert_eq!(count(Some(false)), count(None));
    assert_eq!(count(Some(true)), count(None));
}
