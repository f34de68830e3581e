//! `BPF_BTF_LOAD`: checks a type description as far as its layout goes and
//! keeps it. It knows no type's meaning.

use std::sync::Arc;

use uapi::Errno;
use uapi::btf::{
    BTF_HEADER_BYTES, BTF_KIND_ARRAY, BTF_KIND_DATASEC, BTF_KIND_DECL_TAG, BTF_KIND_ENUM,
    BTF_KIND_ENUM64, BTF_KIND_FUNC_PROTO, BTF_KIND_INT, BTF_KIND_STRUCT, BTF_KIND_TYPE_TAG,
    BTF_KIND_UNION, BTF_KIND_VAR, BTF_MAGIC, BTF_MAX_BYTES, BTF_VERSION, BtfHeader,
};

use super::Bpf;

/// A type description that a loader brought.
pub struct BtfObject {
    id: u32,
    bytes: Box<[u8]>,
    types: u32,
}

impl BtfObject {
    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The description as it was loaded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of types; type ids run from 1 to it.
    pub fn types(&self) -> u32 {
        self.types
    }
}

/// What a load that failed says: errno and the text for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtfError {
    /// What the command returns.
    pub errno: Errno,
    /// The reason.
    pub message: &'static str,
}

impl Bpf {
    /// `BPF_BTF_LOAD`.
    ///
    /// # Errors
    /// E2BIG above 16 MiB or with unknown bytes in the header; EINVAL with
    /// the reason for a description that is not laid out as BTF.
    pub fn btf_load(&self, bytes: Vec<u8>) -> Result<Arc<BtfObject>, BtfError> {
        let types = check(&bytes)?;
        let mut tables = self.home.tables();
        let id = tables.btfs.next_free_id();
        let object = Arc::new(BtfObject {
            id,
            bytes: bytes.into(),
            types,
        });
        tables.btfs.insert(id, &object);
        Ok(object)
    }
}

fn invalid<T>(message: &'static str) -> Result<T, BtfError> {
    Err(BtfError {
        errno: Errno::EINVAL,
        message,
    })
}

/// The number of types in a well laid out description (kernel/bpf/btf.c:
/// `btf_parse_hdr`, `btf_parse_str_sec`, `btf_check_all_metas`).
fn check(bytes: &[u8]) -> Result<u32, BtfError> {
    if bytes.len() > BTF_MAX_BYTES as usize {
        return Err(BtfError {
            errno: Errno::E2BIG,
            message: "larger than 16 MiB",
        });
    }
    let Some(start) = bytes.first_chunk::<BTF_HEADER_BYTES>() else {
        return invalid("hdr_len not found");
    };
    let header = BtfHeader::decode(start);
    if header.magic != BTF_MAGIC {
        return invalid("Invalid magic");
    }
    if header.version != BTF_VERSION {
        return Err(BtfError {
            errno: Errno::ENOTSUPP,
            message: "Unsupported version",
        });
    }
    if header.flags != 0 {
        return Err(BtfError {
            errno: Errno::ENOTSUPP,
            message: "Unsupported flags",
        });
    }
    let header_len = header.hdr_len as usize;
    if header_len < BTF_HEADER_BYTES || header_len > bytes.len() {
        return invalid("hdr_len not found");
    }
    if bytes[BTF_HEADER_BYTES..header_len].iter().any(|&b| b != 0) {
        return Err(BtfError {
            errno: Errno::E2BIG,
            message: "Unsupported btf_header",
        });
    }
    let data = &bytes[header_len..];
    if data.is_empty() {
        return invalid("No data");
    }
    check_sections(&header, data.len())?;
    let section = |offset: u32, len: u32| {
        // Both were checked to lie inside; absent ones are empty.
        data.get(offset as usize..offset as usize + len as usize)
            .unwrap_or_default()
    };
    let strings = section(header.str_off, header.str_len);
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return invalid("Invalid string section");
    }
    check_types(section(header.type_off, header.type_len), strings)
}

