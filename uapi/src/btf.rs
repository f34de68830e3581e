//! The BPF type format as bytes (include/uapi/linux/btf.h): header and the
//! kinds of types. It knows no type's meaning.

/// First two bytes of every BTF blob.
pub const BTF_MAGIC: u16 = 0xeb9f;
/// The only version there is.
pub const BTF_VERSION: u8 = 1;
/// Bytes of `struct btf_header`.
pub const BTF_HEADER_BYTES: usize = 24;
/// Largest blob the kernel accepts (`BTF_MAX_SIZE`).
pub const BTF_MAX_BYTES: u32 = 16 << 20;

/// `struct btf_header`; offsets count from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct BtfHeader {
    pub magic: u16,
    pub version: u8,
    pub flags: u8,
    pub hdr_len: u32,
    pub type_off: u32,
    pub type_len: u32,
    pub str_off: u32,
    pub str_len: u32,
}

impl BtfHeader {
    /// The fields as the bytes hold them.
    pub fn decode(bytes: &[u8; BTF_HEADER_BYTES]) -> BtfHeader {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        BtfHeader {
            magic: u16::from_le_bytes([bytes[0], bytes[1]]),
            version: bytes[2],
            flags: bytes[3],
            hdr_len: word(4),
            type_off: word(8),
            type_len: word(12),
            str_off: word(16),
            str_len: word(20),
        }
    }
}

/// `BTF_KIND_*`.
#[expect(missing_docs, reason = "the names are the kernel's")]
mod kinds {
    pub const BTF_KIND_INT: u8 = 1;
    pub const BTF_KIND_PTR: u8 = 2;
    pub const BTF_KIND_ARRAY: u8 = 3;
    pub const BTF_KIND_STRUCT: u8 = 4;
    pub const BTF_KIND_UNION: u8 = 5;
    pub const BTF_KIND_ENUM: u8 = 6;
    pub const BTF_KIND_FWD: u8 = 7;
    pub const BTF_KIND_TYPEDEF: u8 = 8;
    pub const BTF_KIND_VOLATILE: u8 = 9;
    pub const BTF_KIND_CONST: u8 = 10;
    pub const BTF_KIND_RESTRICT: u8 = 11;
    pub const BTF_KIND_FUNC: u8 = 12;
    pub const BTF_KIND_FUNC_PROTO: u8 = 13;
    pub const BTF_KIND_VAR: u8 = 14;
    pub const BTF_KIND_DATASEC: u8 = 15;
    pub const BTF_KIND_FLOAT: u8 = 16;
    pub const BTF_KIND_DECL_TAG: u8 = 17;
    pub const BTF_KIND_TYPE_TAG: u8 = 18;
    pub const BTF_KIND_ENUM64: u8 = 19;
}
pub use kinds::*;
