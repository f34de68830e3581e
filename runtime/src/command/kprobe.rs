//! Kernel functions that kprobes can be at: those that make system calls
//! (`__x64_sys_NAME`), for tools that trace calls so. They have addresses, as
//! in /proc/kallsyms, at which nothing is. It knows no file and no hook.

use super::tracepoint::{Syscall, by_name, syscalls};
use crate::session::{LinkKind, LinkSpec, syscall_function};

/// What the names of such functions begin with, on x86-64.
const PREFIX: &str = "__x64_sys_";

/// A kprobe or kretprobe at a system call's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kprobe {
    /// The call.
    pub syscall: &'static Syscall,
    /// When the function returns.
    pub at_return: bool,
}

impl Kprobe {
    /// At the function with this name.
    pub fn find(function: &str, at_return: bool) -> Option<Kprobe> {
        let syscall = by_name(function.strip_prefix(PREFIX)?)?;
        Some(Kprobe { syscall, at_return })
    }

    /// At the function with this address.
    pub fn at(address: u64, at_return: bool) -> Option<Kprobe> {
        let is_it = |syscall: &&Syscall| syscall_function(syscall.nr.into()) == address;
        let syscall = syscalls().iter().find(is_it)?;
        Some(Kprobe { syscall, at_return })
    }

    /// The function's name.
    pub fn function(&self) -> String {
        format!("{PREFIX}{}", self.syscall.name)
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        syscall_function(self.syscall.nr.into())
    }

    /// The session's link for a program there. Programs run in every process,
    /// as in the kernel.
    pub fn link(&self, prog: u32, cookie: u64) -> LinkSpec {
        let kind = match self.at_return {
            true => LinkKind::SyscallKretprobe,
            false => LinkKind::SyscallKprobe,
        };
        let number = self.syscall.nr.into();
        super::tracepoint::syscall_link(kind, prog, self.function(), number, cookie)
    }
}

/// Every such function: address and name, ascending by address.
pub fn functions() -> impl Iterator<Item = (u64, String)> {
    syscalls().iter().map(|syscall| {
        let kprobe = Kprobe {
            syscall,
            at_return: false,
        };
        (kprobe.address(), kprobe.function())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_lead_back() {
        let mut before = 0;
        for (address, name) in functions() {
            assert!(before < address, "{name}");
            before = address;
            let kprobe = Kprobe::find(&name, true).unwrap();
            assert_eq!((kprobe.address(), kprobe.function()), (address, name));
            assert_eq!(Kprobe::at(address, true), Some(kprobe));
        }
        assert_eq!(Kprobe::find("vfs_read", false), None);
        assert_eq!(Kprobe::find("__x64_sys_none", false), None);
        assert_eq!(Kprobe::at(before + 1, false), None);
    }
}
