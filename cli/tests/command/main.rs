//! The `bpftime` command as a user meets it: run, and its output, exit
//! status and leftovers compared.

mod alone;
mod attach;
mod common;
mod errors;
mod habits;
mod killed;
mod launch;
mod maps;
mod places;
mod report;
mod verify;
mod vm;
