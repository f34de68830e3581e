//! The functions behind [`vm::helper::kfunc`], one for each row there. They
//! follow the kernel's (kernel/bpf/helpers.c, bpf_iter.c). An `int` goes to
//! r0 with its upper half zero, as a C function leaves it.
//!
//! The rules for helpers hold: no allocation, no lock, no panic, no libc.

mod dynptr;
mod iter;
mod session;

use uapi::Errno;
use vm::helper::kfunc;
use vm::link::HelperFn;

/// Functions by the kernel's names.
static FUNCTIONS: &[(&str, HelperFn)] = &[
    ("bpf_iter_num_new", iter::num_new),
    ("bpf_iter_num_next", iter::num_next),
    ("bpf_iter_num_destroy", iter::num_destroy),
    ("bpf_iter_bits_new", iter::bits_new),
    ("bpf_iter_bits_next", iter::bits_next),
    ("bpf_iter_bits_destroy", iter::bits_destroy),
    ("bpf_dynptr_adjust", dynptr::adjust),
    ("bpf_dynptr_is_null", dynptr::is_null),
    ("bpf_dynptr_is_rdonly", dynptr::is_rdonly),
    ("bpf_dynptr_size", dynptr::size),
    ("bpf_dynptr_clone", dynptr::clone),
    ("bpf_dynptr_slice", dynptr::slice),
    ("bpf_dynptr_slice_rdwr", dynptr::slice_rdwr),
    ("bpf_session_is_return", session::is_return),
    ("bpf_session_cookie", session::cookie),
];

/// The function of the kfunc with this number.
pub fn function(number: u32) -> Option<HelperFn> {
    let name = kfunc::lookup(number)?.name;
    let row = FUNCTIONS.iter().find(|row| row.0 == name);
    row.map(|row| row.1)
}

/// 0 or a negative errno as an `int` in r0.
fn int(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => u64::from(errno.ret() as u32),
    }
}

#[cfg(test)]
mod tests {
    use vm::helper::kfunc;

    #[test]
    fn every_row_has_its_function() {
        // Packets are the kernel's: programs on them are verified, not run.
        let hosted = kfunc::all().filter(|row| row.types.is_none() || row.for_sessions);
        let names: Vec<&str> = hosted.map(|row| row.name).collect();
        let functions: Vec<&str> = super::FUNCTIONS.iter().map(|row| row.0).collect();
        assert_eq!(names, functions);
    }
}
