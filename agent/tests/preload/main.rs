//! The agent in real processes: preloaded into a small C program that does
//! what it is told, with a session owned by the test.

mod changes;
mod ends;
mod follows;
mod refuses;
mod world;
