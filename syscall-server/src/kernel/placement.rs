//! Where a program runs: here or in the kernel. Decided in one function.

use std::fmt;

use uapi::Errno;
use uapi::prog::type_name;

/// What the user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// What user space can host runs there, the rest in the kernel if this
    /// process may load programs there.
    Auto,
    /// Nothing runs in the kernel.
    User,
    /// Nothing can: fds of the kernel's objects would have to be another
    /// process's.
    Supervised,
}

/// Why user space cannot host a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Programs of this type.
    Type(u32),
    /// The verifier refuses it here.
    Verdict(Errno),
    /// It uses a map that is the kernel's alone.
    Map,
    /// Links of this attach type.
    Link(u32),
    /// What it is put on.
    Place(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Type(number) => write!(f, "{} programs", type_name(*number)),
            Obstacle::Verdict(errno) => write!(f, "what user space refuses ({errno})"),
            Obstacle::Map => f.write_str("programs of maps that are the kernel's alone"),
            Obstacle::Link(number) => write!(f, "links of attach type {number}"),
            Obstacle::Place(place) => f.write_str(place),
        }
    }
}

/// Who hosts a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Targets, in user space.
    User,
    /// The kernel.
    Kernel,
    /// The kernel could, but this process may not ask it.
    Nobody,
}

/// Who hosts a program that user space has this against.
pub fn host(runtime: Runtime, may_load: bool, obstacle: Option<&Obstacle>) -> Host {
    match obstacle {
        None => Host::User,
        Some(_) if runtime == Runtime::Auto && may_load => Host::Kernel,
        Some(_) => Host::Nobody,
    }
}

/// What is missing for [`Host::Kernel`].
pub fn missing(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Auto => "which takes CAP_BPF and CAP_PERFMON, as root has",
        Runtime::User => "which --runtime user forbids",
        Runtime::Supervised => {
            "which no static tool reaches from user space: use --runtime kernel as root"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_space_comes_first() {
        let obstacle = Obstacle::Type(6);
        for may_load in [false, true] {
            assert_eq!(host(Runtime::Auto, may_load, None), Host::User);
            assert_eq!(host(Runtime::User, may_load, None), Host::User);
            assert_eq!(host(Runtime::User, may_load, Some(&obstacle)), Host::Nobody);
        }
        assert_eq!(host(Runtime::Auto, true, Some(&obstacle)), Host::Kernel);
        assert_eq!(host(Runtime::Auto, false, Some(&obstacle)), Host::Nobody);
        assert_eq!(obstacle.to_string(), "xdp programs");
    }
}
