//! BTF against the running kernel: what it refuses, we refuse.

use object::btf::Btf;
use object::btf::build::Builder;
use uapi::btf::*;

/// Errno of `BPF_BTF_LOAD`; 0 when the kernel takes it.
fn kernel(bytes: &[u8]) -> i32 {
    let mut attr = [0u8; 32];
    attr[..8].copy_from_slice(&(bytes.as_ptr() as u64).to_le_bytes());
    attr[16..20].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    // SAFETY: bpf(2) reads 32 bytes of attributes and the description.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 18, attr.as_ptr(), attr.len()) };
    if fd < 0 {
        return std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    }
    // SAFETY: the descriptor came from bpf(2) and is used nowhere else.
    unsafe { libc::close(fd as i32) };
    0
}

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
    match kernel(&good) {
        0 => {}
        libc::EPERM if std::env::var_os("CI").is_none() => return,
        errno => panic!("the kernel refuses the seed: {errno}"),
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
            let theirs = kernel(&bytes);
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
