//! Special parts of map values (kernel: `btf_parse_fields`, `map_check_btf`).

use object::btf::{Btf, Member, Modifier, Shape};
use uapi::Errno;
use uapi::map::*;
use vm::verifier::{FieldKind, MapField, MapFields};

use crate::maps::{MAX_FIELDS, MapSpec};

/// Deepest nesting of structures that is looked into (`MAX_RESOLVE_DEPTH`).
const MAX_DEPTH: usize = 32;
/// Most members that are looked at: structures that contain each other often
/// multiply, though they hold no byte.
const MAX_MEMBERS: u32 = 1 << 20;

/// Names of the structures, their bytes and alignment, whether a value has at
/// most one, and whether an array of them is taken.
const STRUCTURES: [(&str, FieldKind, u32, u32, bool, bool); 8] = [
    ("bpf_spin_lock", FieldKind::SpinLock, 4, 4, true, false),
    (
        "bpf_res_spin_lock",
        FieldKind::ResSpinLock,
        4,
        4,
        true,
        false,
    ),
    ("bpf_timer", FieldKind::Timer, 16, 8, true, false),
    ("bpf_wq", FieldKind::Workqueue, 16, 8, true, false),
    ("bpf_task_work", FieldKind::TaskWork, 8, 8, true, false),
    ("bpf_list_head", FieldKind::ListHead, 16, 8, false, true),
    ("bpf_rb_root", FieldKind::RbRoot, 16, 8, false, true),
    ("bpf_refcount", FieldKind::Refcount, 4, 4, true, false),
];

/// Checks the types of a map's keys and values, and finds the special parts
/// of a value.
///
/// # Errors
/// The kernel's: EINVAL for types that do not fit the sizes, EACCES for parts
/// of a map that programs only read or write, EOPNOTSUPP where the map type
/// has no such parts.
pub fn map_fields(btf: &Btf, map: &MapSpec) -> Result<MapFields, Errno> {
    let (key, value) = (map.btf_key_type_id, map.btf_value_type_id);
    if key != 0 && btf.size(key) != Some(map.key_size) || btf.size(value) != Some(map.value_size) {
        return Err(Errno::EINVAL);
    }
    check_key(btf, key, value, map)?;
    // What is not well formed is bytes like others: no helper takes it.
    let list = parts(btf, value, map.value_size).unwrap_or_default();
    if !list.is_empty() && map.map_flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) != 0 {
        return Err(Errno::EACCES);
    }
    if !list.iter().all(|field| holds(map.map_type, field.kind)) {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(MapFields { list })
}

/// The special parts of a value, ascending by offset (`btf_parse_fields`).
fn parts(btf: &Btf, value: u32, value_size: u32) -> Result<Vec<MapField>, Errno> {
    let mut search = Search {
        btf,
        members: 0,
        seen: Vec::new(),
        found: Vec::new(),
    };
    match btf.resolved(value).1 {
        Shape::Struct { members, .. } => search.members(value, members, 0, 0)?,
        Shape::DataSec { vars, .. } => {
            for var in vars {
                let Some(&Shape::Var { ty, .. }) = btf.get(var.ty).map(|ty| &ty.shape) else {
                    continue;
                };
                search.one(var.ty, -1, ty, var.offset, var.size, 0)?;
            }
        }
        _ => {}
    }
    let list = search.found;
    let mut end = 0;
    for field in &list {
        if field.offset < end {
            return Err(Errno::EEXIST);
        }
        end = field.offset + field.size;
    }
    let has = |kind| list.iter().any(|field| field.kind == kind);
    let locked = has(FieldKind::SpinLock) || has(FieldKind::ResSpinLock);
    let rooted = has(FieldKind::ListHead) || has(FieldKind::RbRoot);
    if end > value_size || rooted && !locked {
        return Err(Errno::EINVAL);
    }
    Ok(list)
}

