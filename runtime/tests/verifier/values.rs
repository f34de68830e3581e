//! Types of map values beside the running kernel: which maps it makes, and
//! with which special parts.

use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::types::map_fields;
use object::btf::Btf;
use object::btf::build::Builder;
use uapi::btf::*;
use uapi::map::*;
use vm::verifier::FieldKind;

use super::kernel;

/// The structures with a meaning, and what they hold.
struct Known {
    int: u32,
    lock: u32,
    timer: u32,
    work: u32,
    /// A pointer that is tagged as one to a kernel object.
    kptr: u32,
}

fn known(b: &mut Builder) -> Known {
    let int = b.int("int", 4);
    let long = b.int("long", 8);
    let words = |n: u32| (0..n).map(|w| ("w", long, w * 8)).collect::<Vec<_>>();
    let lock = b.structure("bpf_spin_lock", 4, &[("val", int, 0)]);
    let timer = b.structure("bpf_timer", 16, &words(2));
    let work = b.structure("bpf_wq", 16, &words(2));
    let object = b.structure("task_struct", 8, &words(1));
    let tagged = b.raw("kptr_untrusted", BTF_KIND_TYPE_TAG, 0, object, &[]);
    let kptr = b.ptr(tagged);
    Known {
        int,
        lock,
        timer,
        work,
        kptr,
    }
}

/// Types and offsets of a structure's members.
type Members<'a> = &'a dyn Fn(&mut Builder, &Known) -> Vec<(u32, u32)>;

/// Asks both for a map of this type whose value is a structure of these
/// members; the parts that it has, or the errno.
#[track_caller]
fn agree(
    map_type: u32,
    flags: u32,
    size: u32,
    members: impl Fn(&mut Builder, &Known) -> Vec<(u32, u32)>,
) -> Result<Vec<(FieldKind, u32)>, i32> {
    let mut b = Builder::default();
    let types = known(&mut b);
    let members = members(&mut b, &types);
    let members: Vec<_> = members.into_iter().map(|(ty, at)| ("m", ty, at)).collect();
    let value = b.structure("value", size, &members);
    let spec = MapSpec {
        map_type,
        key_size: 4,
        value_size: size,
        max_entries: 4,
        map_flags: flags,
        btf_key_type_id: types.int,
        btf_value_type_id: value,
        ..MapSpec::default()
    };
    let bytes = b.finish();
    let fields = map_fields(&Btf::parse(&bytes).expect("BTF"), &spec).map_err(|errno| errno.0);
    let ours = fields.as_ref().map_or_else(|&errno| errno, |_| 0);
    if let Some(theirs) = kernel::make_map(&bytes, &spec) {
        assert_eq!(ours, theirs, "ours and the kernel's errno for {members:?}");
    }
    let places = |field: &vm::verifier::MapField| (field.kind, field.offset);
    fields.map(|fields| fields.list.iter().map(places).collect())
}

use FieldKind::{Kptr, SpinLock, Timer, Workqueue};

#[test]
fn parts_are_found_where_they_are() {
    let hash = |size, members: Members<'_>| agree(BPF_MAP_TYPE_HASH, 0, size, members);
    assert_eq!(
        hash(8, &|_, t| vec![(t.int, 0), (t.lock, 4)]),
        Ok(vec![(SpinLock, 4)])
    );
    assert_eq!(
        hash(40, &|_, t| vec![(t.lock, 0), (t.timer, 8), (t.work, 24)]),
        Ok(vec![(SpinLock, 0), (Timer, 8), (Workqueue, 24)])
    );
    // Inside another structure, behind a typedef nothing.
    assert_eq!(
        hash(16, &|b, t| {
            let inner = b.structure("inner", 12, &[("a", t.int, 0), ("l", t.lock, 8)]);
            vec![(inner, 4)]
        }),
        Ok(vec![(SpinLock, 12)])
    );
    assert_eq!(
        hash(4, &|b, t| vec![(b.typedef("alias", t.lock), 0)]),
        Ok(vec![])
    );
    assert_eq!(
        hash(24, &|b, t| vec![(b.array(t.kptr, t.int, 3), 0)]),
        Ok(vec![(Kptr, 0), (Kptr, 8), (Kptr, 16)])
    );
    // Not at their alignment: bytes.
    assert_eq!(hash(20, &|_, t| vec![(t.timer, 4)]), Ok(vec![]));
    // A pointer without a tag, and a structure of another size.
    assert_eq!(hash(8, &|b, t| vec![(b.ptr(t.int), 0)]), Ok(vec![]));
    assert_eq!(
        hash(8, &|b, t| vec![(
            b.structure("bpf_spin_lock", 8, &[("val", t.int, 0)]),
            0
        )]),
        Ok(vec![])
    );
}

#[test]
fn what_is_not_well_formed_is_bytes() {
    let hash = |size, members: Members<'_>| agree(BPF_MAP_TYPE_HASH, 0, size, members);
    assert_eq!(
        hash(8, &|b, t| vec![(b.array(t.lock, t.int, 2), 0)]),
        Ok(vec![])
    );
    assert_eq!(
        hash(96, &|b, t| vec![(b.array(t.kptr, t.int, 12), 0)]),
        Ok(vec![])
    );
    let twice = |b: &mut Builder, t: &Known| {
        let tag = b.raw("kptr", BTF_KIND_TYPE_TAG, 0, t.int, &[]);
        let tag = b.raw("kptr", BTF_KIND_TYPE_TAG, 0, tag, &[]);
        vec![(b.ptr(tag), 0)]
    };
    assert_eq!(hash(8, &twice), Ok(vec![]));
    let other = |b: &mut Builder, t: &Known| {
        let tag = b.raw("other", BTF_KIND_TYPE_TAG, 0, t.int, &[]);
        vec![(b.ptr(tag), 0)]
    };
    assert_eq!(hash(8, &other), Ok(vec![]));
}

#[test]
fn map_types_have_their_parts() {
    let types = [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_ARRAY,
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
        BPF_MAP_TYPE_LRU_HASH,
    ];
    for map_type in types {
        let _ = agree(map_type, 0, 4, |_, t| vec![(t.lock, 0)]);
        let _ = agree(map_type, 0, 16, |_, t| vec![(t.timer, 0)]);
        let _ = agree(map_type, 0, 16, |_, t| vec![(t.work, 0)]);
        let _ = agree(map_type, 0, 8, |_, t| vec![(t.kptr, 0)]);
    }
    for flags in [BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG] {
        let refused = agree(BPF_MAP_TYPE_ARRAY, flags, 4, |_, t| vec![(t.lock, 0)]);
        assert_eq!(refused, Err(libc::EACCES));
    }
}
