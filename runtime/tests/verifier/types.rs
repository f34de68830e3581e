//! BTF against the running kernel: what it refuses, we refuse.

use object::btf::Btf;
use object::btf::build::Builder;
use uapi::btf::*;

use super::kernel::load_types;

/// Types of all kinds that refer to each other.
fn types() -> Vec<u8> {
    let mut b = Builder::default();
    let int = b.int("int", 4);
    let long = b.int("long", 8);
    let ptr = b.ptr(0);
    let array = b.array(int, int, 3);
    let konst = b.raw("", BTF_KIND_CONST, 0, array, &[]);
    let number = b.typedef("number", konst);
    b.structure("s", 32, &[("x", long, 0), ("y", ptr, 8), ("", number, 16)]);
    let bits = b.string("bits");
    b.raw("u", BTF_KIND_UNION, 1 << 31 | 1, 4, &[bits, int, 3 << 24]);
    let one = b.string("ONE");
    b.raw("e", BTF_KIND_ENUM, 1, 4, &[one, 1]);
    b.raw("e64", BTF_KIND_ENUM64, 1, 8, &[one, 1, 1]);
    let fwd = b.raw("later", BTF_KIND_FWD, 0, 0, &[]);
    let pointer = b.ptr(fwd);
    let func = b.func("f", true, int, &[("p", pointer), ("n", long)]);
    b.tag("arg:nonnull", func, 0);
    let var = b.raw("v", BTF_KIND_VAR, 0, int, &[1]);
    b.raw(".data", BTF_KIND_DATASEC, 1, 4, &[var, 0, 4]);
    b.raw("double", BTF_KIND_FLOAT, 0, 8, &[]);
    b.finish()
}

#[test]
fn takes_no_types_that_the_kernel_refuses() {
    let good = types();
    match load_types(&good) {
        None => return,
        Some(errno) => assert_eq!(errno, 0, "the kernel takes the seed"),
    }
    let (mut taken, mut wrong) = (0, Vec::new());
    for at in (0..good.len() - 3).step_by(4) {
        let word = u32::from_le_bytes([good[at], good[at + 1], good[at + 2], good[at + 3]]);
        let flips = [word ^ 1, word + 1, word ^ 1 << 24, word ^ 1 << 31];
        for new in [0, 1, 2, 7, 8, 13, 20, u32::MAX].into_iter().chain(flips) {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&new.to_le_bytes());
            let ours =
                Btf::parse(&bytes).map_or_else(|e| (e.errno.0, e.text), |_| (0, String::new()));
            let theirs = load_types(&bytes).expect("as before");
            taken += u32::from(theirs == 0);
            if ours.0 != theirs {
                wrong.push(format!(
                    "word {at} from {word:#x} to {new:#x}: {ours:?}, kernel {theirs}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 300, "the kernel took {taken} changed descriptions");
}
