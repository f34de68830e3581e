//! On which instructions the kernel puts no uprobe. It decodes no more of them
//! than the kernel looks at.

/// Whether the kernel puts no uprobe on such an instruction (ENOTSUPP; see
/// arch/x86/kernel/uprobes.c, 6.18): with a `lock` or an old segment prefix,
/// traps, and what only the kernel may execute.
pub fn is_refused(bytes: &[u8]) -> bool {
    let is_prefix = |byte: &&u8| matches!(**byte, 0x64..=0x67 | 0xf2 | 0xf3);
    let refused_prefix = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0);
    let mut rest = bytes.iter().skip_while(is_prefix).copied();
    let mut opcode = rest.next().unwrap_or_default();
    if refused_prefix(opcode) {
        return true;
    }
    if matches!(opcode, 0x40..=0x4f) {
        opcode = rest.next().unwrap_or_default();
    }
    matches!(
        opcode,
        // Traps and returns from them.
        0xcc..=0xcf | 0xf1
        // Ports, `hlt`, `cli`, `sti`.
        | 0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef | 0xf4 | 0xfa | 0xfb
        // None in 64-bit code.
        | 0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x27 | 0x2f | 0x37 | 0x3f
        | 0x60 | 0x61 | 0x82 | 0x9a | 0xd4..=0xd6 | 0xea
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_opcodes() {
        for refused in [
            &[0xf0, 0x48, 0xff, 0x07][..],
            &[0x3e, 0xff, 0xe0],
            &[0xcc],
            &[0x48, 0xcf],
            &[0x66, 0xef],
        ] {
            assert!(is_refused(refused), "{refused:x?}");
        }
        for taken in [
            &[0x90][..],
            &[0xf3, 0xa4],
            &[0x64, 0x48, 0x8b, 0x00],
            &[0x0f, 0x05],
            &[0x4c, 0x89, 0xc0],
        ] {
            assert!(!is_refused(taken), "{taken:x?}");
        }
    }
}
