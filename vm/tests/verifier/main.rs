//! The verifier against known programs and against the kernel of this machine.

#![expect(
    clippy::print_stderr,
    reason = "skips and counts are said to whoever runs the tests"
)]

extern crate bpftime_vm as vm;

mod arguments;
mod bad_input;
mod catalogue;
mod checked;
mod contexts;
mod execute;
mod generate;
mod kernel;
mod log;
mod loops;
mod messages;
mod mutate;
mod objects;
mod oracle;
mod pack;
mod packet_programs;
mod packets;
mod paths;
mod pruning;
mod vmlinux;
