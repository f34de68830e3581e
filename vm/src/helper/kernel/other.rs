//! Helpers that only program types have which the verifier does not know:
//! cgroup, socket, LSM, infrared and iterator programs. They serve names and
//! hints. `probe_write_user` is among them: the kernel gives it to tracing
//! programs unless it is locked down, we give it to none.

use super::super::Arg::*;
use super::{KernelHelper, ProgTypes, rows};

/// Helpers of other program types.
pub(super) const ROWS: &[KernelHelper] = rows! { ProgTypes::NONE;
    36 probe_write_user(Anything, Mem, Size) -> Scalar [gpl];
    49 setsockopt(Ctx, Anything, Anything, Mem, Size) -> Scalar;
    52 sk_redirect_map(Ctx, Map, Anything, Anything) -> Scalar;
    53 sock_map_update(Ctx, Map, MapKey, Anything) -> Scalar [packet];
    57 getsockopt(Ctx, Anything, Anything, UninitMem, Size) -> Scalar;
    58 override_return(Ctx, Anything) -> Scalar [gpl];
    59 sock_ops_cb_flags_set(Ctx, Anything) -> Scalar;
    60 msg_redirect_map(Ctx, Map, Anything, Anything) -> Scalar;
    61 msg_apply_bytes(Ctx, Anything) -> Scalar;
    62 msg_cork_bytes(Ctx, Anything) -> Scalar;
    63 msg_pull_data(Ctx, Anything, Anything, Anything) -> Scalar [changes_packet];
    64 bind(Ctx, Mem, Size) -> Scalar;
    70 sock_hash_update(Ctx, Map, MapKey, Anything) -> Scalar [packet];
    71 msg_redirect_hash(Ctx, Map, MapKey, Anything) -> Scalar;
    72 sk_redirect_hash(Ctx, Map, MapKey, Anything) -> Scalar;
    73 lwt_push_encap(Ctx, Anything, Mem, Size) -> Scalar [changes_packet];
    74 lwt_seg6_store_bytes(Ctx, Anything, Mem, Size) -> Scalar [changes_packet];
    75 lwt_seg6_adjust_srh(Ctx, Anything, Anything) -> Scalar [changes_packet];
    76 lwt_seg6_action(Ctx, Anything, Mem, Size) -> Scalar [changes_packet];
    77 rc_repeat(Ctx) -> Scalar [gpl];
    78 rc_keydown(Ctx, Anything, Anything, Anything) -> Scalar [gpl];
    81 get_local_storage(Map, Anything) -> MapValue;
    82 sk_select_reuseport(Ctx, Map, MapKey, Anything) -> Scalar;
    90 msg_push_data(Ctx, Anything, Anything, Anything) -> Scalar [changes_packet];
    91 msg_pop_data(Ctx, Anything, Anything, Anything) -> Scalar [changes_packet];
    92 rc_pointer_rel(Ctx, Anything, Anything) -> Scalar [gpl];
    101 sysctl_get_name(Ctx, UninitMem, Size, Anything) -> Scalar;
    102 sysctl_get_current_value(Ctx, UninitMem, Size) -> Scalar;
    103 sysctl_get_new_value(Ctx, UninitMem, Size) -> Scalar;
    104 sysctl_set_new_value(Ctx, Mem, Size) -> Scalar;
    111 skb_output(BtfId("sk_buff"), Map, Anything, Mem, SizeOrZero) -> Scalar [gpl];
    116 tcp_send_ack(BtfId("tcp_sock"), Anything) -> Scalar;
    121 xdp_output(BtfId("xdp_buff"), Map, Anything, Mem, SizeOrZero) -> Scalar [gpl];
    126 seq_printf(BtfId("seq_file"), Mem, Size, MemOrNull, SizeOrZero) -> Scalar [gpl];
    127 seq_write(BtfId("seq_file"), Mem, SizeOrZero) -> Scalar [gpl];
    128 sk_cgroup_id(BtfSockCommon) -> Scalar;
    129 sk_ancestor_cgroup_id(BtfSockCommon, Anything) -> Scalar;
    142 load_hdr_opt(Ctx, UninitMem, Size, Anything) -> Scalar;
    143 store_hdr_opt(Ctx, Mem, Size, Anything) -> Scalar [changes_packet];
    144 reserve_hdr_opt(Ctx, Anything, Anything) -> Scalar;
    145 inode_storage_get(Map, BtfIdOrNull("inode"), MapValueOrNull, Anything) -> MapValueOrNull;
    146 inode_storage_delete(Map, BtfIdOrNull("inode")) -> Scalar;
    147 d_path(BtfId("path"), UninitMem, SizeOrZero) -> Scalar;
    150 seq_printf_btf(BtfId("seq_file"), Mem, SizeOrZero, Anything) -> Scalar [gpl];
    159 bprm_opts_set(BtfId("linux_binprm"), Anything) -> Scalar;
    161 ima_inode_hash(BtfId("inode"), UninitMem, Size) -> Scalar [sleeps];
    162 sock_from_file(BtfId("file")) -> BtfIdOrNull("socket");
    166 sys_bpf(Anything, Mem, Size) -> Scalar [sleeps];
    167 btf_find_by_name_kind(Mem, Size, Anything, Anything) -> Scalar [sleeps];
    168 sys_close(Anything) -> Scalar [sleeps];
    179 kallsyms_lookup_name(Mem, SizeOrZero, Anything, WrittenMem(8)) -> Scalar;
    183 get_func_arg(Ctx, Anything, WrittenMem(8)) -> Scalar;
    184 get_func_ret(Ctx, WrittenMem(8)) -> Scalar;
    185 get_func_arg_cnt(Ctx) -> Scalar;
    186 get_retval() -> Scalar;
    187 set_retval(Anything) -> Scalar;
    193 ima_file_hash(BtfId("file"), UninitMem, Size) -> Scalar [sleeps];
};
