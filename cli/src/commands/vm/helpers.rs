//! The helpers of `bpftime vm run`: numbers and meanings are those that
//! ubpf's test plugin gave them, which test suites of raw bytecode rely on.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getpid;
use vm::Run;
use vm::helper::{Arg, Proto, Ret};
use vm::link::HelperFn;

const ANY: Arg = Arg::Anything;

/// A prototype and its function.
type Row = (Proto, HelperFn);

const fn proto(id: u32, name: &'static str, args: &'static [Arg]) -> Proto {
    Proto {
        id,
        name,
        args,
        ret: Ret::Scalar,
        gpl_only: false,
    }
}

/// By number.
static ROWS: [Row; 6] = [
    (
        proto(0, "gather_bytes", &[ANY, ANY, ANY, ANY, ANY]),
        gather_bytes,
    ),
    (
        proto(1, "memfrob", &[Arg::UninitMem, Arg::SizeOrZero]),
        memfrob,
    ),
    (
        proto(2, "trash_registers", &[ANY, ANY, ANY, ANY, ANY]),
        trash_registers,
    ),
    (proto(3, "sqrti", &[ANY]), sqrti),
    (proto(4, "strcmp_ext", &[ANY, ANY]), strcmp_ext),
    (proto(5, "unwind", &[ANY]), unwind),
];

/// The helper with this number.
pub fn lookup(id: u32) -> Option<&'static Row> {
    ROWS.get(id as usize)
}

/// Five bytes as one number, the first highest.
unsafe extern "C" fn gather_bytes(a: u64, b: u64, c: u64, d: u64, e: u64, _: *mut Run) -> u64 {
    [a, b, c, d, e]
        .into_iter()
        .fold(0, |all, byte| all << 8 | byte & 0xff)
}

/// Flips the bits that memfrob(3) flips.
unsafe extern "C" fn memfrob(at: u64, len: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    for offset in 0..len {
        let byte = at.wrapping_add(offset) as *mut u8;
        // SAFETY: the verifier proved that `len` bytes there are the program's.
        unsafe { byte.write(byte.read() ^ 42) };
    }
    0
}

/// Nothing: to engines, every helper loses what a C function may change.
unsafe extern "C" fn trash_registers(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    0
}

/// The square root, rounded down.
unsafe extern "C" fn sqrti(n: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    n.isqrt()
}

/// 0 if two zero-terminated strings are equal, else 1; also where there is no string.
unsafe extern "C" fn strcmp_ext(a: u64, b: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    for offset in 0.. {
        match (byte(a.wrapping_add(offset)), byte(b.wrapping_add(offset))) {
            (Some(0), Some(0)) => return 0,
            (Some(a), Some(b)) if a == b => {}
            _ => break,
        }
    }
    1
}

/// The byte at an address that nobody vouched for: the kernel looks.
fn byte(address: u64) -> Option<u8> {
    let mut byte = [0];
    let remote = RemoteIoVec {
        base: address as usize,
        len: 1,
    };
    let read = process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut byte)], &[remote]);
    (read == Ok(1)).then_some(byte[0])
}

/// ubpf's plugin ends the program here if r1 is 0; here it always goes on.
unsafe extern "C" fn unwind(r1: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    r1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u32, args: [u64; 5]) -> u64 {
        let (proto, function) = lookup(id).expect("a row");
        assert_eq!(proto.id, id);
        let [a, b, c, d, e] = args;
        // SAFETY: each test passes memory of its own.
        unsafe { function(a, b, c, d, e, std::ptr::null_mut()) }
    }

    #[test]
    fn do_what_test_suites_expect() {
        assert_eq!(call(0, [1, 2, 3, 4, 5]), 0x01_0203_0405);
        let mut bytes = *b"ab";
        call(1, [bytes.as_mut_ptr() as u64, 2, 0, 0, 0]);
        assert_eq!(bytes, [b'a' ^ 42, b'b' ^ 42]);
        assert_eq!(call(3, [99, 0, 0, 0, 0]), 9);
        assert_eq!(call(5, [7, 0, 0, 0, 0]), 7);
        let strings = [c"abc", c"abc", c"abd", c"ab"].map(|s| s.as_ptr() as u64);
        let compare = |a: usize, b: usize| call(4, [strings[a], strings[b], 0, 0, 0]);
        assert_eq!([compare(0, 1), compare(0, 2), compare(0, 3)], [0, 1, 1]);
        assert_eq!(call(4, [8, 8, 0, 0, 0]), 1);
        assert!(lookup(6).is_none());
    }
}
