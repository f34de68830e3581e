//! What stands in for /proc/config.gz where the kernel has none and no file in
//! /boot tells either: the options that are certain of a machine on which
//! bpftime runs. It knows no file.

use std::sync::OnceLock;

/// All else is not known, and loaders say so of what programs ask for.
const OPTIONS: &str = "\
# What bpftime knows of this kernel, which does not tell.
CONFIG_64BIT=y
CONFIG_ARCH_HAS_SYSCALL_WRAPPER=y
CONFIG_BPF=y
CONFIG_BPF_EVENTS=y
CONFIG_BPF_JIT=y
CONFIG_BPF_SYSCALL=y
CONFIG_FTRACE_SYSCALLS=y
CONFIG_HAVE_EBPF_JIT=y
CONFIG_KPROBES=y
CONFIG_KPROBE_EVENTS=y
CONFIG_MMU=y
CONFIG_PERF_EVENTS=y
CONFIG_SMP=y
CONFIG_TRACEPOINTS=y
CONFIG_TRACING=y
CONFIG_UPROBES=y
CONFIG_UPROBE_EVENTS=y
CONFIG_X86=y
CONFIG_X86_64=y
";

/// The options, as gzip(1) has them.
pub fn gz() -> &'static [u8] {
    static GZ: OnceLock<Vec<u8>> = OnceLock::new();
    GZ.get_or_init(|| stored(OPTIONS.as_bytes()))
}

/// A file of gzip's with one block that is not compressed (RFC 1951, 1952).
fn stored(text: &[u8]) -> Vec<u8> {
    let len = text.len() as u16;
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    file.extend(len.to_le_bytes());
    file.extend((!len).to_le_bytes());
    file.extend(text);
    file.extend(crc32(text).to_le_bytes());
    file.extend((text.len() as u32).to_le_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert!(OPTIONS.len() < usize::from(u16::MAX));
    }
}
