//! System calls by instruction, reachable from trampolines and usable while
//! text is being changed: never through a function that may be hooked.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use uapi::Errno;

/// One system call; unused arguments are 0.
///
/// # Safety
/// The call with these arguments must not break memory this process relies on.
pub(super) unsafe fn syscall(number: i64, args: [u64; 6]) -> Result<u64, Errno> {
    let result: i64;
    // SAFETY: the kernel preserves all registers but rax, rcx and r11; memory
    // effects are the caller's contract.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) {
        return Err(Errno(-result as i32));
    }
    Ok(result as u64)
}

/// `getpid(2)`.
pub(crate) fn getpid() -> u32 {
    // SAFETY: reads kernel state only.
    unsafe { syscall(libc::SYS_getpid, [0; 6]) }.unwrap_or(0) as u32
}

/// `gettid(2)`.
pub(crate) fn gettid() -> u32 {
    // SAFETY: reads kernel state only.
    unsafe { syscall(libc::SYS_gettid, [0; 6]) }.unwrap_or(0) as u32
}

/// Whether a thread of this process exists (`tgkill(2)` with signal 0).
pub(crate) fn thread_exists(pid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 is not delivered.
    let sent = unsafe { syscall(libc::SYS_tgkill, [pid.into(), tid.into(), 0, 0, 0, 0]) };
    sent != Err(Errno::ESRCH)
}

/// Whether eight bytes at `addr` can be read. Asks `rt_sigprocmask(2)` with an
/// invalid `how`: the kernel copies the set first (EFAULT) and then refuses
/// (EINVAL) without effect (kernel/signal.c, 6.18).
pub(crate) fn is_readable(addr: u64) -> bool {
    // SAFETY: an invalid `how` changes no mask.
    let asked = unsafe { syscall(libc::SYS_rt_sigprocmask, [!0, addr, 0, 8, 0, 0]) };
    asked == Err(Errno::EINVAL)
}

/// The aligned word at `addr`, which another thread may unmap at any time.
/// Where `process_vm_readv(2)` is denied, the look and the read are two steps.
pub(crate) fn read_word(addr: u64) -> Option<u64> {
    let mut word = 0_u64;
    let vector = |base: u64| [base, size_of::<u64>() as u64];
    let (local, remote) = (vector(&raw mut word as u64), vector(addr));
    let vectors = (&raw const local as u64, &raw const remote as u64);
    let arguments = [u64::from(getpid()), vectors.0, 1, vectors.1, 1, 0];
    // SAFETY: the kernel writes to `word` only, and checks what it reads.
    match unsafe { syscall(libc::SYS_process_vm_readv, arguments) } {
        Ok(_) => Some(word),
        Err(Errno::EFAULT) => None,
        // SAFETY: readable just now.
        Err(_) => is_readable(addr).then(|| unsafe { (addr as *const u64).read_volatile() }),
    }
}

