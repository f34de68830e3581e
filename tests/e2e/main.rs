//! Real tools on real programs, as an ordinary user: each test is a story that
//! a user could type. What can be said with the kernel too is said twice and
//! compared.

mod breakpoints;
mod build;
mod children;
mod containers;
mod creates;
mod death;
mod dispatch;
mod drains;
mod dumps;
mod errors;
mod exact;
mod guests;
mod hostile;
mod kernel;
mod known;
mod libraries;
mod memory;
mod modules;
mod nested;
mod objects;
mod oracle;
mod order;
mod overrides;
mod owned;
mod packages;
mod pins;
mod points;
mod registry;
mod running;
mod stacks;
mod syscalls;
mod unwind;
mod usdt;
mod views;
