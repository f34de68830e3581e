//! Header and sections (`btf_parse_hdr`, `btf_check_sec_info`,
//! `btf_parse_str_sec`).

use uapi::Errno;
use uapi::btf::{BTF_HEADER_BYTES, BTF_MAGIC, BTF_MAX_BYTES, BTF_VERSION, BtfHeader};

use super::BtfError;

/// The type records and the strings.
pub(super) fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    if bytes.len() > BTF_MAX_BYTES as usize {
        return Err(BtfError::new(Errno::E2BIG, "larger than 16 MiB"));
    }
    // Up to and with `hdr_len`.
    let start = bytes.first_chunk::<8>();
    let start = start.ok_or_else(|| BtfError::invalid("hdr_len not found"))?;
    let header_len = u32::from_le_bytes([start[4], start[5], start[6], start[7]]) as usize;
    let Some((head, data)) = bytes.split_at_checked(header_len) else {
        return Err(BtfError::invalid("btf_header not found"));
    };
    if head.iter().skip(BTF_HEADER_BYTES).any(|&b| b != 0) {
        return Err(BtfError::new(Errno::E2BIG, "Unsupported btf_header"));
    }
    // What a shorter header leaves out is zero.
    let mut fields = [0; BTF_HEADER_BYTES];
    let known = head.len().min(BTF_HEADER_BYTES);
    fields[..known].copy_from_slice(&head[..known]);
    let header = BtfHeader::decode(&fields);
    if header.magic != BTF_MAGIC {
        return Err(BtfError::invalid("Invalid magic"));
    }
    if header.version != BTF_VERSION {
        return Err(BtfError::new(Errno::ENOTSUPP, "Unsupported version"));
    }
    if header.flags != 0 {
        return Err(BtfError::new(Errno::ENOTSUPP, "Unsupported flags"));
    }
    if data.is_empty() {
        return Err(BtfError::invalid("No data"));
    }
    check(&header, data.len() as u64)?;
    let section = |offset: u32, len: u32| {
        // Both were checked to lie inside; absent ones are empty.
        let end = offset as usize + len as usize;
        data.get(offset as usize..end).unwrap_or_default()
    };
    let strings = section(header.str_off, header.str_len);
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return Err(BtfError::invalid("Invalid string section"));
    }
    if header.type_len == 0 {
        return Err(BtfError::invalid("No type found"));
    }
    Ok((section(header.type_off, header.type_len), strings))
}

/// Sections start at 0, touch each other in the order types, strings, and
/// fill the data.
fn check(header: &BtfHeader, data_len: u64) -> Result<(), BtfError> {
    if !header.type_off.is_multiple_of(4) {
        return Err(BtfError::invalid("Unaligned type_off"));
    }
    let mut sections = [
        (u64::from(header.type_off), u64::from(header.type_len)),
        (u64::from(header.str_off), u64::from(header.str_len)),
    ];
    sections.sort_unstable();
    let mut end = 0;
    for (offset, len) in sections {
        if offset < end {
            return Err(BtfError::invalid("Section overlap found"));
        }
        if offset > end {
            return Err(BtfError::invalid("Unsupported section found"));
        }
        end = offset + len;
        if end > data_len {
            return Err(BtfError::invalid("Total section length too long"));
        }
    }
    if end != data_len {
        return Err(BtfError::invalid("Unsupported section found"));
    }
    if u64::from(header.str_off) < u64::from(header.type_off) + u64::from(header.type_len) {
        return Err(BtfError::invalid("Invalid str_off"));
    }
    Ok(())
}