/// Whether the calling thread runs on its alternate signal stack.
pub(crate) fn on_alternate_stack() -> bool {
    let mut stack = libc::stack_t {
        ss_sp: core::ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    // SAFETY: `stack` is valid for the kernel to write.
    let asked = unsafe {
        syscall(
            libc::SYS_sigaltstack,
            [0, &raw mut stack as u64, 0, 0, 0, 0],
        )
    };
    asked.is_ok() && stack.ss_flags & libc::SS_ONSTACK != 0
}

/// Zeroed private read-write pages that are charged when touched, and stay.
pub(crate) fn map_private(len: usize) -> Result<*mut u8, Errno> {
    map(len, libc::MAP_PRIVATE)
}

/// The same to be given back by [`unmap`]. Shared: private memory counts as
/// readable for who watches the program's system calls, which ours are not
/// among.
pub(crate) fn map_scratch(len: usize) -> Result<*mut u8, Errno> {
    map(len, libc::MAP_SHARED)
}

fn map(len: usize, kind: i32) -> Result<*mut u8, Errno> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (kind | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u64;
    // SAFETY: the kernel picks free addresses.
    let mapped = unsafe { syscall(libc::SYS_mmap, [0, len as u64, protection, flags, !0, 0]) }?;
    let small = libc::MADV_NOHUGEPAGE as u64;
    // Little of it is ever touched. A kernel without huge pages refuses.
    // SAFETY: the pages were mapped just above.
    let _advised = unsafe { syscall(libc::SYS_madvise, [mapped, len as u64, small, 0, 0, 0]) };
    Ok(mapped as *mut u8)
}

/// Gives pages of [`map_scratch`] back.
///
/// # Safety
/// Nothing uses them any more.
pub(crate) unsafe fn unmap(start: *mut u8, len: usize) {
    // SAFETY: the caller's contract.
    let _unmapped = unsafe { syscall(libc::SYS_munmap, [start as u64, len as u64, 0, 0, 0, 0]) };
}

/// Readable and executable zero pages exactly at `addr`, if nothing is there.
pub(crate) fn map_text_at(addr: u64, len: u64) -> Result<(), Errno> {
    let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
    let mapped = unsafe { syscall(libc::SYS_mmap, [addr, len, protection, flags as u64, !0, 0]) }?;
    if mapped != addr {
        // A kernel before 4.17 takes the address as a hint.
        // SAFETY: the pages were mapped just above and nobody knows them.
        let _gone = unsafe { syscall(libc::SYS_munmap, [mapped, len, 0, 0, 0, 0]) };
        return Err(Errno::EEXIST);
    }
    Ok(())
}

/// `mprotect(2)` of pages that hold text of this process.
pub(crate) fn protect_text(addr: u64, len: u64, writable: bool) -> Result<(), Errno> {
    let write = if writable { libc::PROT_WRITE } else { 0 };
    let protection = (libc::PROT_READ | libc::PROT_EXEC | write) as u64;
    // SAFETY: text stays readable and executable.
    unsafe { syscall(libc::SYS_mprotect, [addr, len, protection, 0, 0, 0]) }.map(drop)
}

/// `/proc/self/mem`, closed when dropped: programs close or count fds, so none
/// is kept.
pub(crate) struct OwnMemory {
    fd: u64,
}

impl OwnMemory {
    /// Opens it for writing.
    pub(crate) fn open() -> Result<OwnMemory, Errno> {
        let path = c"/proc/self/mem";
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let at = libc::AT_FDCWD as u64;
        // SAFETY: the path is a C string.
        let fd = unsafe { syscall(libc::SYS_openat, [at, path.as_ptr() as u64, flags, 0, 0, 0]) }?;
        Ok(OwnMemory { fd })
    }

    /// Writes through the page protection, as a debugger does.
    ///
    /// # Safety
    /// The bytes at `addr` are text that may become `bytes`.
    pub(crate) unsafe fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        let args = [
            self.fd,
            bytes.as_ptr() as u64,
            bytes.len() as u64,
            addr,
            0,
            0,
        ];
        // SAFETY: `bytes` is valid to read; the target is the caller's contract.
        match unsafe { syscall(libc::SYS_pwrite64, args) } {
            Ok(n) if n == bytes.len() as u64 => Ok(()),
            Ok(_) => Err(Errno::EFAULT),
            Err(error) => Err(error),
        }
    }
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        // SAFETY: the fd is ours.
        let _closed = unsafe { syscall(libc::SYS_close, [self.fd, 0, 0, 0, 0, 0]) };
    }
}

// include/uapi/linux/membarrier.h
const MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE: u64 = 1 << 5;
const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u64 = 1 << 6;

/// Registers the process for [`sync_cores`]; children made by fork inherit it.
pub(crate) fn register_sync_cores() -> Result<(), Errno> {
    let command = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;
    // SAFETY: changes kernel bookkeeping only.
    unsafe { syscall(libc::SYS_membarrier, [command, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Every thread of the process executes a core-serialising instruction before
/// this returns.
pub(crate) fn sync_cores() -> Result<(), Errno> {
    let command = MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE;
    // SAFETY: changes no memory.
    unsafe { syscall(libc::SYS_membarrier, [command, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Signals that [`block_signals`] leaves alone: a breakpoint may be hit.
pub(crate) static NEVER_BLOCKED: AtomicU64 = AtomicU64::new(0);

/// Blocks every signal on the calling thread and gives the mask to restore.
pub(crate) fn block_signals() -> u64 {
    let all = !NEVER_BLOCKED.load(Ordering::Relaxed);
    let mut old = 0_u64;
    let args = [
        libc::SIG_SETMASK as u64,
        &raw const all as u64,
        &raw mut old as u64,
        8,
        0,
        0,
    ];
    // SAFETY: both sets are valid for eight bytes.
    let _done = unsafe { syscall(libc::SYS_rt_sigprocmask, args) };
    old
}

/// Restores the mask that [`block_signals`] gave.
pub(crate) fn restore_signals(old: u64) {
    let args = [libc::SIG_SETMASK as u64, &raw const old as u64, 0, 8, 0, 0];
    // SAFETY: the set is valid for eight bytes.
    let _done = unsafe { syscall(libc::SYS_rt_sigprocmask, args) };
}

/// Sleeps until `word` is not `expected` (private futex), or a moment.
pub(crate) fn futex_wait(word: &core::sync::atomic::AtomicU32, expected: u32) {
    let operation = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
    let moment = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    let args = [
        word.as_ptr() as u64,
        operation,
        expected.into(),
        &raw const moment as u64,
        0,
        0,
    ];
    // SAFETY: the word and the timeout outlive the call.
    let _woken = unsafe { syscall(libc::SYS_futex, args) };
}

/// Wakes one sleeper of [`futex_wait`].
pub(crate) fn futex_wake(word: &core::sync::atomic::AtomicU32) {
    let operation = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u64;
    // SAFETY: only the address is used.
    let _woken = unsafe {
        syscall(
            libc::SYS_futex,
            [word.as_ptr() as u64, operation, 1, 0, 0, 0],
        )
    };
}