/// What a map type asks of its keys' type. Arrays have indices of 32 bits, or
/// none where they are a section of variables (`array_map_check_btf`), tries
/// have structures (`trie_check_btf`), bloom filters have no keys
/// (`bloom_map_check_btf`), maps of objects and stacks no types, all others some.
fn check_key(btf: &Btf, key: u32, value: u32, map: &MapSpec) -> Result<(), Errno> {
    let is_number = |ty| {
        let shape = btf.resolved(ty).1;
        matches!(
            shape,
            Shape::Int {
                bits: 32,
                offset: 0,
                ..
            }
        )
    };
    let fits = if !matches!(map.map_type, BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_PERCPU_ARRAY) {
        match map.map_type {
            // `map_check_no_btf`.
            BPF_MAP_TYPE_PERF_EVENT_ARRAY
            | BPF_MAP_TYPE_CGROUP_ARRAY
            | BPF_MAP_TYPE_STACK_TRACE
            | BPF_MAP_TYPE_ARRAY_OF_MAPS
            | BPF_MAP_TYPE_HASH_OF_MAPS => return Err(Errno::ENOTSUPP),
            BPF_MAP_TYPE_BLOOM_FILTER => key == 0,
            BPF_MAP_TYPE_LPM_TRIE => {
                key != 0 && matches!(btf.resolved(key).1, Shape::Struct { .. })
            }
            // `bpf_local_storage_map_check_btf`.
            BPF_MAP_TYPE_TASK_STORAGE => is_number(key),
            _ => key != 0,
        }
    } else if key == 0 {
        map.map_type == BPF_MAP_TYPE_ARRAY
            && map.max_entries == 1
            && matches!(btf.resolved(value).1, Shape::DataSec { .. })
    } else {
        is_number(key)
    };
    fits.then_some(()).ok_or(Errno::EINVAL)
}

/// Which map types may have which parts.
fn holds(map_type: u32, kind: FieldKind) -> bool {
    let plain = [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY].contains(&map_type);
    let lru = plain || map_type == BPF_MAP_TYPE_LRU_HASH;
    let per_cpu = [
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
    ];
    match kind {
        FieldKind::SpinLock | FieldKind::ResSpinLock => {
            plain || map_type == BPF_MAP_TYPE_TASK_STORAGE
        }
        FieldKind::Timer
        | FieldKind::Workqueue
        | FieldKind::TaskWork
        | FieldKind::ListHead
        | FieldKind::RbRoot => lru,
        FieldKind::Kptr | FieldKind::Refcount => lru || per_cpu.contains(&map_type),
    }
}

/// The walk through a value's structures.
struct Search<'a> {
    btf: &'a Btf,
    /// Members that were looked at.
    members: u32,
    /// Kinds of which a value has at most one, that were found.
    seen: Vec<FieldKind>,
    found: Vec<MapField>,
}

