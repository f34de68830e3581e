//! Helpers of programs that handle packets (kernel: net/core/filter.c).

use super::super::Arg::*;
use super::{KernelHelper, ProgTypes, rows};

/// Helpers of all of them.
pub(super) const SOCKET_ROWS: &[KernelHelper] = rows! { ProgTypes::SKB.or(ProgTypes::XDP);
    136 skc_to_tcp6_sock(BtfSockCommon) -> BtfIdOrNull("tcp6_sock");
    137 skc_to_tcp_sock(BtfSockCommon) -> BtfIdOrNull("tcp_sock");
    138 skc_to_tcp_timewait_sock(BtfSockCommon) -> BtfIdOrNull("tcp_timewait_sock");
    139 skc_to_tcp_request_sock(BtfSockCommon) -> BtfIdOrNull("tcp_request_sock");
    140 skc_to_udp6_sock(BtfSockCommon) -> BtfIdOrNull("udp6_sock");
    160 ktime_get_coarse_ns() -> Scalar;
    178 skc_to_unix_sock(BtfSockCommon) -> BtfIdOrNull("unix_sock");
    196 skc_to_mptcp_sock(SockCommon) -> BtfIdOrNull("mptcp_sock");
};

/// Helpers with a `struct __sk_buff`.
pub(super) const SKB_ROWS: &[KernelHelper] = rows! { ProgTypes::SKB;
    26 skb_load_bytes(Ctx, Anything, UninitMem, Size) -> Scalar;
    46 get_socket_cookie(Ctx) -> Scalar;
    47 get_socket_uid(Ctx) -> Scalar;
    68 skb_load_bytes_relative(Ctx, Anything, UninitMem, Size, Anything) -> Scalar;
    122 get_netns_cookie(CtxOrNull) -> Scalar;
};

/// Helpers of traffic control and XDP.
pub(super) const LOOKUP_ROWS: &[KernelHelper] = rows! { ProgTypes::TC.or(ProgTypes::XDP);
    23 redirect(Anything, Anything) -> Scalar;
    28 csum_diff(MemOrNull, SizeOrZero, MemOrNull, SizeOrZero, Anything) -> Scalar [packet];
    69 fib_lookup(Ctx, UninitMem, Size, Anything) -> Scalar [gpl];
    84 sk_lookup_tcp(Ctx, Mem, SizeOrZero, Anything, Anything) -> SocketOrNull [packet];
    85 sk_lookup_udp(Ctx, Mem, SizeOrZero, Anything, Anything) -> SocketOrNull [packet];
    86 sk_release(ReleasedSock) -> Scalar;
    99 skc_lookup_tcp(Ctx, Mem, SizeOrZero, Anything, Anything) -> SockCommonOrNull [packet];
    100 tcp_check_syncookie(BtfSockCommon, Mem, Size, Mem, Size) -> Scalar [gpl packet];
    110 tcp_gen_syncookie(BtfSockCommon, Mem, Size, Mem, Size) -> Scalar [gpl packet];
    163 check_mtu(Ctx, Anything, WrittenMem(4), Anything, Anything) -> Scalar [gpl];
    204 tcp_raw_gen_syncookie_ipv4(FixedMem(20), Mem, SizeOrZero) -> Scalar [gpl packet];
    205 tcp_raw_gen_syncookie_ipv6(FixedMem(40), Mem, SizeOrZero) -> Scalar [gpl packet];
    206 tcp_raw_check_syncookie_ipv4(FixedMem(20), FixedMem(20)) -> Scalar [gpl packet];
    207 tcp_raw_check_syncookie_ipv6(FixedMem(40), FixedMem(20)) -> Scalar [gpl packet];
};

