//! Child processes that share this one's maps, to be waited for or killed.

use std::time::{Duration, Instant};

/// A forked child; killed when dropped.
pub struct Child {
    pid: i32,
}

impl Child {
    /// Forks; the child runs `body` and exits with what it returns.
    pub fn fork(body: impl FnOnce() -> i32) -> Child {
        // SAFETY: the child runs `body`, which works on maps and does not
        // allocate after the fork in ways that need other threads.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let code = body();
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(code) };
        }
        Child { pid }
    }

    /// SIGKILLs the child and waits until it is gone.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits for the child: its exit code.
    pub fn join(mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut status = 0;
        loop {
            // SAFETY: waits for our own child.
            let done = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            if done == self.pid {
                self.pid = 0;
                assert!(libc::WIFEXITED(status), "child died: status {status:#x}");
                return libc::WEXITSTATUS(status);
            }
            assert!(Instant::now() < deadline, "a child hangs");
            std::thread::yield_now();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid != 0 {
            // SAFETY: our own child, which was not waited for yet.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// A child that has ended, and for which nobody waits until this is dropped.
pub struct Zombie(pub i32);

impl Zombie {
    /// Of a child that does this and is then killed.
    pub fn after(body: impl FnOnce()) -> Zombie {
        // SAFETY: the child runs `body`, which works on maps, and ends.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            body();
            // SAFETY: the child's own end.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        Zombie::of(pid)
    }

    /// Of a child that will end.
    pub fn of(pid: i32) -> Zombie {
        let zombie = Zombie(pid);
        zombie.wait(libc::WNOWAIT);
        zombie
    }

    fn wait(&self, how: i32) {
        // SAFETY: `info` is plain data that the kernel fills in.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | how;
            let done = libc::waitid(libc::P_PID, self.0 as u32, &raw mut info, flags);
            assert_eq!(done, 0);
        }
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        self.wait(0);
    }
}

/// How often to do what ends with a death: `long` times with `KILL_LONG=1`.
pub fn rounds(short: u64, long: u64) -> u64 {
    match std::env::var_os("KILL_LONG") {
        Some(_) => long,
        None => short,
    }
}

/// Lets others run.
pub fn wait_micros(micros: u64) {
    let until = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

/// A small generator of numbers, seeded: children must differ, runs not.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
