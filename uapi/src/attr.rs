//! The attributes of bpf(2): for each command the fields of its arm of
//! `union bpf_attr`, with their byte offsets. It knows no pointer's target
//! and no fd's object; user pointers are plain `u64`.

/// Bytes of `union bpf_attr` in Linux 6.18.
pub const ATTR_BYTES: usize = 168;

/// An attribute as a caller passed it, zero-extended to the full union.
pub type AttrBytes = [u8; ATTR_BYTES];

/// A field type of an attribute: how it is read from bytes.
trait Field: Sized {
    fn read(bytes: &AttrBytes, offset: usize) -> Self;
}

macro_rules! integer_fields {
    ($($t:ty),*) => {$(
        impl Field for $t {
            fn read(bytes: &AttrBytes, offset: usize) -> Self {
                let mut word = [0; size_of::<$t>()];
                word.copy_from_slice(&bytes[offset..offset + size_of::<$t>()]);
                <$t>::from_le_bytes(word)
            }
        }
    )*};
}
integer_fields!(u32, i32, u64);

impl Field for [u8; 16] {
    fn read(bytes: &AttrBytes, offset: usize) -> Self {
        let mut name = [0; 16];
        name.copy_from_slice(&bytes[offset..offset + 16]);
        name
    }
}

macro_rules! attrs {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $t:ty = $offset:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are the kernel's")]
        pub struct $name { $(pub $field: $t,)* }

        impl $name {
            /// One past the last byte that the command reads; the kernel
            /// refuses a non-zero byte from here on with EINVAL (`CHECK_ATTR`).
            pub const END: usize = {
                let mut end = 0;
                $(if $offset + size_of::<$t>() > end { end = $offset + size_of::<$t>(); })*
                end
            };

            /// The fields as the bytes hold them.
            pub fn decode(bytes: &AttrBytes) -> $name {
                $name { $($field: <$t as Field>::read(bytes, $offset),)* }
            }
        }
    )*};
}

