//! Random programs with loops that call back and with global functions: none
//! that the kernel refuses is accepted, and all engines compute the same.

use uapi::map::BPF_MAP_TYPE_ARRAY;

use super::runs::{case, ours_in, session};
use super::{Case, kernel};

/// Pseudo-random numbers (xorshift).
struct Stream(u64);

impl Stream {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Text of a program under construction. Functions work on four words of 8
/// bytes at the address in r6.
struct Writer {
    random: Stream,
    text: String,
    labels: usize,
}

impl Writer {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn word(&mut self) -> String {
        format!("*(u64 *)(r6 + {})", 8 * self.random.below(4))
    }

    /// Changes one word by another or a constant.
    fn compute(&mut self) {
        let (from, to) = (self.word(), self.word());
        let op = self
            .random
            .one(&["+=", "-=", "*=", "&=", "|=", "^=", ">>=", "="]);
        let limit = if op == ">>=" { 63 } else { 40 };
        let constant = self.random.below(limit);
        self.line(&format!("r1 = {from}"));
        if self.random.below(2) == 0 || op == ">>=" {
            self.line(&format!("r1 {op} {constant}"));
        } else {
            let other = self.word();
            self.line(&format!("r2 = {other}\nr1 {op} r2"));
        }
        self.line(&format!("{to} = r1"));
    }

    /// Reads or writes a word at a place that another word says, usually
    /// within bounds. Whole words only: of parts of them we know more than the
    /// kernel.
    fn index(&mut self) {
        let (from, to) = (self.word(), self.word());
        let label = self.label();
        self.line(&format!("r1 = {from}"));
        match self.random.below(8) {
            0 => self.line("r1 <<= 3"),
            1 => self.line("r1 &= 56"),
            2 => self.line(&format!("r1 <<= 3\nif r1 > 32 goto {label}")),
            3..5 => self.line(&format!("r1 <<= 3\nif r1 > 24 goto {label}")),
            _ => self.line("r1 &= 24"),
        }
        self.line("r2 = r6\nr2 += r1");
        if self.random.below(2) == 0 {
            self.line(&format!("r3 = *(u64 *)(r2 + 0)\n{to} = r3"));
        } else {
            self.line("*(u64 *)(r2 + 0) = 7");
        }
        self.line(&format!("{label}:"));
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("l{}", self.labels)
    }

    fn loop_over(&mut self, callback: &str) {
        let count = self.random.one(&["0", "1", "2", "3", "17", "100"]);
        let unknown = self.random.below(3) == 0;
        if unknown {
            let word = self.word();
            self.line(&format!("r1 = {word}\nr1 &= 15"));
        } else {
            self.line(&format!("r1 = {count}"));
        }
        self.line(&format!("r2 = func[{callback}]\nr3 = r6\nr4 = 0\ncall 181"));
        let to = self.word();
        self.line(&format!("{to} = r0"));
    }

    fn call_global(&mut self) {
        let (from, to) = (self.word(), self.word());
        self.line(&format!("r1 = {from}\nr2 = r6\ncall g\n{to} = r0"));
    }

    fn body(&mut self, steps: u64, callbacks: &[&str], global: bool) {
        for _ in 0..steps {
            match self.random.below(9) {
                0..4 => self.compute(),
                4..6 => self.index(),
                6 if global => self.call_global(),
                7 if !callbacks.is_empty() => {
                    let callback = self.random.one(callbacks);
                    self.loop_over(callback);
                }
                _ => {
                    let (word, label) = (self.word(), self.label());
                    let value = self.random.below(20);
                    let op = self.random.one(&["==", "!=", ">", "<", "s>"]);
                    self.line(&format!("r1 = {word}\nif r1 {op} {value} goto {label}"));
                    self.compute();
                    self.line(&format!("{label}:"));
                }
            }
        }
    }
}

/// `main`, two callbacks of which the first may use the second, and a global
/// function of a number and 32 bytes.
fn program(seed: u64) -> Case {
    let mut w = Writer {
        random: Stream(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        text: String::new(),
        labels: 0,
    };
    for word in 1..=4 {
        let value = w.random.below(40);
        w.line(&format!("*(u64 *)(r10 - {}) = {value}", 8 * word));
    }
    w.line("r6 = r10\nr6 += -32");
    w.loop_over("ca");
    w.body(3, &["ca", "cb"], true);
    w.call_global();
    w.loop_over("cb");
    w.line("r0 = 0");
    for word in 0..4 {
        w.line(&format!(
            "r0 *= 31\nr1 = *(u64 *)(r6 + {})\nr0 += r1",
            8 * word
        ));
    }
    w.line("exit");
    for (name, callbacks) in [("ca", &["cb"][..]), ("cb", &[])] {
        w.line(&format!("{name}:\nr6 = r2"));
        if w.random.below(2) == 0 {
            let to = w.word();
            w.line(&format!("{to} = r1"));
        }
        w.body(3, callbacks, false);
        let word = w.word();
        let end = w.random.below(8);
        w.line(match end {
            0..5 => "r0 = 0",
            5 => "r0 = 1",
            _ => "",
        });
        if end > 5 {
            let mask = if end == 7 { "r0 &= 3" } else { "r0 &= 1" };
            w.line(&format!("r0 = {word}\n{mask}"));
        }
        w.line("exit");
    }
    w.line("g:\nr6 = r2\nr7 = r1\nif r6 == 0 goto none");
    if w.random.below(4) == 0 {
        let to = w.word();
        w.line(&format!("{to} = r7"));
    }
    w.body(2, &[], false);
    let result = w.word();
    w.line(&format!("r0 = {result}\nexit\nnone:\nr0 = r7\nexit"));
    let mut case = case(&w.text, 2, BPF_MAP_TYPE_ARRAY);
    let types = &mut case.types;
    let long = types.int("long", 8);
    let words: Vec<_> = (0..4).map(|n| ("w", long, 8 * n)).collect();
    let words = types.structure("words", 32, &words);
    let pointer = types.ptr(words);
    let global = types.func("g", true, 1, &[("n", long), ("w", pointer)]);
    case.functions.push(global);
    case
}

#[test]
fn random_callbacks_and_global_functions() {
    let (_root, bpf) = session();
    let (mut accepted, mut refused, mut stricter) = (0, 0, 0);
    for seed in 0..200 {
        let case = program(seed);
        let ours = case.ours();
        let Some(theirs) = kernel::load(&case) else {
            return;
        };
        match (ours.0, theirs.0) {
            (0, 0) => {
                let expected = kernel::run(&case).expect("as before");
                let got = ours_in(&bpf, &case);
                assert_eq!(
                    got, [expected; 2],
                    "JIT and interpreter beside the kernel\n{}",
                    case.text
                );
                accepted += 1;
            }
            // The kernel trips over functions that nothing reaches.
            (0, libc::EFAULT) => {}
            (0, errno) => panic!(
                "the kernel says {errno} of {seed}:\n{}\n{}",
                case.text, theirs.1
            ),
            (_, 0) => stricter += 1,
            _ => refused += 1,
        }
    }
    assert!(
        accepted > 60 && refused > 60,
        "{accepted} accepted, {refused} refused"
    );
    assert!(stricter <= 8, "{stricter} of {accepted} refused by us only");
}
