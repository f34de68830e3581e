//! Pointers to sockets and to other objects of the kernel: which of a socket's
//! bytes a program may read, and how helpers take and give both. The shapes
//! are `struct bpf_sock`, `struct bpf_tcp_sock` and `struct bpf_xdp_sock`
//! (include/uapi/linux/bpf.h, Linux 6.18). It knows no sockets, and of objects
//! only names: what is in one is for `bpf_probe_read_kernel` to read.

use uapi::helper::*;

use super::mem::Access;
use super::state::{Kind, RefKind, Reg, Sock, Trust};
use super::walk::Walk;
use super::{Fail, ctx};

/// Bytes of `struct bpf_sock`.
const SOCK: i64 = 80;
/// Bytes of `struct bpf_tcp_sock` that are fields.
const TCP_SOCK: i64 = 112;
/// Bytes of `struct bpf_xdp_sock`.
const XDP_SOCK: i64 = 4;

/// Whether these bytes of a socket may be read.
fn is_readable(sock: Sock, off: i64, size: i64) -> bool {
    let limit = match sock {
        Sock::Tcp => TCP_SOCK,
        Sock::Xdp => XDP_SOCK,
        Sock::Common | Sock::Full => SOCK,
    };
    if off < 0 || off >= limit || off % size != 0 {
        return false;
    }
    match (sock, off) {
        // bytes_received, bytes_acked
        (Sock::Tcp, 80..96) => size == 8,
        (Sock::Tcp, _) => size == 4,
        // type, protocol, mark, priority
        (Sock::Common, 8..24) => false,
        // family, type, protocol, src_port, state, rx_queue_mapping
        (_, 4 | 8 | 12 | 44 | 72 | 76) => size <= 4,
        // src_ip4, src_ip6; dst_ip4, dst_ip6
        (_, 24..44 | 52..72) => size <= 4,
        // dst_port, 16 bits; 32 with the padding behind it
        (_, 48) => size <= 4,
        (_, 49) => size <= 2,
        (_, 50..52) => false,
        _ => size == 4,
    }
}

impl Walk<'_> {
    /// A load or store through a pointer to a socket.
    pub(super) fn check_socket(
        &self,
        number: u8,
        kind: Kind,
        off: i64,
        size: u32,
        access: Access,
    ) -> Result<(), Fail> {
        let name = kind.name();
        let Kind::Sock {
            sock,
            or_null: false,
        } = kind
        else {
            let text = format!("R{number} invalid mem access '{name}'");
            return Err(Fail::eacces(text).hint("compare the pointer with NULL first"));
        };
        if access == Access::Write {
            return Err(Fail::eacces(format!("R{number} cannot write into {name}")));
        }
        if is_readable(sock, off, size.into()) {
            return Ok(());
        }
        let text = format!("R{number} invalid {name} access off={off} size={size}");
        Err(Fail::eacces(text).hint("read whole, aligned fields of the socket"))
    }

    /// A socket as an argument, as the kernel's own structure only where `btf`
    /// is; the reference it derives from, or 0.
    pub(super) fn socket_argument(&self, number: u8, reg: &Reg, btf: bool) -> Result<u32, Fail> {
        match reg.kind {
            Kind::Sock { or_null: false, .. } => Ok(reg.owner),
            Kind::Object {
                of, or_null: false, ..
            } if btf && self.structure_name(of).ends_with("_sock") => {
                ctx::unmodified(number, reg).map(|()| reg.owner)
            }
            kind => {
                let objects = if btf { ", ptr_, trusted_ptr_" } else { "" };
                let text = format!(
                    "R{number} type={} expected=sock_common, sock, tcp_sock, xdp_sock{objects}",
                    kind.name()
                );
                Err(Fail::eacces(text))
            }
        }
    }

    /// A socket, or NULL, that helper `helper` returns; `argument` is the
    /// reference of the socket it was given.
    pub(super) fn socket_result(&mut self, helper: u32, sock: Sock, argument: u32) -> Reg {
        let taken = matches!(
            helper,
            BPF_FUNC_SK_LOOKUP_TCP | BPF_FUNC_SK_LOOKUP_UDP | BPF_FUNC_SKC_LOOKUP_TCP
        );
        let id = if taken {
            self.take_reference(RefKind::Sock)
        } else {
            self.fresh_id()
        };
        let owner = match helper {
            _ if taken => id,
            // The same socket, looked at otherwise.
            BPF_FUNC_SK_FULLSOCK | BPF_FUNC_TCP_SOCK => argument,
            _ => 0,
        };
        let or_null = true;
        Reg {
            owner,
            ..Reg::pointer(Kind::Sock { sock, or_null }, 0, id)
        }
    }

    /// A socket out of a map, or NULL; a full one has to be given back.
    pub(super) fn socket_of_map(&mut self, sock: Sock) -> Reg {
        let owner = match sock {
            Sock::Full => self.take_reference(RefKind::Sock),
            _ => 0,
        };
        let id = if owner != 0 { owner } else { self.fresh_id() };
        let or_null = true;
        Reg {
            owner,
            ..Reg::pointer(Kind::Sock { sock, or_null }, 0, id)
        }
    }

    /// An object that helper `helper` returns; `argument` is the reference of
    /// the socket it was given.
    pub(super) fn object_result(
        &mut self,
        helper: u32,
        of: &'static str,
        or_null: bool,
        argument: u32,
    ) -> Reg {
        // The same socket, looked at otherwise.
        let is_cast = matches!(
            helper,
            BPF_FUNC_SKC_TO_TCP_SOCK
                | BPF_FUNC_SKC_TO_TCP6_SOCK
                | BPF_FUNC_SKC_TO_UDP6_SOCK
                | BPF_FUNC_SKC_TO_MPTCP_SOCK
                | BPF_FUNC_SKC_TO_TCP_TIMEWAIT_SOCK
                | BPF_FUNC_SKC_TO_TCP_REQUEST_SOCK
        );
        let id = if or_null { self.fresh_id() } else { 0 };
        let kind = Kind::Object {
            of: self.structure(of),
            trust: Trust::Given,
            or_null,
        };
        Reg {
            owner: if is_cast { argument } else { 0 },
            ..Reg::pointer(kind, 0, id)
        }
    }
}
