//! Loops that fill or copy memory: whatever registers, sizes, ways to count
//! and distances, they leave what the interpreter leaves.

use std::fmt::Write;
use std::ptr;

use bpftime_vm::jit::CompiledProgram;

use crate::common::{Names, assemble, run_both};

/// Numbers that look random.
pub struct Stream(pub u64);

impl Stream {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Bytes of memory.
const MEMORY: usize = 2048;
const NAMES: [(&str, usize); 4] = [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)];
/// Rounds: around where bulk instructions begin to be used, for each size.
const ROUNDS: [usize; 12] = [1, 2, 15, 16, 17, 31, 32, 33, 64, 127, 128, 129];

/// A loop, and code that looks at what it leaves.
fn program(stream: &mut Stream) -> String {
    let mut free: Vec<usize> = (0..10).filter(|&reg| reg != 1).collect();
    let mut take = |stream: &mut Stream| {
        let at = stream.below(free.len());
        free.swap_remove(at)
    };
    let [memory, to, from, index, bound, t1, t2, element] = std::array::from_fn(|_| take(stream));
    let (size, bytes) = stream.pick(&NAMES);
    let rounds = stream.pick(&ROUNDS);
    let most = MEMORY - rounds * bytes;
    let target = stream.below(most);
    let near = [target, target + 1, target.saturating_sub(1), target + bytes];
    let source = if stream.below(2) == 0 {
        stream.pick(&near).min(most)
    } else {
        stream.below(most)
    };

    let mut text = format!("r{memory} = r1\n");
    // By pointers, or by a base and what counts.
    let pointers = stream.below(2) == 0;
    let step = if pointers {
        stream.pick(&[1, 1, 4])
    } else {
        bytes
    };
    let start = stream.below(3) * 5;
    let limit = start + rounds * step - stream.below(step);
    let skew = if pointers { 0 } else { start };
    let mut base = |reg: usize, offset: usize| {
        let offset = offset as i64 - skew as i64;
        writeln!(text, "r{reg} = r{memory}\nr{reg} += {offset}").expect("a string takes all");
    };
    base(to, target);
    base(from, source);
    writeln!(text, "r{index} = {start}\nr{bound} = {limit}").expect("a string takes all");
    writeln!(text, "r{element} = 0x12345678").expect("a string takes all");
    writeln!(text, "loop:").expect("a string takes all");
    let address = |text: &mut String, temporary: usize, reg: usize| -> usize {
        if pointers {
            return reg;
        }
        writeln!(text, "r{temporary} = r{reg}\nr{temporary} += r{index}").expect("a string");
        temporary
    };
    match stream.below(3) {
        0 => {
            let to = address(&mut text, t1, to);
            writeln!(text, "*({size} *)(r{to} + 0) = r{element}").expect("a string");
        }
        1 => {
            let to = address(&mut text, t1, to);
            writeln!(text, "*({size} *)(r{to} + 0) = -77").expect("a string");
        }
        _ => {
            let from = address(&mut text, t2, from);
            writeln!(text, "r{element} = *({size} *)(r{from} + 0)").expect("a string");
            let to = address(&mut text, t1, to);
            writeln!(text, "*({size} *)(r{to} + 0) = r{element}").expect("a string");
        }
    }
    if pointers {
        writeln!(text, "r{to} += {bytes}\nr{from} += {bytes}").expect("a string");
    }
    writeln!(text, "r{index} += {step}").expect("a string");
    let exact = step == 1;
    let goes_on = match stream.below(if exact { 6 } else { 3 }) {
        0 => format!("r{index} < r{bound}"),
        1 => format!("r{bound} > r{index}"),
        2 => format!("r{index} < {limit}"),
        3 => format!("r{index} != r{bound}"),
        4 => format!("r{bound} != r{index}"),
        _ => format!("r{index} != {limit}"),
    };
    writeln!(text, "if {goes_on} goto loop").expect("a string");
    // What the loop leaves in counters; temporaries are needed now and then.
    writeln!(text, "r{to} -= r{memory}\nr{from} -= r{memory}").expect("a string");
    writeln!(text, "r{index} *= 31\nr{to} += r{index}\nr{to} += r{from}").expect("a string");
    if stream.below(8) == 0 {
        writeln!(text, "r{to} += r{element}").expect("a string");
    }
    text + &format!("r0 = r{to}\nexit")
}

