//! Iterators: programs that the kernel runs for whoever reads, and whose text
//! it gives. It knows no text.

use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::{AsRawLibbpf, Iter, Link, ProgramMut};
use libbpf_sys as sys;

use crate::attach::{Attached, Refused, link, open};
use crate::error::Error;
use crate::target::Over;

/// An iterator that can be read, each time from its beginning.
pub(crate) struct Listing {
    pub program: String,
    link: Link,
}

/// Makes it. With a `pid`, one over tasks goes over those of that process.
pub(crate) fn attach(
    program: &ProgramMut<'_>,
    over: &Over,
    pid: i32,
    map: Option<BorrowedFd<'_>>,
) -> Result<Vec<Attached>, Refused> {
    let mut info = sys::bpf_iter_link_info::default();
    let mut group = None;
    match over {
        Over::Map(name) => {
            let map = map.ok_or_else(|| Refused::of_map(name))?;
            info.map.map_fd = map.as_raw_fd().cast_unsigned();
        }
        Over::Groups(path) => {
            let fd = &*group.insert(open(path)?);
            info.cgroup.order = sys::BPF_CGROUP_ITER_DESCENDANTS_PRE;
            info.cgroup.cgroup_fd = fd.as_raw_fd().cast_unsigned();
        }
        Over::Everything if pid > 0 && is_over_tasks(program) => {
            info.task.pid = pid.cast_unsigned();
        }
        Over::Everything => {}
    }
    let options = sys::bpf_iter_attach_opts {
        sz: size_of::<sys::bpf_iter_attach_opts>() as _,
        link_info: &raw mut info,
        link_info_len: size_of_val(&info) as u32,
        ..Default::default()
    };
    // SAFETY: a loaded program, and options that outlive the call.
    let made = unsafe {
        link(sys::bpf_program__attach_iter(
            program.as_libbpf_object().as_ptr(),
            &raw const options,
        ))
    };
    let link = made.map_err(|_| Refused::last("cannot iterate"))?;
    Ok(vec![Attached::Listing(Listing {
        program: program.name().to_string_lossy().into_owned(),
        link,
    })])
}

/// Only these take a process.
fn is_over_tasks(program: &ProgramMut<'_>) -> bool {
    let section = program.section().to_string_lossy();
    let kind = section.rsplit('/').next();
    kind.is_some_and(|kind| matches!(kind, "task" | "task_file" | "task_vma"))
}

impl Listing {
    /// What it says from here on.
    pub(crate) fn read(&self) -> Result<impl Read + use<>, Error> {
        Iter::new(&self.link).map_err(|error| Error::last(&self.program, "cannot be read", &error))
    }
}
