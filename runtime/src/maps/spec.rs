//! What `BPF_MAP_CREATE` asks for, and the checks that all map types share.
//! It knows no storage.

use uapi::Errno;
use uapi::map::{
    BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU, BPF_F_RDONLY, BPF_F_RDONLY_PROG,
    BPF_F_WRONLY, BPF_F_WRONLY_PROG, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS,
    BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH,
    BPF_MAP_TYPE_PROG_ARRAY, BPF_MAP_TYPE_STRUCT_OPS, BPF_OBJ_NAME_LEN,
};
use vm::verifier::{FieldKind, MapField, MapFields};

/// What a tool asked for with `BPF_MAP_CREATE`. Plain data that lies in the
/// session's objects: no padding, every bit pattern is a value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSpec {
    /// `BPF_MAP_TYPE_*`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU).
    pub value_size: u32,
    /// Most entries; bytes of data for a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_*` of creation.
    pub map_flags: u32,
    /// Zero.
    pub _pad: u32,
    /// `map_extra` of the attribute.
    pub map_extra: u64,
    /// The map's name, zero-terminated.
    pub name: [u8; BPF_OBJ_NAME_LEN],
    /// BTF id of the key's type, or 0.
    pub btf_key_type_id: u32,
    /// BTF id of the value's type, or 0.
    pub btf_value_type_id: u32,
    /// Seed of a hash map's hash; the tool draws it, `BPF_F_ZERO_SEED` says 0.
    pub seed: u64,
    /// Number of special parts in a value.
    pub field_count: u32,
    /// The special parts, ascending by offset.
    pub fields: [FieldSpec; MAX_FIELDS],
    /// Of a map of maps: what those are like. Its type is 0 for others.
    pub inner: InnerSpec,
    /// Object id of the description of its types, or 0.
    pub btf: u32,
}

/// What the maps in a map of maps are like (kernel: `inner_map_meta`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InnerSpec {
    /// `BPF_MAP_TYPE_*`; 0 for none.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU).
    pub value_size: u32,
    /// Most entries of the template.
    pub max_entries: u32,
    /// `BPF_F_*` of creation.
    pub map_flags: u32,
    /// Number of special parts in a value.
    pub field_count: u32,
    /// The special parts, ascending by offset.
    pub fields: [FieldSpec; MAX_FIELDS],
}

/// A special part of a value: a lock, timer, or pointer to a kernel object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSpec {
    /// A [`vm::verifier::FieldKind`].
    pub kind: u32,
    /// Its first byte in the value.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
}

/// Most special parts of a value (`BTF_FIELDS_MAX`).
pub const MAX_FIELDS: usize = 11;

/// `BPF_F_ACCESS_MASK` of kernel/bpf/arraymap.c and hashtab.c.
pub(super) const ACCESS_MASK: u32 =
    BPF_F_RDONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY | BPF_F_WRONLY_PROG;

/// `PCPU_MIN_UNIT_SIZE`: most bytes of a per-CPU value (include/linux/percpu.h).
pub(super) const PCPU_MIN_UNIT_SIZE: u32 = 32 << 10;

/// `KMALLOC_MAX_SIZE` on x86-64.
pub(super) const KMALLOC_MAX_SIZE: u32 = 4 << 20;

/// Alignment of values and keys in storage.
pub(super) const WORD: u64 = 8;
/// Unit of mappings.
pub(super) const PAGE: u64 = 4096;

impl MapSpec {
    /// Notes the special parts of a value.
    pub fn set_fields(&mut self, fields: &MapFields) {
        self.field_count = fields.list.len().min(MAX_FIELDS) as u32;
        for (to, field) in self.fields.iter_mut().zip(&fields.list) {
            *to = FieldSpec {
                kind: field.kind as u32,
                offset: field.offset,
                size: field.size,
            };
        }
    }

