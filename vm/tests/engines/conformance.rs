//! Runs every case in `tests/data` through both engines, and through the
//! kernel where it can be asked and accepts the program.
//!
//! A file holds cases: `## name`, optionally `mem HEX` (what r1 points to),
//! the program, `=> r0` and optionally `=> mem HEX` (what is there afterwards),
//! or `=> error TEXT` if both engines refuse it so.

use std::fmt::Write;

use crate::common::{assemble, both, run_both};
use crate::kernel;

pub struct Case {
    name: String,
    pub text: String,
    memory: Vec<u8>,
    r0: Option<u64>,
    memory_after: Option<Vec<u8>>,
    error: Option<String>,
}

impl Case {
    /// Whether the case is about a program that runs.
    pub fn is_run(&self) -> bool {
        self.error.is_none()
    }

    /// What r1 points to.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// What r0 holds in the end.
    pub fn result(&self) -> u64 {
        self.r0.expect("a case has a result")
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex bytes"))
        .collect()
}

fn number(text: &str) -> u64 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .unwrap_or_else(|e| panic!("{text}: {e}"));
    if negative {
        value.wrapping_neg()
    } else {
        value
    }
}

/// The cases of a file.
pub fn cases(file: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in file.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("## ") {
            cases.push(Case {
                name: name.to_owned(),
                text: String::new(),
                memory: Vec::new(),
                r0: None,
                memory_after: None,
                error: None,
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            continue;
        };
        if let Some(bytes) = line.strip_prefix("=> mem ") {
            case.memory_after = Some(hex(bytes));
        } else if let Some(text) = line.strip_prefix("=> error ") {
            case.error = Some(text.to_owned());
        } else if let Some(value) = line.strip_prefix("=> ") {
            case.r0 = Some(number(value));
        } else if let Some(bytes) = line.strip_prefix("mem ") {
            case.memory = hex(bytes);
        } else {
            writeln!(case.text, "{line}").expect("a string takes all");
        }
    }
    cases
}

/// `at_least` guards against a file that is read as empty, `in_kernel`
/// against a comparison that compares nothing.
fn check(file: &str, at_least: usize, in_kernel: usize) {
    let mut compared = 0;
    let available = kernel::available();
    let cases = cases(file);
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    for case in cases {
        let program = assemble(&case.text);
        if let Some(expected) = &case.error {
            let refusal = both(&program).err().map(|error| error.to_string());
            assert_eq!(refusal.as_ref(), Some(expected), "{}", case.name);
            continue;
        }
        let left = run_both(&program, &case.memory, std::ptr::null_mut());
        let r0 = case
            .r0
            .unwrap_or_else(|| panic!("{}: nothing expected", case.name));
        assert_eq!(left.r0, r0, "{}: r0 is {:#x}", case.name, left.r0);
        if let Some(expected) = &case.memory_after {
            assert_eq!(&left.memory, expected, "{}", case.name);
        }
        // Helpers and maps mean something else there.
        let own = ["call 1\n", "call 2\n", "call 3\n", "kfunc", "map"];
        if available
            && !own.iter().any(|text| case.text.contains(text))
            && let Some(in_kernel) = kernel::run(program.insns(), &case.memory)
        {
            assert_eq!(left, in_kernel, "{}: the kernel differs", case.name);
            compared += 1;
        }
    }
    assert!(
        !available || compared >= in_kernel,
        "{compared} compared with the kernel"
    );
}

macro_rules! files {
    ($($name:ident: $at_least:literal, $in_kernel:literal;)*) => {
        $(#[test]
        fn $name() {
            check(include_str!(concat!("../data/", stringify!($name), ".bpf")), $at_least, $in_kernel);
        })*

        /// All files, by name.
        pub const FILES: &[(&str, &str)] = &[
            $((stringify!($name), include_str!(concat!("../data/", stringify!($name), ".bpf"))),)*
        ];
    };
}

files! {
    arithmetic: 60, 59;
    atomic: 50, 45;
    call: 21, 7;
    divide: 60, 58;
    jump: 60, 62;
    memory: 25, 23;
    moves: 35, 37;
    refused: 30, 0;
    shift: 25, 30;
}
