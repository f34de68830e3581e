//! Puts programs where packets pass, beyond interfaces of XDP and tc: links of
//! tcx, netkit and netfilter, and sockets.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::{AsRawLibbpf, Link, NetfilterOpts, ProgramMut};
use libbpf_sys as sys;

use crate::attach::{Attached, Refused, link};
use crate::target::{Family, Hook};

/// Behind other programs of tcx there; the section says in which direction.
pub(crate) fn tcx(program: &ProgramMut<'_>, interface: i32) -> libbpf_rs::Result<Link> {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: a loaded program; no options.
    unsafe {
        link(sys::bpf_program__attach_tcx(
            program,
            interface,
            std::ptr::null(),
        ))
    }
}

/// Behind other programs of that netkit device.
pub(crate) fn netkit(program: &ProgramMut<'_>, interface: i32) -> libbpf_rs::Result<Link> {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: a loaded program; no options.
    unsafe {
        link(sys::bpf_program__attach_netkit(
            program,
            interface,
            std::ptr::null(),
        ))
    }
}

pub(crate) fn netfilter(
    program: &ProgramMut<'_>,
    family: Family,
    hook: Hook,
    priority: i32,
) -> libbpf_rs::Result<Link> {
    program.attach_netfilter_with_opts(NetfilterOpts {
        protocol_family: match family {
            Family::Ipv4 => libc::NFPROTO_IPV4,
            Family::Ipv6 => libc::NFPROTO_IPV6,
        },
        hooknum: match hook {
            Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
            Hook::Input => libc::NF_INET_LOCAL_IN,
            Hook::Forward => libc::NF_INET_FORWARD,
            Hook::Output => libc::NF_INET_LOCAL_OUT,
            Hook::Postrouting => libc::NF_INET_POST_ROUTING,
        },
        priority,
        ..NetfilterOpts::default()
    })
}

/// A packet socket that sees what the interface sees, and keeps nothing.
pub(crate) fn socket(program: &ProgramMut<'_>, interface: i32) -> Result<Vec<Attached>, Refused> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: numbers only.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    if fd < 0 {
        return Err(Refused::last("cannot open a packet socket"));
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SO_ATTACH_BPF, program.as_fd().as_raw_fd())
        .ok_or_else(|| Refused::last("cannot be put on a packet socket"))?;
    // What nobody reads is not kept; a program runs before a packet is.
    let _ = set(&socket, libc::SO_RCVBUF, 0);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: interface,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: an address that outlives the call, and its size.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    match bound {
        0 => Ok(vec![Attached::Fd(socket)]),
        _ => Err(Refused::last("cannot listen to the interface")),
    }
}

fn set(socket: &OwnedFd, option: i32, value: i32) -> Option<()> {
    // SAFETY: a number that outlives the call, and its size.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as u32,
        )
    };
    (set == 0).then_some(())
}

/// A program on the sockets of a map, until this is dropped.
pub(crate) struct InSockets {
    program: OwnedFd,
    map: OwnedFd,
    attach_type: u32,
}

pub(crate) fn sockets(
    program: &ProgramMut<'_>,
    map: BorrowedFd<'_>,
) -> Result<Vec<Attached>, Refused> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    let (Ok(own_program), Ok(own_map)) = (own(program.as_fd()), own(map)) else {
        return Err(Refused::last("cannot be attached to a map"));
    };
    program
        .attach_sockmap(map.as_raw_fd())
        .map_err(|_| Refused::last("cannot be attached to a map"))?;
    Ok(vec![Attached::Sockets(InSockets {
        program: own_program,
        map: own_map,
        attach_type: program.attach_type() as u32,
    })])
}

impl Drop for InSockets {
    fn drop(&mut self) {
        let (program, map) = (self.program.as_raw_fd(), self.map.as_raw_fd());
        // SAFETY: numbers only. It may have been taken away by others.
        let _ = unsafe { sys::bpf_prog_detach2(program, map, self.attach_type) };
    }
}
