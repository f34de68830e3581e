//! ELF files: what kind of executable, symbols, functions and their bounds,
//! file offset to address. Bytes in, facts out; no IO.