/// Helpers of traffic control.
pub(super) const TC_ROWS: &[KernelHelper] = rows! { ProgTypes::TC;
    17 get_cgroup_classid(Ctx) -> Scalar;
    9 skb_store_bytes(Ctx, Anything, Mem, Size, Anything) -> Scalar [changes_packet];
    10 l3_csum_replace(Ctx, Anything, Anything, Anything, Anything) -> Scalar [changes_packet];
    11 l4_csum_replace(Ctx, Anything, Anything, Anything, Anything) -> Scalar [changes_packet];
    13 clone_redirect(Ctx, Anything, Anything) -> Scalar [changes_packet];
    18 skb_vlan_push(Ctx, Anything, Anything) -> Scalar [changes_packet];
    19 skb_vlan_pop(Ctx) -> Scalar [changes_packet];
    20 skb_get_tunnel_key(Ctx, UninitMem, Size, Anything) -> Scalar;
    21 skb_set_tunnel_key(Ctx, Mem, Size, Anything) -> Scalar;
    24 get_route_realm(Ctx) -> Scalar;
    29 skb_get_tunnel_opt(Ctx, UninitMem, Size) -> Scalar;
    30 skb_set_tunnel_opt(Ctx, Mem, Size) -> Scalar;
    31 skb_change_proto(Ctx, Anything, Anything) -> Scalar [changes_packet];
    32 skb_change_type(Ctx, Anything) -> Scalar;
    33 skb_under_cgroup(Ctx, Map, Anything) -> Scalar;
    34 get_hash_recalc(Ctx) -> Scalar;
    38 skb_change_tail(Ctx, Anything, Anything) -> Scalar [changes_packet];
    39 skb_pull_data(Ctx, Anything) -> Scalar [changes_packet];
    40 csum_update(Ctx, Anything) -> Scalar;
    41 set_hash_invalid(Ctx) -> Scalar;
    43 skb_change_head(Ctx, Anything, Anything) -> Scalar [changes_packet];
    48 set_hash(Ctx, Anything) -> Scalar;
    50 skb_adjust_room(Ctx, Anything, Anything, Anything) -> Scalar [changes_packet];
    66 skb_get_xfrm_state(Ctx, Anything, UninitMem, Size, Anything) -> Scalar;
    79 skb_cgroup_id(Ctx) -> Scalar;
    83 skb_ancestor_cgroup_id(Ctx, Anything) -> Scalar;
    95 sk_fullsock(SockCommon) -> SocketOrNull;
    96 tcp_sock(SockCommon) -> TcpSockOrNull;
    97 skb_ecn_set_ce(Ctx) -> Scalar;
    98 get_listener_sock(SockCommon) -> SocketOrNull;
    107 sk_storage_get(Map, BtfSockCommon, MapValueOrNull, Anything) -> MapValueOrNull;
    108 sk_storage_delete(Map, BtfSockCommon) -> Scalar;
    124 sk_assign(Ctx, BtfSockCommon, Anything) -> Scalar;
    135 csum_level(Ctx, Anything) -> Scalar;
    151 skb_cgroup_classid(Ctx) -> Scalar;
    152 redirect_neigh(Anything, MemOrNull, SizeOrZero, Anything) -> Scalar;
    155 redirect_peer(Anything, Anything) -> Scalar;
    192 skb_set_tstamp(Ctx, Anything, Anything) -> Scalar;
};

/// Helpers of XDP.
pub(super) const XDP_ROWS: &[KernelHelper] = rows! { ProgTypes::XDP;
    44 xdp_adjust_head(Ctx, Anything) -> Scalar [changes_packet];
    51 redirect_map(Map, Anything, Anything) -> Scalar;
    54 xdp_adjust_meta(Ctx, Anything) -> Scalar [changes_packet];
    65 xdp_adjust_tail(Ctx, Anything) -> Scalar [changes_packet];
    188 xdp_get_buff_len(Ctx) -> Scalar;
    189 xdp_load_bytes(Ctx, Anything, UninitMem, Size) -> Scalar;
    190 xdp_store_bytes(Ctx, Anything, Mem, Size) -> Scalar;
};

/// Asks of the current task what traffic control asks of the packet.
pub(super) const CLASSID_ROWS: &[KernelHelper] = rows! { ProgTypes::TRACING.or(ProgTypes::SOCKET_FILTER).or(ProgTypes::XDP);
    17 get_cgroup_classid() -> Scalar;
};
