//! `cargo fuzz run bytecode --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bpftime_fuzz::bytecode(data));
