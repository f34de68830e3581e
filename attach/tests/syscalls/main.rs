//! System call hooks: numbers, arguments and results, what a program sees of
//! its own calls, and calls that children and signals come back from.
#![cfg(target_arch = "x86_64")]

mod calls;
mod children;
#[path = "../common/mod.rs"]
mod common;
mod light;
mod memo;
mod world;