#[test]
fn bulk_loops_leave_what_the_interpreter_leaves() {
    let memory: Vec<u8> = (0..MEMORY).map(|at| (at * 7 + at / 256) as u8).collect();
    let mut stream = Stream(0x1234_5678_9abc_def1);
    let mut bulk = 0;
    for _ in 0..1000 {
        let text = program(&mut stream);
        let program = assemble(&text);
        run_both(&program, &memory, ptr::null_mut());
        let compiled = CompiledProgram::compile(&program, &Names).expect("compiles");
        bulk += usize::from(compiled.code_bytes().windows(2).any(|w| w == [0xfc, 0xf3]));
    }
    assert!(bulk > 600, "only {bulk} used instructions for it");
}

/// Whether the JIT takes the loop for one.
fn is_bulk(text: &str) -> bool {
    let program = assemble(text);
    let compiled = CompiledProgram::compile(&program, &Names).expect("compiles");
    compiled.code_bytes().windows(2).any(|w| w == [0xfc, 0xf3])
}

#[test]
fn what_only_looks_like_it_is_left_alone() {
    let fill =
        |body: &str| format!("r2 = 0\nr3 = r1\nloop:\n{body}\nif r2 < 200 goto loop\nr0 = 0\nexit");
    assert!(is_bulk(&fill("*(u8 *)(r3 + 0) = 5\nr3 += 1\nr2 += 1")));
    for body in [
        // Gaps, backwards, on the spot.
        "*(u8 *)(r3 + 0) = 5\nr3 += 2\nr2 += 1",
        "*(u8 *)(r3 + 200) = 5\nr3 += -1\nr2 += 1",
        "*(u8 *)(r3 + 0) = 5\nr2 += 1",
        // The value changes.
        "*(u8 *)(r3 + 0) = r2\nr3 += 1\nr2 += 1",
        // Stored before it is loaded, or of another size.
        "*(u8 *)(r3 + 1) = r4\nr4 = *(u8 *)(r3 + 0)\nr3 += 1\nr2 += 1",
        "r4 = *(u8 *)(r3 + 0)\n*(u16 *)(r3 + 8) = r4\nr3 += 2\nr2 += 1",
        // Sign-extended, or from one place.
        "r4 = *(u8 *)(r1 + 0)\n*(u8 *)(r3 + 0) = r4\nr3 += 1\nr2 += 1",
        // Two stores.
        "*(u8 *)(r3 + 0) = 5\n*(u8 *)(r3 + 0) = 6\nr3 += 1\nr2 += 1",
        // Other work.
        "*(u8 *)(r3 + 0) = 5\nr3 += 1\nr5 ^= r2\nr2 += 1",
        // The stack moves no faster than others, but has no register.
        "*(u8 *)(r10 - 8) = 5\nr3 += 1\nr2 += 1",
    ] {
        assert!(!is_bulk(&fill(body)), "{body}");
    }
    let needed = "r2 = 0\nloop:\nr3 = r1\nr3 += r2\n*(u8 *)(r3 + 0) = 5\nr2 += 1\n\
                  if r2 < 200 goto loop\nr0 = r3\nexit";
    assert!(!is_bulk(needed), "the address is needed");
    let signed = "r2 = 0\nr3 = r1\nloop:\n*(u8 *)(r3 + 0) = 5\nr3 += 1\nr2 += 1\n\
                  if r2 s< 200 goto loop\nr0 = 0\nexit";
    assert!(!is_bulk(signed), "signed");
}
