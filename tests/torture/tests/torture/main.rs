//! Real programs do what they did, whatever is probed in them.
//!
//! `TORTURE_LONG=1` runs everything longer and adds what is too slow for CI.

mod programs;
mod returns;
mod trial;
