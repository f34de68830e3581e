//! bpf(2): sequences of calls with random attributes. The syscall server is
//! linked in, so its `syscall` is the one that is called.

use std::cell::RefCell;

// For its `syscall`, which takes the place of libc's.
extern crate syscall_server as _;

/// Most calls of one input.
const MAX_CALLS: usize = 64;
/// Bytes that pointers may lead to.
const BUFFER: usize = 4096;
const ATTR: usize = 168;

thread_local! {
    /// What pointers lead to; big enough for every size that is small.
    static BUFFER_BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Takes bytes off the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn word(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }
}

/// Calls of bpf(2). Each takes a byte for the command, one for the number of
/// fields, and for each field a byte for its place, one for what it is (a
/// small number, an fd that was returned before, a pointer into a buffer with
/// the input's own bytes, or eight bytes as they come).
pub fn bpf_attr(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut fds: Vec<i32> = Vec::new();
    BUFFER_BYTES.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.extend(data.iter().copied().cycle().take(BUFFER));
        buffer.resize(BUFFER, 0);
        for _ in 0..MAX_CALLS {
            if call(&mut bytes, buffer, &mut fds).is_none() {
                break;
            }
        }
    });
    for fd in fds {
        // SAFETY: bpf(2) gave it to us, and we gave it to nobody.
        unsafe { libc::close(fd) };
    }
}

fn call(bytes: &mut Bytes<'_>, buffer: &mut [u8], fds: &mut Vec<i32>) -> Option<()> {
    let command = bytes.byte()? % 40;
    let mut attr = [0u8; ATTR];
    for _ in 0..bytes.byte()? % 20 {
        let at = usize::from(bytes.byte()?) % (ATTR / 4 - 1) * 4;
        let kind = bytes.byte()?;
        let (value, size) = match kind & 7 {
            0 | 1 => (u64::from(bytes.byte()?), 4),
            2 => {
                let pick = usize::from(bytes.byte()?) % fds.len().max(1);
                (fds.get(pick).map_or(0, |&fd| fd as u64), 4)
            }
            3..=5 => {
                let offset = usize::from(bytes.byte()?) * 8;
                (buffer[offset..].as_mut_ptr() as u64, 8)
            }
            _ => (bytes.word()?, if kind & 8 == 0 { 4 } else { 8 }),
        };
        attr[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    let size = ATTR as u32;
    // SAFETY: `attr` and `buffer` live through the call. Other addresses are
    // as random as a broken tool's, and the server takes none on trust.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, i64::from(command), attr.as_mut_ptr(), size) };
    // Only some commands return fds; closing another number is EBADF or worse.
    if fd > 2 && RETURNS_FD.contains(&command) {
        fds.push(fd as i32);
    }
    Some(())
}

/// `MAP_CREATE`, `PROG_LOAD`, `OBJ_GET`, `*_GET_FD_BY_ID`, `RAW_TRACEPOINT_OPEN`,
/// `BTF_LOAD`, `LINK_CREATE`.
const RETURNS_FD: [u8; 9] = [0, 5, 7, 13, 14, 17, 18, 19, 28];
