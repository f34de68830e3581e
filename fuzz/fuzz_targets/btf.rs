//! `cargo fuzz run btf --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bpftime_fuzz::btf(data));
