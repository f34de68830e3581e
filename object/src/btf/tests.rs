use proptest::prelude::*;
use uapi::btf::*;

use super::build::Builder;
use super::*;

fn error(builder: &Builder) -> String {
    Btf::parse(&builder.finish()).map_or_else(|error| error.text, |_| "accepted".to_owned())
}

/// One of everything, and the id of its `struct`.
fn everything() -> (Builder, u32) {
    let mut b = Builder::default();
    let int = b.int("int", 4);
    let long = b.int("long", 8);
    let ptr = b.ptr(0);
    let array = b.array(int, int, 3);
    let konst = b.raw("", BTF_KIND_CONST, 0, array, &[]);
    let number = b.typedef("number", konst);
    let structure = b.structure(
        "point",
        32,
        &[("x", long, 0), ("y", ptr, 8), ("", number, 16)],
    );
    let member = b.string("bits");
    b.raw("u", BTF_KIND_UNION, 1 << 31 | 1, 4, &[member, int, 3 << 24]);
    let one = b.string("ONE");
    b.raw("e", BTF_KIND_ENUM, 1 << 31 | 1, 4, &[one, u32::MAX]);
    b.raw("e64", BTF_KIND_ENUM64, 1, 8, &[one, 1, 1]);
    let fwd = b.raw("later", BTF_KIND_FWD, 0, 0, &[]);
    let tagged = b.raw("user", BTF_KIND_TYPE_TAG, 0, fwd, &[]);
    let pointer = b.ptr(tagged);
    let func = b.func("f", true, int, &[("p", pointer), ("n", long)]);
    b.tag("arg:nonnull", func, 0);
    b.tag("exception_callback:g", func, -1);
    let var = b.raw("v", BTF_KIND_VAR, 0, int, &[1]);
    b.raw(".data", BTF_KIND_DATASEC, 1, 4, &[var, 0, 4]);
    b.raw("double", BTF_KIND_FLOAT, 0, 8, &[]);
    (b, structure)
}

#[test]
fn reads_every_kind() {
    let (builder, structure) = everything();
    let btf = Btf::parse(&builder.finish()).expect("BTF");
    assert_eq!(btf.name(structure), "point");
    assert_eq!(btf.size(structure), Some(32));
    let members = btf.get(structure).expect("the structure").shape.members();
    assert_eq!(members.len(), 3);
    assert_eq!(members[2].bit, 128);
    assert_eq!(btf.size(members[2].ty), Some(12));
    assert!(matches!(
        btf.resolved(members[2].ty).1,
        Shape::Array { count: 3, .. }
    ));
    let func = btf
        .find("f", |s| matches!(s, Shape::Func { .. }))
        .expect("the function");
    assert_eq!(btf.tags(func, 0).collect::<Vec<_>>(), ["arg:nonnull"]);
    assert_eq!(btf.tags(func, 1).count(), 0);
    assert_eq!(
        btf.tags(func, -1).collect::<Vec<_>>(),
        ["exception_callback:g"]
    );
    let values = |name| {
        let id = btf
            .find(name, |s| matches!(s, Shape::Enum { .. }))
            .expect("the enum");
        match &btf.get(id).expect("the enum").shape {
            Shape::Enum { values, .. } => values[0].1,
            _ => 0,
        }
    };
    assert_eq!(values("e"), u64::MAX);
    assert_eq!(values("e64"), 1 << 32 | 1);
    assert_eq!(btf.get(btf.count() + 1), None);
}

#[test]
fn refuses_types_that_contain_themselves() {
    let mut b = Builder::default();
    b.structure("a", 8, &[("a", 1, 0)]);
    assert_eq!(error(&b), "[1] STRUCT Loop detected");
    let mut b = Builder::default();
    b.typedef("a", 2);
    b.typedef("b", 1);
    assert_eq!(error(&b), "[2] TYPEDEF Loop detected");
    let mut b = Builder::default();
    b.ptr(2);
    b.ptr(1);
    assert_eq!(error(&b), "[2] PTR Loop detected");
    // A structure may point to itself.
    let mut b = Builder::default();
    b.structure("list", 8, &[("next", 2, 0)]);
    b.ptr(1);
    assert_eq!(error(&b), "accepted");
}

