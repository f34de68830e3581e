//! Every instruction form of RFC 9669, as its sections list them, and that
//! each has a case in `tests/data`. It knows no meaning.

use bpftime_vm::link::LinkError;
use bpftime_vm::{Facts, asm};
use uapi::Insn;
use uapi::insn::*;

use crate::common::{both, program};
use crate::conformance::{FILES, cases};

/// One form: an opcode with the fields that tell it from others. A field that
/// is `None` is an operand; `Some` is part of the form or must be that value.
#[derive(Clone, Copy, Debug)]
struct Form {
    code: u8,
    dst: Option<u8>,
    src: Option<u8>,
    off: Option<i16>,
    imm: Option<i32>,
}

impl Form {
    fn is_of(self, insn: Insn) -> bool {
        self.code == insn.code
            && self.dst.is_none_or(|dst| dst == insn.dst())
            && self.src.is_none_or(|src| src == insn.src())
            && self.off.is_none_or(|off| off == insn.off)
            && self.imm.is_none_or(|imm| imm == insn.imm)
    }

    /// Some instruction of this form.
    fn example(self) -> Insn {
        Insn::new(
            self.code,
            self.dst.unwrap_or(1),
            self.src.unwrap_or(1),
            self.off.unwrap_or(0),
            self.imm.unwrap_or(0),
        )
    }
}

const WIDTHS: [u8; 4] = [BPF_W, BPF_H, BPF_B, BPF_DW];

/// A form whose operands are all fields.
fn form(code: u8) -> Form {
    Form {
        code,
        dst: None,
        src: None,
        off: None,
        imm: None,
    }
}

/// Sections 4.1 and 4.2: arithmetic, moves, byte swaps.
fn arithmetic() -> Vec<Form> {
    let mut forms = Vec::new();
    for class in [BPF_ALU, BPF_ALU64] {
        let ops = [
            BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD,
            BPF_XOR, BPF_MOV, BPF_ARSH,
        ];
        for op in ops {
            let signed = matches!(op, BPF_DIV | BPF_MOD);
            for off in 0..=i16::from(signed) {
                let (src, imm, off) = (Some(0), Some(0), Some(off));
                let code = class | op;
                forms.push(Form {
                    src,
                    off,
                    ..form(code | BPF_K)
                });
                forms.push(Form {
                    imm,
                    off,
                    ..form(code | BPF_X)
                });
            }
        }
        let widest = if class == BPF_ALU64 { 32 } else { 16 };
        for off in [8, 16, 32].into_iter().filter(|&bits| bits <= widest) {
            let (off, imm) = (Some(off), Some(0));
            forms.push(Form {
                off,
                imm,
                ..form(class | BPF_MOV | BPF_X)
            });
        }
        let (src, off, imm) = (Some(0), Some(0), Some(0));
        forms.push(Form {
            src,
            off,
            imm,
            ..form(class | BPF_NEG)
        });
    }
    for code in [
        BPF_ALU | BPF_END,
        BPF_ALU | BPF_END | BPF_X,
        BPF_ALU64 | BPF_END,
    ] {
        for bits in [16, 32, 64] {
            let (src, off, imm) = (Some(0), Some(0), Some(bits));
            forms.push(Form {
                src,
                off,
                imm,
                ..form(code)
            });
        }
    }
    forms
}

/// Section 4.3: jumps, calls, exit.
fn jumps() -> Vec<Form> {
    let (dst, src, off, imm) = (Some(0), Some(0), Some(0), Some(0));
    let mut forms = vec![
        Form {
            dst,
            src,
            imm,
            ..form(BPF_JMP | BPF_JA)
        },
        Form {
            dst,
            src,
            off,
            ..form(BPF_JMP32 | BPF_JA)
        },
        Form {
            dst,
            src,
            off,
            imm,
            ..form(BPF_JMP | BPF_EXIT)
        },
    ];
    for kind in [0, BPF_PSEUDO_CALL, BPF_PSEUDO_KFUNC_CALL] {
        let src = Some(kind);
        forms.push(Form {
            dst,
            src,
            off,
            ..form(BPF_JMP | BPF_CALL)
        });
    }
    for class in [BPF_JMP, BPF_JMP32] {
        let conditions = [
            BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
            BPF_JSLT, BPF_JSLE,
        ];
        for condition in conditions {
            forms.push(Form {
                src,
                ..form(class | condition | BPF_K)
            });
            forms.push(Form {
                imm,
                ..form(class | condition | BPF_X)
            });
        }
    }
    forms
}