/// Sections start at 0, touch each other in the order types, strings, and
/// fill the data (`btf_check_sec_info`).
fn check_sections(header: &BtfHeader, data_len: usize) -> Result<(), BtfError> {
    if !header.type_off.is_multiple_of(4) {
        return invalid("Unaligned type_off");
    }
    let mut sections = [
        (u64::from(header.type_off), u64::from(header.type_len)),
        (u64::from(header.str_off), u64::from(header.str_len)),
    ];
    sections.sort_unstable();
    let mut end = 0;
    for (offset, len) in sections {
        if offset < end {
            return invalid("Section overlap found");
        }
        if offset > end {
            return invalid("Unsupported section found");
        }
        end = offset + len;
        if end > data_len as u64 {
            return invalid("Total section length too long");
        }
    }
    if end != data_len as u64 {
        return invalid("Unsupported section found");
    }
    if u64::from(header.str_off) < u64::from(header.type_off) + u64::from(header.type_len) {
        return invalid("Invalid str_off");
    }
    Ok(())
}

fn check_types(mut types: &[u8], strings: &[u8]) -> Result<u32, BtfError> {
    let mut count = 0;
    while !types.is_empty() {
        let Some((head, rest)) = types.split_first_chunk::<12>() else {
            return invalid("Invalid type record");
        };
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name_off, info) = (word(0), word(4));
        if info & !0x9f00_ffff != 0 {
            return invalid("Invalid btf_info");
        }
        if name_off as usize >= strings.len() {
            return invalid("Invalid name_offset");
        }
        let (kind, vlen) = ((info >> 24 & 0x1f) as u8, (info & 0xffff) as usize);
        let tail = match kind {
            0 => return invalid("Invalid kind"),
            BTF_KIND_INT | BTF_KIND_VAR | BTF_KIND_DECL_TAG => 4,
            BTF_KIND_ARRAY => 12,
            BTF_KIND_STRUCT | BTF_KIND_UNION | BTF_KIND_DATASEC | BTF_KIND_ENUM64 => 12 * vlen,
            BTF_KIND_ENUM | BTF_KIND_FUNC_PROTO => 8 * vlen,
            _ if kind <= BTF_KIND_TYPE_TAG => 0,
            _ => return invalid("Invalid kind"),
        };
        let Some(rest) = rest.get(tail..) else {
            return invalid("meta_left too small");
        };
        types = rest;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description with the given types and strings.
    fn blob(types: &[u8], strings: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len(), types.len(), strings.len()] {
            bytes.extend_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
        }
        bytes.extend_from_slice(types);
        bytes.extend_from_slice(strings);
        bytes
    }

    /// `int` as libbpf's probe describes it.
    const INT: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 32, 0, 0, 1];

    fn message(bytes: &[u8]) -> &'static str {
        check(bytes).map_or_else(|error| error.message, |_| "accepted")
    }

    #[test]
    fn accepts_an_int() {
        assert_eq!(check(&blob(&INT, b"\0int\0")), Ok(1));
    }

    #[test]
    fn refuses_what_is_not_laid_out_as_btf() {
        let good = blob(&INT, b"\0int\0");
        assert_eq!(message(&good[..20]), "hdr_len not found");
        assert_eq!(message(&good[..24]), "No data");
        assert_eq!(
            message(&good[..good.len() - 1]),
            "Total section length too long"
        );
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(message(&changed(0, 0)), "Invalid magic");
        assert_eq!(message(&changed(2, 2)), "Unsupported version");
        assert_eq!(message(&changed(4, 200)), "hdr_len not found");
        assert_eq!(message(&changed(24, 9)), "Invalid name_offset");
        assert_eq!(message(&changed(31, 31)), "Invalid kind");
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(message(&longer), "Unsupported section found");
        assert_eq!(
            message(&blob(&INT[..14], b"\0int\0")),
            "meta_left too small"
        );
        assert_eq!(message(&blob(&INT, b"int\0")), "Invalid string section");
        assert_eq!(message(&blob(&INT, b"\0int")), "Invalid string section");
    }
}