    /// The special parts of a value; `None` when they are none that
    /// [`MapSpec::set_fields`] would note.
    pub fn fields(&self) -> Option<MapFields> {
        let mut end = 0;
        let mut list = Vec::new();
        for field in self.fields.get(..self.field_count as usize)? {
            let next = field.offset.checked_add(field.size)?;
            let aligned = field.offset.is_multiple_of(4);
            if !aligned || field.offset < end || next > self.value_size {
                return None;
            }
            end = next;
            list.push(MapField {
                kind: FieldKind::from_u32(field.kind)?,
                offset: field.offset,
                size: field.size,
            });
        }
        Some(MapFields { list })
    }

    /// As the template of the maps in a map of maps (`bpf_map_meta_alloc`).
    ///
    /// # Errors
    /// EINVAL for a map of maps, ENOTSUPP for a type that can be in none.
    pub fn as_template(&self) -> Result<InnerSpec, Errno> {
        match self.map_type {
            BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS => Err(Errno::EINVAL),
            BPF_MAP_TYPE_PROG_ARRAY | BPF_MAP_TYPE_STRUCT_OPS => Err(Errno::ENOTSUPP),
            _ => Ok(InnerSpec {
                map_type: self.map_type,
                key_size: self.key_size,
                value_size: self.value_size,
                max_entries: self.max_entries,
                map_flags: self.map_flags,
                field_count: self.field_count,
                fields: self.fields,
            }),
        }
    }

    /// May the map be in a map of maps with this template? (`map_meta_equal`)
    pub fn is_like(&self, template: &InnerSpec) -> bool {
        let mut own = match self.as_template() {
            Ok(own) if template.map_type != 0 => own,
            _ => return false,
        };
        if self.map_type != BPF_MAP_TYPE_ARRAY || self.has(BPF_F_INNER_MAP) {
            own.max_entries = template.max_entries;
        }
        own == *template
    }

    /// The template of the maps in a map of maps, as a spec.
    pub fn template(&self) -> Option<MapSpec> {
        (self.inner.map_type != 0).then(|| MapSpec {
            map_type: self.inner.map_type,
            key_size: self.inner.key_size,
            value_size: self.inner.value_size,
            max_entries: self.inner.max_entries,
            map_flags: self.inner.map_flags,
            field_count: self.inner.field_count,
            fields: self.inner.fields,
            ..MapSpec::default()
        })
    }

    /// Where a value has its spin lock, if it has one.
    pub fn lock(&self) -> Option<u32> {
        let fields = self.fields.get(..self.field_count as usize)?;
        let is_lock = |field: &&FieldSpec| field.kind == FieldKind::SpinLock as u32;
        fields.iter().find(is_lock).map(|lock| lock.offset)
    }

    /// The number of entries that a map of this spec has: where each CPU has
    /// entries of its own, all have as many (`htab_map_alloc`).
    pub fn round_entries(&mut self, nr_cpus: u32) {
        let lru = [BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH];
        if self.has(BPF_F_NO_COMMON_LRU) && lru.contains(&self.map_type) {
            let rounded = self.max_entries.checked_next_multiple_of(nr_cpus);
            self.max_entries = rounded.unwrap_or(self.max_entries / nr_cpus * nr_cpus);
        }
    }

    /// Has the map this flag of creation?
    pub fn has(&self, flag: u32) -> bool {
        self.map_flags & flag != 0
    }

    /// Bytes between two values in storage.
    pub(super) fn stride(&self) -> u64 {
        u64::from(self.value_size).next_multiple_of(WORD)
    }

    /// Bytes of a value of all CPUs, as bpf(2) copies it.
    pub(super) fn percpu_value_size(&self, nr_cpus: u32) -> u64 {
        self.stride() * u64::from(nr_cpus)
    }

    /// `EINVAL` unless all flags are among `known` and
    /// `bpf_map_flags_access_ok` (include/linux/bpf.h).
    pub(super) fn check_flags(&self, known: u32) -> Result<(), Errno> {
        let access = BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
        if self.map_flags & !known != 0 || self.map_flags & access == access {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// May the tool mmap the map's values?
    pub(super) fn mmapable(&self) -> bool {
        self.has(BPF_F_MMAPABLE)
    }
}