/// Section 5: loads, stores, atomics, and 64-bit immediates.
fn memory() -> Vec<Form> {
    let (src, off, imm) = (Some(0), Some(0), Some(0));
    let mut forms = Vec::new();
    for size in WIDTHS {
        forms.push(Form {
            imm,
            ..form(BPF_LDX | BPF_MEM | size)
        });
        forms.push(Form {
            src,
            ..form(BPF_ST | BPF_MEM | size)
        });
        forms.push(Form {
            imm,
            ..form(BPF_STX | BPF_MEM | size)
        });
        if size != BPF_DW {
            forms.push(Form {
                imm,
                ..form(BPF_LDX | BPF_MEMSX | size)
            });
        }
    }
    for size in [BPF_W, BPF_DW] {
        let plain = [BPF_ADD, BPF_OR, BPF_AND, BPF_XOR].map(i32::from);
        let fetching = plain.map(|op| op | BPF_FETCH);
        for op in plain
            .into_iter()
            .chain(fetching)
            .chain([BPF_XCHG, BPF_CMPXCHG])
        {
            let imm = Some(op);
            forms.push(Form {
                imm,
                ..form(BPF_STX | BPF_ATOMIC | size)
            });
        }
    }
    for kind in 0..=BPF_PSEUDO_MAP_IDX_VALUE {
        let src = Some(kind);
        forms.push(Form {
            src,
            off,
            ..form(BPF_LD | BPF_IMM | BPF_DW)
        });
    }
    forms
}

/// Section 5.5 (legacy packet access) and calls through a register, which
/// drafts of the standard had: refused.
fn refused() -> Vec<Form> {
    let mut forms = vec![form(BPF_JMP | BPF_CALL | BPF_X)];
    for size in [BPF_W, BPF_H, BPF_B] {
        forms.push(form(BPF_LD | BPF_ABS | size));
        forms.push(form(BPF_LD | BPF_IND | size));
    }
    forms
}

/// What Linux has beyond the standard: `may_goto`, load-acquire, store-release.
fn is_linux(insn: Insn) -> bool {
    insn.code == BPF_JMP | BPF_JCOND
        || insn.code & !BPF_DW == BPF_STX | BPF_ATOMIC
            && matches!(insn.imm, BPF_LOAD_ACQ | BPF_STORE_REL)
}

fn standard() -> Vec<Form> {
    [arithmetic(), jumps(), memory()].concat()
}

/// The instructions of a program, without second halves.
fn first_slots(insns: &[Insn]) -> Vec<Insn> {
    let mut first = Vec::new();
    let mut at = 0;
    while at < insns.len() {
        first.push(insns[at]);
        let wide = insns[at].code == BPF_LD | BPF_IMM | BPF_DW;
        at += 1 + usize::from(wide);
    }
    first
}

#[test]
fn there_are_as_many_as_in_the_standard() {
    let count = |forms: &[Form]| forms.len();
    // 2 classes of 12 operations, 2 of them signed too, by register and by
    // constant; 2 + 3 sign extensions, 2 negations, 3 swaps of 3 sizes.
    assert_eq!(count(&arithmetic()), 2 * 14 * 2 + 5 + 2 + 9);
    assert_eq!(count(&jumps()), 2 + 1 + 3 + 2 * 11 * 2);
    assert_eq!(count(&memory()), 3 * 4 + 3 + 2 * 10 + 7);
    assert_eq!(count(&refused()), 7);
}

#[test]
fn every_form_has_a_case() {
    let mut insns = Vec::new();
    for (_, file) in FILES {
        for case in cases(file) {
            insns.extend(first_slots(&asm::assemble(&case.text).expect("assembles")));
        }
    }
    let missing: Vec<Form> = [standard(), refused()]
        .concat()
        .into_iter()
        .filter(|form| !insns.iter().any(|insn| form.is_of(*insn)))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:x?}");
}

/// Whether both engines refuse the instruction before a proper end.
fn is_refused(insn: Insn) -> bool {
    let rest = asm::assemble("r0 = 0\nexit").expect("assembles");
    let insns = [vec![insn], rest].concat();
    match both(&program(insns, Facts::default())) {
        Err(LinkError::Decode { insn: 0, .. }) => true,
        Err(LinkError::Kfunc { insn: 0, .. } | LinkError::Helper { insn: 0, .. }) => false,
        Err(other) => panic!("{insn:x?}: {other}"),
        Ok(_) => false,
    }
}

#[test]
fn all_other_opcodes_are_refused() {
    let forms = standard();
    for code in 0..=u8::MAX {
        let known = forms.iter().any(|form| form.code == code);
        for imm in [0, 1, 16, BPF_LOAD_ACQ, BPF_STORE_REL] {
            let insn = Insn::new(code, 0, 0, 0, imm);
            if !known && !is_linux(insn) {
                assert!(is_refused(insn), "{insn:x?}");
            }
        }
    }
}

#[test]
fn fields_that_a_form_does_not_use_must_be_zero() {
    let forms = standard();
    for form in &forms {
        let insn = form.example();
        let wrong = [
            form.dst
                .map(|dst| Insn::new(insn.code, dst ^ 5, insn.src(), insn.off, insn.imm)),
            form.src
                .map(|src| Insn::new(insn.code, insn.dst(), src ^ 9, insn.off, insn.imm)),
            form.off.map(|off| Insn {
                off: off ^ 0x105,
                ..insn
            }),
            form.imm.map(|imm| Insn {
                imm: imm ^ 0x10005,
                ..insn
            }),
        ];
        for insn in wrong.into_iter().flatten() {
            assert!(!forms.iter().any(|form| form.is_of(insn)));
            assert!(is_refused(insn), "{insn:x?}");
        }
    }
}
