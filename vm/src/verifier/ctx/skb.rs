//! `struct __sk_buff`: what socket filters and traffic control see of a packet.

use super::{At, Field};

/// A field and who may do what with it.
struct SkbField {
    from: i64,
    to: i64,
    /// Which loads and stores of it there are.
    width: Width,
    socket_filter: Rights,
    traffic_control: Rights,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// Loads of 32 bits and aligned parts of them; stores of 32 bits.
    Narrow,
    /// 32 bits that are an address, in truth of 64.
    Address(Field),
    /// 64 bits.
    Double,
    /// 64 bits that are a socket's address.
    Socket,
    /// 8 bits.
    Byte,
    /// Aligned parts of an array.
    Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    None,
    Read,
    Both,
}

const fn row(
    range: (i64, i64),
    width: Width,
    socket_filter: Rights,
    traffic_control: Rights,
) -> SkbField {
    SkbField {
        from: range.0,
        to: range.1,
        width,
        socket_filter,
        traffic_control,
    }
}

use Rights::{Both, None as Nothing, Read};
use Width::{Address, Byte, Bytes, Double, Narrow, Socket};

/// The fields in their order (include/uapi/linux/bpf.h). What is not listed
/// nobody may touch: `flow_keys`, padding.
const FIELDS: &[SkbField] = &[
    // len, pkt_type
    row((0, 8), Narrow, Read, Read),
    // mark, queue_mapping
    row((8, 16), Narrow, Read, Both),
    // protocol, vlan_present, vlan_tci, vlan_proto
    row((16, 32), Narrow, Read, Read),
    // priority
    row((32, 36), Narrow, Read, Both),
    // ingress_ifindex, ifindex
    row((36, 44), Narrow, Read, Read),
    // tc_index
    row((44, 48), Narrow, Read, Both),
    // cb
    row((48, 68), Bytes, Both, Both),
    // hash
    row((68, 72), Narrow, Read, Read),
    // tc_classid
    row((72, 76), Narrow, Nothing, Both),
    // data
    row((76, 80), Address(Field::Packet), Nothing, Read),
    // data_end
    row((80, 84), Address(Field::PacketEnd), Nothing, Read),
    // napi_id
    row((84, 88), Narrow, Read, Read),
    // family, remote_ip4 … local_port are of other types.
    // data_meta
    row((140, 144), Address(Field::PacketMeta), Nothing, Read),
    // tstamp
    row((152, 160), Double, Nothing, Both),
    // wire_len
    row((160, 164), Narrow, Nothing, Read),
    // gso_segs
    row((164, 168), Narrow, Read, Read),
    // sk
    row((168, 176), Socket, Read, Read),
    // gso_size
    row((176, 180), Narrow, Read, Read),
    // tstamp_type
    row((180, 181), Byte, Nothing, Read),
    // hwtstamp
    row((184, 192), Double, Nothing, Read),
];

pub(super) fn socket_filter_field(at: At) -> Option<Field> {
    field(at, |row| row.socket_filter)
}

pub(super) fn traffic_control_field(at: At) -> Option<Field> {
    field(at, |row| row.traffic_control)
}

fn field(at: At, rights: impl Fn(&SkbField) -> Rights) -> Option<Field> {
    let row = FIELDS.iter().find(|row| at.starts_in(row.from, row.to))?;
    let allowed = match rights(row) {
        Nothing => false,
        Read => at.is_read(),
        Both => true,
    };
    if !allowed || !at.is_aligned() {
        return None;
    }
    let fits = match row.width {
        Narrow if at.is_read() => at.size <= 4,
        Narrow => at.size == 4,
        Address(_) => at.size == 4 && !at.signed,
        Double | Socket => at.size == 8,
        Byte => at.size == 1,
        Bytes => at.end() <= row.to,
    };
    fits.then_some(match row.width {
        Address(field) => field,
        Socket => Field::Socket,
        _ => Field::Number,
    })
}
