//! The capabilities that some programs count before they try bpf(2): they see
//! those that it needs in the kernel. Having them changes nothing else for
//! them. It knows no call.

use uapi::Errno;

use crate::user;

/// The programs.
const COUNTED_BY: [&[u8]; 2] = [b"bpftrace", b"bpftool"];

/// What they want: `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_NET_ADMIN`,
/// `CAP_SYS_ADMIN`, `CAP_SYS_RESOURCE`, `CAP_PERFMON`, `CAP_BPF`.
const WANTED: u64 = 1 << 1 | 1 << 2 | 1 << 12 | 1 << 21 | 1 << 24 | 1 << 38 | 1 << 39;

/// `struct __user_cap_data_struct`: effective, permitted, inheritable.
pub const SET_BYTES: usize = 12;

/// Whether the program with this file name counts them.
pub fn are_counted_by(program: &[u8]) -> bool {
    COUNTED_BY.contains(&program)
}

/// Adds them to what capget(2) has told the caller at `data`.
///
/// # Errors
/// EFAULT.
pub fn add(data: u64) -> Result<i64, Errno> {
    let halves = [WANTED as u32, (WANTED >> 32) as u32];
    for (half, bits) in halves.into_iter().enumerate() {
        for set in 0..2 {
            let at = data + (half * SET_BYTES) as u64 + set * 4;
            user::write(at, &(user::read_u32(at)? | bits).to_le_bytes())?;
        }
    }
    Ok(0)
}
