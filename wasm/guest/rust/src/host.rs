//! What the host does. Pointers have 32 bits, as in guests in C, which all hosts
//! know.

use std::ffi::{c_char, c_int, c_void};

#[link(wasm_import_module = "wasm_bpf")]
unsafe extern "C" {
    pub fn wasm_load_bpf_object(object: *const c_void, size: c_int) -> u64;
    pub fn wasm_close_bpf_object(object: u64) -> c_int;
    pub fn wasm_attach_bpf_program(
        object: u64,
        name: *const c_char,
        target: *const c_char,
    ) -> c_int;
    pub fn wasm_attach_bpf_program_fd(object: u64, name: *const c_char, fd: c_int) -> c_int;
    /// Calls the function at the index `sample` of the guest's table, which is
    /// what function pointers are: context, record, its bytes.
    pub fn wasm_bpf_buffer_poll(
        object: u64,
        map: c_int,
        sample: usize,
        context: *mut c_void,
        data: *mut c_char,
        size: c_int,
        timeout_ms: c_int,
    ) -> c_int;
    pub fn wasm_bpf_map_fd_by_name(object: u64, name: *const c_char) -> c_int;
    pub fn wasm_bpf_map_operate(
        map: c_int,
        command: c_int,
        key: *mut c_void,
        value: *mut c_void,
        next_key: *mut c_void,
        flags: u64,
    ) -> c_int;
}
