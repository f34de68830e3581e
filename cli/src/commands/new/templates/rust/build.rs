//! The host calls functions of a guest that polls through its table.

fn main() {
    println!("cargo:rustc-link-arg=--export-table");
    println!("cargo:rerun-if-changed=build.rs");
}