attrs! {
    /// `BPF_MAP_CREATE`.
    MapCreate {
        map_type: u32 = 0, key_size: u32 = 4, value_size: u32 = 8, max_entries: u32 = 12,
        map_flags: u32 = 16, inner_map_fd: i32 = 20, numa_node: u32 = 24,
        map_name: [u8; 16] = 28, map_ifindex: u32 = 44, btf_fd: i32 = 48,
        btf_key_type_id: u32 = 52, btf_value_type_id: u32 = 56,
        btf_vmlinux_value_type_id: u32 = 60, map_extra: u64 = 64,
        value_type_btf_obj_fd: i32 = 72, map_token_fd: i32 = 76,
        excl_prog_hash: u64 = 80, excl_prog_hash_size: u32 = 88,
    }

    /// `BPF_MAP_*_ELEM` and `BPF_MAP_GET_NEXT_KEY`; `value` is also `next_key`.
    MapElem { map_fd: i32 = 0, key: u64 = 8, value: u64 = 16, flags: u64 = 24, }

    /// `BPF_MAP_*_BATCH`.
    MapBatch {
        in_batch: u64 = 0, out_batch: u64 = 8, keys: u64 = 16, values: u64 = 24,
        count: u32 = 32, map_fd: i32 = 36, elem_flags: u64 = 40, flags: u64 = 48,
    }

    /// `BPF_MAP_FREEZE`.
    MapFreeze { map_fd: i32 = 0, }

    /// `BPF_PROG_LOAD`.
    ProgLoad {
        prog_type: u32 = 0, insn_cnt: u32 = 4, insns: u64 = 8, license: u64 = 16,
        log_level: u32 = 24, log_size: u32 = 28, log_buf: u64 = 32, kern_version: u32 = 40,
        prog_flags: u32 = 44, prog_name: [u8; 16] = 48, prog_ifindex: u32 = 64,
        expected_attach_type: u32 = 68, prog_btf_fd: i32 = 72, func_info_rec_size: u32 = 76,
        func_info: u64 = 80, func_info_cnt: u32 = 88, line_info_rec_size: u32 = 92,
        line_info: u64 = 96, line_info_cnt: u32 = 104, attach_btf_id: u32 = 108,
        attach_prog_fd: i32 = 112, core_relo_cnt: u32 = 116, fd_array: u64 = 120,
        core_relos: u64 = 128, core_relo_rec_size: u32 = 136, log_true_size: u32 = 140,
        prog_token_fd: i32 = 144, fd_array_cnt: u32 = 148, signature: u64 = 152,
        signature_size: u32 = 160, keyring_id: i32 = 164,
    }

    /// `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
    ObjPin { pathname: u64 = 0, bpf_fd: i32 = 8, file_flags: u32 = 12, path_fd: i32 = 16, }

    /// `BPF_PROG_TEST_RUN`.
    ProgTestRun {
        prog_fd: i32 = 0, retval: u32 = 4, data_size_in: u32 = 8, data_size_out: u32 = 12,
        data_in: u64 = 16, data_out: u64 = 24, repeat: u32 = 32, duration: u32 = 36,
        ctx_size_in: u32 = 40, ctx_size_out: u32 = 44, ctx_in: u64 = 48, ctx_out: u64 = 56,
        flags: u32 = 64, cpu: u32 = 68, batch_size: u32 = 72,
    }

    /// `BPF_*_GET_NEXT_ID`.
    GetNextId { start_id: u32 = 0, next_id: u32 = 4, }

    /// `BPF_*_GET_FD_BY_ID`.
    GetFdById { id: u32 = 0, next_id: u32 = 4, open_flags: u32 = 8, token_fd: i32 = 12, }

    /// `BPF_OBJ_GET_INFO_BY_FD`.
    ObjGetInfo { bpf_fd: i32 = 0, info_len: u32 = 4, info: u64 = 8, }

    /// `BPF_RAW_TRACEPOINT_OPEN`.
    RawTracepointOpen { name: u64 = 0, prog_fd: i32 = 8, cookie: u64 = 16, }

    /// `BPF_BTF_LOAD`.
    BtfLoad {
        btf: u64 = 0, btf_log_buf: u64 = 8, btf_size: u32 = 16, btf_log_size: u32 = 20,
        btf_log_level: u32 = 24, btf_log_true_size: u32 = 28, btf_flags: u32 = 32,
        btf_token_fd: i32 = 36,
    }

    /// `BPF_TASK_FD_QUERY`.
    TaskFdQuery {
        pid: i32 = 0, fd: i32 = 4, flags: u32 = 8, buf_len: u32 = 12, buf: u64 = 16,
        prog_id: u32 = 24, fd_type: u32 = 28, probe_offset: u64 = 32, probe_addr: u64 = 40,
    }

    /// What every kind of `BPF_LINK_CREATE` has, the cookie of a perf event
    /// link, and room for all other kinds.
    LinkCreate {
        prog_fd: i32 = 0, target_fd: i32 = 4, attach_type: u32 = 8, flags: u32 = 12,
        bpf_cookie: u64 = 16, rest: [u8; 16] = 24, rest2: [u8; 16] = 40, rest3: u64 = 56,
    }

    /// `BPF_LINK_CREATE` with `BPF_TRACE_UPROBE_MULTI`.
    LinkCreateUprobeMulti {
        path: u64 = 16, offsets: u64 = 24, ref_ctr_offsets: u64 = 32, cookies: u64 = 40,
        cnt: u32 = 48, flags: u32 = 52, pid: i32 = 56,
    }

    /// `BPF_PROG_ATTACH`.
    ProgAttach {
        target_fd: i32 = 0, attach_bpf_fd: i32 = 4, attach_type: u32 = 8, attach_flags: u32 = 12,
        replace_bpf_fd: i32 = 16, relative_fd: i32 = 20, expected_revision: u64 = 24,
    }

    /// `BPF_LINK_UPDATE`.
    LinkUpdate { link_fd: i32 = 0, new_prog_fd: i32 = 4, flags: u32 = 8, old_prog_fd: i32 = 12, }

    /// `BPF_LINK_DETACH`.
    LinkDetach { link_fd: i32 = 0, }

    /// `BPF_ENABLE_STATS`.
    EnableStats { kind: u32 = 0, }

    /// `BPF_PROG_BIND_MAP`.
    ProgBindMap { prog_fd: i32 = 0, map_fd: i32 = 4, flags: u32 = 8, }
}

/// Byte offsets of the fields that the kernel writes back.
#[expect(missing_docs, reason = "command and field are the kernel's names")]
pub mod out {
    pub const NEXT_ID: usize = 4;
    pub const INFO_LEN: usize = 4;
    pub const BATCH_COUNT: usize = 32;
    pub const PROG_LOAD_LOG_TRUE_SIZE: usize = 140;
    pub const BTF_LOAD_LOG_TRUE_SIZE: usize = 28;
    pub const TEST_RUN_RETVAL: usize = 4;
    pub const TEST_RUN_DATA_SIZE_OUT: usize = 12;
    pub const TEST_RUN_DURATION: usize = 36;
    pub const TEST_RUN_CTX_SIZE_OUT: usize = 44;
    pub const TASK_FD_QUERY_BUF_LEN: usize = 12;
    pub const TASK_FD_QUERY_PROG_ID: usize = 24;
    pub const TASK_FD_QUERY_FD_TYPE: usize = 28;
    pub const TASK_FD_QUERY_PROBE_OFFSET: usize = 32;
    pub const TASK_FD_QUERY_PROBE_ADDR: usize = 40;
}
