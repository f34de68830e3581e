//! Parts of a map value that only certain helpers may touch, as the BTF of
//! the value names them (kernel: `struct btf_record`). It knows no BTF.

/// The special parts of a map's values, ascending by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapFields {
    /// They do not overlap.
    pub list: Vec<MapField>,
}

/// A special part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapField {
    /// What it is.
    pub kind: FieldKind,
    /// Where it begins in the value.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
}

/// What a special part is (kernel: `enum btf_field_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[expect(missing_docs, reason = "the kernel's names")]
pub enum FieldKind {
    SpinLock = 0,
    ResSpinLock = 1,
    Timer = 2,
    Workqueue = 3,
    TaskWork = 4,
    Kptr = 5,
    ListHead = 6,
    RbRoot = 7,
    Refcount = 8,
}

impl FieldKind {
    /// The kind with this number.
    pub fn from_u32(number: u32) -> Option<FieldKind> {
        use FieldKind::*;
        let all = [
            SpinLock,
            ResSpinLock,
            Timer,
            Workqueue,
            TaskWork,
            Kptr,
            ListHead,
            RbRoot,
            Refcount,
        ];
        all.into_iter().find(|&kind| kind as u32 == number)
    }
}

impl MapFields {
    /// Where the part of this kind begins; for kinds of which a value has one.
    pub fn offset_of(&self, kind: FieldKind) -> Option<u32> {
        let found = self.list.iter().find(|field| field.kind == kind);
        found.map(|field| field.offset)
    }

    /// The part that bytes `start..end` of a value touch.
    pub fn touched(&self, start: i64, end: i64) -> Option<&MapField> {
        self.list.iter().find(|field| {
            let first = i64::from(field.offset);
            start < first + i64::from(field.size) && first < end
        })
    }
}