#[test]
fn refuses_ids_and_sizes_that_do_not_fit() {
    let with_int = || {
        let mut b = Builder::default();
        (b.int("int", 4), b)
    };
    let (_, mut b) = with_int();
    b.ptr(7);
    assert_eq!(error(&b), "[2] PTR Invalid type_id");
    let (int, mut b) = with_int();
    b.array(int, int, u32::MAX);
    assert_eq!(error(&b), "[2] ARRAY Array size overflows U32_MAX");
    let (int, mut b) = with_int();
    b.structure("s", 7, &[("a", int, 0), ("b", int, 4)]);
    assert_eq!(error(&b), "[2] STRUCT s Member exceeds struct_size");
    let (int, mut b) = with_int();
    b.structure("s", 8, &[("a", int, 4), ("b", int, 0)]);
    assert_eq!(error(&b), "[2] STRUCT s Invalid member bits_offset");
    let (int, mut b) = with_int();
    b.func("1f", false, int, &[]);
    assert_eq!(error(&b), "[3] FUNC 1f Invalid name");
    let (int, mut b) = with_int();
    b.func("f", false, int, &[("", int)]);
    assert_eq!(error(&b), "[3] FUNC f Invalid arg#1");
    let (int, mut b) = with_int();
    let func = b.func("f", false, int, &[("a", int)]);
    b.tag("arg:ctx", func, 1);
    assert_eq!(error(&b), "[4] DECL_TAG arg:ctx Invalid component_idx");
    let (int, mut b) = with_int();
    b.raw("s", BTF_KIND_DATASEC, 1, 8, &[int, 0, 4]);
    assert_eq!(error(&b), "[2] DATASEC s Not a VAR kind member");
    let (_, mut b) = with_int();
    b.raw("big", BTF_KIND_INT, 0, u32::MAX, &[8]);
    assert_eq!(error(&b), "accepted");
}

/// A slice of the running kernel's own description: the first types that
/// refer to nothing beyond them.
#[test]
fn reads_the_running_kernels_types() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        assert!(std::env::var_os("CI").is_none(), "CI has a kernel with BTF");
        return;
    };
    let btf = Btf::parse(&bytes).expect("the kernel's BTF");
    let task = btf.find("task_struct", |s| matches!(s, Shape::Struct { .. }));
    assert!(btf.size(task.expect("task_struct")).expect("its size") > 1024);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut in any::<u16>()) {
        let (builder, _) = everything();
        let mut bytes = builder.finish();
        for (at, value) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        if cut.is_multiple_of(4) {
            bytes.truncate(usize::from(cut / 4) % (bytes.len() + 1));
        }
        use_all(&bytes);
    }

    #[test]
    fn no_word_makes_it_panic(at in any::<u16>(), word in prop_oneof![0u32..40, any::<u32>(), (0u32..40).prop_map(|n| n << 24 | 1)]) {
        let (builder, _) = everything();
        let mut bytes = builder.finish();
        let at = (usize::from(at) % (bytes.len() - 3)) & !3;
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        use_all(&bytes);
    }
}

/// Calls everything that a reader may call.
fn use_all(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for id in 0..=btf.count() + 1 {
        let (to, _) = btf.resolved(id);
        assert_eq!(btf.size(id), btf.size(to));
        let _ = (btf.name(id), btf.tags(id, 0).count());
    }
}

#[test]
fn refuses_what_is_not_laid_out_as_btf() {
    let mut builder = Builder::default();
    builder.int("int", 4);
    let good = builder.finish();
    let message = |bytes: &[u8]| Btf::parse(bytes).map_or_else(|e| e.text, |_| String::new());
    assert_eq!(message(&good), "");
    assert_eq!(message(&good[..20]), "btf_header not found");
    assert_eq!(message(&good[..7]), "hdr_len not found");
    assert_eq!(message(&good[..24]), "No data");
    let cut = &good[..good.len() - 1];
    assert_eq!(message(cut), "Total section length too long");
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        message(&bytes)
    };
    assert_eq!(changed(0, 0), "Invalid magic");
    assert_eq!(changed(2, 2), "Unsupported version");
    assert_eq!(changed(4, 200), "btf_header not found");
    assert_eq!(changed(24, 9), "[1] Invalid name_offset:9");
    assert_eq!(changed(31, 31), "[1] Invalid kind:31");
    assert_eq!(changed(40, b'x'), "Invalid string section");
    assert_eq!(changed(good.len() - 1, b'x'), "Invalid string section");
    // An integer without its data leaves 4 bytes.
    assert_eq!(
        changed(31, BTF_KIND_STRUCT),
        "[2] meta_left:4 meta_needed:12"
    );
    assert_eq!(message(&Builder::default().finish()), "No type found");
    let longer = [&good[..], &[0]].concat();
    assert_eq!(message(&longer), "Unsupported section found");
}
