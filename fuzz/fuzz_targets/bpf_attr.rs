//! `cargo fuzz run bpf_attr --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bpftime_fuzz::bpf_attr(data));
