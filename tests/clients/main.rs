//! Unmodified tools from Debian's packages as an ordinary user: a table of
//! command lines, each with a workload and the exact rows that it shows, under
//! bpftime and, as root, under the kernel.

mod bcc;
mod bcc_calls;
mod bcc_distributions;
mod bcc_functions;
mod bcc_libraries;
mod bcc_programs;
mod bpftrace;
mod calls;
mod children;
mod hidden;
mod libbpf;
mod loaders;
mod prints;
mod refusals;
mod rust;
mod sampling;
mod surface;
mod table;
mod tasks;
mod watched;