impl Search<'_> {
    fn members(&mut self, of: u32, list: &[Member], base: u32, depth: usize) -> Result<(), Errno> {
        for (number, member) in list.iter().enumerate() {
            if !member.bit.is_multiple_of(8) && member.bits == 0 {
                return Err(Errno::EINVAL);
            }
            if member.bits != 0 {
                // A bitfield is a number.
                continue;
            }
            let at = base + member.bit / 8;
            self.one(of, number as i32, member.ty, at, 0, depth)?;
        }
        Ok(())
    }

    /// A member or variable: `component` of `of`, of type `ty`; `expected` is
    /// its size where the section says one.
    fn one(
        &mut self,
        of: u32,
        component: i32,
        ty: u32,
        offset: u32,
        expected: u32,
        depth: usize,
    ) -> Result<(), Errno> {
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(Errno::E2BIG);
        }
        let (mut id, mut count) = (ty, 1u32);
        for _ in 0..MAX_DEPTH {
            let Some(&Shape::Array {
                element, count: n, ..
            }) = self.shape(id)
            else {
                break;
            };
            count = count.saturating_mul(n);
            id = element;
        }
        if count == 0 {
            return Ok(());
        }
        let (kind, size, align, repeats) = match self.kind(id)? {
            Some(known) => known,
            None => return self.nested(id, offset, count, expected, depth),
        };
        let total = size.saturating_mul(count);
        if expected != 0 && expected != total || !offset.is_multiple_of(align) {
            return Ok(());
        }
        if kind == FieldKind::Kptr {
            if !self.is_kptr(id)? {
                return Ok(());
            }
        } else if !matches!(self.shape(id), Some(Shape::Struct { size: s, .. }) if *s == size) {
            return Ok(());
        }
        if matches!(kind, FieldKind::ListHead | FieldKind::RbRoot) {
            self.check_root(of, component)?;
        }
        if count > 1 && !repeats {
            return Err(Errno::EINVAL);
        }
        for number in 0..count {
            if self.found.len() >= MAX_FIELDS {
                return Err(Errno::E2BIG);
            }
            self.found.push(MapField {
                kind,
                offset: offset + number * size,
                size,
            });
        }
        Ok(())
    }

    /// Looks into a structure, which may be the element of an array.
    fn nested(
        &mut self,
        id: u32,
        offset: u32,
        count: u32,
        expected: u32,
        depth: usize,
    ) -> Result<(), Errno> {
        let btf = self.btf;
        let Some(Shape::Struct { size, members }) = btf.get(id).map(|ty| &ty.shape) else {
            return Ok(());
        };
        if expected != 0 && expected != size.saturating_mul(count) {
            return Ok(());
        }
        if depth + 1 >= MAX_DEPTH {
            return Err(Errno::E2BIG);
        }
        let first = self.found.len();
        self.members(id, members, offset, depth + 1)?;
        let parts = self.found[first..].to_vec();
        if parts.is_empty() || count == 1 {
            return Ok(());
        }
        let repeats = |part: &MapField| {
            let kinds = [FieldKind::Kptr, FieldKind::ListHead, FieldKind::RbRoot];
            kinds.contains(&part.kind)
        };
        if !parts.iter().all(repeats) {
            return Err(Errno::EINVAL);
        }
        let total = parts.len().saturating_mul(count as usize);
        if first.saturating_add(total) > MAX_FIELDS {
            return Err(Errno::E2BIG);
        }
        for number in 1..count {
            for part in &parts {
                let offset = part.offset + number * size;
                self.found.push(MapField { offset, ..*part });
            }
        }
        Ok(())
    }

    fn shape(&self, id: u32) -> Option<&Shape> {
        self.btf.get(id).map(|ty| &ty.shape)
    }

    /// Kind, size, alignment, and whether it repeats, by the type's name;
    /// `None` for a structure that is to be looked into.
    fn kind(&mut self, id: u32) -> Result<Option<(FieldKind, u32, u32, bool)>, Errno> {
        let name = self.btf.name(id);
        let known = STRUCTURES.iter().find(|row| row.0 == name);
        if let Some(&(_, kind, size, align, once, repeats)) = known {
            if once && self.seen.contains(&kind) {
                return Err(Errno::E2BIG);
            }
            self.seen.push(kind);
            return Ok(Some((kind, size, align, repeats)));
        }
        if matches!(self.shape(id), Some(Shape::Struct { .. })) {
            return Ok(None);
        }
        Ok(Some((FieldKind::Kptr, 8, 8, true)))
    }

    /// Whether a type is a pointer to a kernel object (`btf_find_kptr`).
    fn is_kptr(&self, mut id: u32) -> Result<bool, Errno> {
        if let Some(&Shape::Modifier {
            kind: Modifier::Volatile,
            to,
        }) = self.shape(id)
        {
            id = to;
        }
        let Some(&Shape::Ptr(tag)) = self.shape(id) else {
            return Ok(false);
        };
        let Some(&Shape::Modifier {
            kind: Modifier::TypeTag,
            to,
        }) = self.shape(tag)
        else {
            return Ok(false);
        };
        let tagged_twice = Modifier::TypeTag;
        if matches!(self.shape(to), Some(Shape::Modifier { kind, .. }) if *kind == tagged_twice) {
            return Err(Errno::EINVAL);
        }
        let names = ["kptr_untrusted", "kptr", "percpu_kptr", "uptr"];
        let to_struct = matches!(self.btf.resolved(to).1, Shape::Struct { .. });
        if !names.contains(&self.btf.name(tag)) || !to_struct {
            return Err(Errno::EINVAL);
        }
        Ok(true)
    }

    /// A list or tree says what it contains: `contains:TYPE:NODE`.
    fn check_root(&self, of: u32, component: i32) -> Result<(), Errno> {
        let tags = self.btf.tags(of, component);
        let mut contents = tags.filter_map(|tag| tag.strip_prefix("contains:"));
        let (Some(content), None) = (contents.next(), contents.next()) else {
            return Err(Errno::EINVAL);
        };
        let (name, node) = content.split_once(':').ok_or(Errno::EINVAL)?;
        let is_struct = |shape: &Shape| matches!(shape, Shape::Struct { .. });
        self.btf.find(name, is_struct).ok_or(Errno::ENOENT)?;
        if node.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}
