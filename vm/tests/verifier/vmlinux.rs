//! Ids of kernel functions in the BTF of the running kernel. It knows just
//! enough of the format to walk over types (Documentation/bpf/btf.rst).

use std::collections::HashMap;

const BTF_KIND_ARRAY: u32 = 3;
const BTF_KIND_STRUCT: u32 = 4;
const BTF_KIND_UNION: u32 = 5;
const BTF_KIND_ENUM: u32 = 6;
const BTF_KIND_INT: u32 = 1;
const BTF_KIND_FUNC: u32 = 12;
const BTF_KIND_FUNC_PROTO: u32 = 13;
const BTF_KIND_VAR: u32 = 14;
const BTF_KIND_DATASEC: u32 = 15;
const BTF_KIND_DECL_TAG: u32 = 17;
const BTF_KIND_ENUM64: u32 = 19;

/// Function names to ids; empty when the kernel has no BTF.
pub fn functions() -> HashMap<String, u32> {
    let bytes = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    parse(&bytes).unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Option<HashMap<String, u32>> {
    let word = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(four.try_into().ok()?))
    };
    let header = word(4)? as usize;
    let [types, length, strings] = [word(8)?, word(12)?, word(16)?].map(|n| n as usize);
    let strings = bytes.get(header + strings..)?;
    let mut found = HashMap::new();
    let (mut at, end) = (header + types, header + types + length);
    let mut id = 1;
    while at < end {
        let [name, info] = [word(at)?, word(at + 4)?];
        let (kind, count) = (info >> 24 & 31, (info & 0xffff) as usize);
        if kind == BTF_KIND_FUNC {
            let name = strings.get(name as usize..)?.split(|&b| b == 0).next()?;
            found.insert(String::from_utf8_lossy(name).into_owned(), id);
        }
        at += 12
            + match kind {
                BTF_KIND_INT | BTF_KIND_VAR | BTF_KIND_DECL_TAG => 4,
                BTF_KIND_ARRAY => 12,
                BTF_KIND_STRUCT | BTF_KIND_UNION | BTF_KIND_DATASEC | BTF_KIND_ENUM64 => 12 * count,
                BTF_KIND_ENUM | BTF_KIND_FUNC_PROTO => 8 * count,
                _ => 0,
            };
        id += 1;
    }
    Some(found)
}
