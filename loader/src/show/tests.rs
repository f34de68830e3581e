//! Layouts that users of eunomia-bpf's loader parse.

use object::btf::Btf;
use object::btf::build::Builder;
use serde_json::{Value, json};

use super::elements::{Element, Elements, Form};
use super::{Columns, Steps, Table, Values};

/// Kinds of types (include/uapi/linux/btf.h).
const KIND_INT: u8 = 1;
const KIND_ENUM: u8 = 6;
const KIND_FLOAT: u8 = 16;

const SIGNED: u32 = 1 << 24;
const BOOL: u32 = 4 << 24;

/// Types of a record with everything in it.
struct Types {
    btf: Btf,
    record: u32,
    word: u32,
}

fn types() -> Types {
    let mut b = Builder::default();
    let int = |b: &mut Builder, name: &str, size: u32, encoding: u32| {
        b.raw(name, KIND_INT, 0, size, &[encoding | (size * 8)])
    };
    let u8_ = int(&mut b, "unsigned char", 1, 0);
    let i8_ = int(&mut b, "signed char", 1, SIGNED);
    let char_ = int(&mut b, "char", 1, SIGNED);
    let u16_ = int(&mut b, "unsigned short", 2, 0);
    let u32_ = int(&mut b, "unsigned int", 4, 0);
    let i64_ = int(&mut b, "long", 8, SIGNED);
    let u128_ = int(&mut b, "unsigned __int128", 16, 0);
    let flag = int(&mut b, "_Bool", 1, BOOL);
    let f32_ = b.raw("float", KIND_FLOAT, 0, 4, &[]);
    let word = b.typedef("__u32", u32_);
    let text = b.array(char_, u32_, 8);
    let texts = b.array(text, u32_, 2);
    let row = b.array(u16_, u32_, 2);
    let rows = b.array(row, u32_, 2);
    let none = b.string("NONE");
    let some = b.string("SOME");
    let choice = b.raw("choice", KIND_ENUM, 2, 4, &[none, 0, some, 7]);
    let pair = b.structure("pair", 4, &[("left", word, 0)]);
    let members = [
        ("rows", rows, 0),
        ("name", text, 8),
        ("texts", texts, 16),
        ("f", f32_, 32),
        ("u8v", u8_, 36),
        ("i8v", i8_, 37),
        ("on", flag, 38),
        ("long_named", i64_, 40),
        ("kind", choice, 48),
        ("pair", pair, 52),
        ("big", u128_, 64),
    ];
    let record = b.structure("event", 80, &members);
    let btf = Btf::parse(&b.finish()).expect("good types");
    Types { btf, record, word }
}

fn record() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [1u16, 2, 3, 0xffff] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"a name\0x");
    bytes.extend(b"one\0....");
    bytes.extend(b"two\0....");
    bytes.extend(1.23f32.to_le_bytes());
    bytes.extend([200, 200, 1, 0]);
    bytes.extend((-5i64).to_le_bytes());
    bytes.extend(7u32.to_le_bytes());
    bytes.extend(0xffff_fff0u32.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((1u128 << 100).to_le_bytes());
    bytes
}

#[test]
fn members_lie_below_their_names() {
    let types = types();
    let values = Values {
        btf: &types.btf,
        type_names: true,
    };
    let table = Table::new(&types.btf, types.record);
    assert_eq!(
        table.header(),
        "TIME     ROWS   NAME   TEXTS  F      U8V    I8V    ON     LONG_NAMED KIND   PAIR   BIG    "
    );
    let line = table.line(values, "12:34:56", &record());
    assert_eq!(
        line,
        "12:34:56  [[1,2],[3,65535]] a name [\"one\",\"two\"] 1.2300000190734863 200 -56 true -5 SOME(7) \
         {\"__EUNOMIA_TYPE\":\"struct\",\"__EUNOMIA_TYPE_NAME\":\"pair\",\"left\":4294967280} \
         1267650600228229401496703205376"
    );
    let json = table.columns().json(values, &record());
    assert_eq!(
        Value::Object(json),
        json!({
            "rows": [[1, 2], [3, 65535]], "name": "a name", "texts": ["one", "two"],
            "f": 1.2300000190734863, "u8v": 200, "i8v": -56, "on": true, "long_named": -5,
            "kind": "SOME(7)", "big": "1267650600228229401496703205376",
            "pair": {"__EUNOMIA_TYPE": "struct", "__EUNOMIA_TYPE_NAME": "pair", "left": 4294967280u32},
        })
    );
}

#[test]
fn columns_may_be_the_users() {
    let types = types();
    let values = Values {
        btf: &types.btf,
        type_names: true,
    };
    let part = |name: &str, offset, ty| (name.to_owned(), offset, ty);
    let parts = vec![part("where?", 52, types.word), part("what", 0, types.word)];
    let columns = Columns::custom(&types.btf, parts).expect("they lie apart");
    let table = Table::of(columns);
    assert_eq!(table.header(), "TIME     WHAT   WHERE? ");
    assert_eq!(
        table.line(values, "00:00:00", &record()),
        "00:00:00  131073 4294967280"
    );
    let overlapping = vec![part("a", 0, types.word), part("b", 2, types.word)];
    assert_eq!(
        Columns::custom(&types.btf, overlapping).err().as_deref(),
        Some("b lies in what is before it")
    );
    assert_eq!(
        Columns::custom(&types.btf, vec![part("a", 0, 999)])
            .err()
            .as_deref(),
        Some("a is of type 999, which the object does not have")
    );
}

fn element(key: Value, value: Value) -> Element {
    Element {
        key: key.as_object().cloned().unwrap_or_default(),
        value: value.as_object().cloned().unwrap_or_default(),
    }
}

#[test]
fn elements_are_lines_or_histograms() {
    let types = types();
    let key = Columns::of(&types.btf, types.word);
    let value = Columns::of(&types.btf, types.record);
    let lines = Elements::new(key.clone(), value, Form::KeyValue, "");
    assert!(
        lines
            .header()
            .is_some_and(|header| header.starts_with("TIME     __U32  ROWS   "))
    );
    let counted = element(
        json!({"__u32": 305}),
        json!({"slots": [1, 2], "comm": "work"}),
    );
    assert_eq!(
        lines
            .draw(std::slice::from_ref(&counted), "12:34:56")
            .as_deref(),
        Ok("12:34:56 {\"__u32\":305} {\"comm\":\"work\",\"slots\":[1,2]}\n")
    );

    let parts = |names: &[&str]| {
        let part = |(at, name): (usize, &&str)| ((*name).to_owned(), at as u64 * 4, types.word);
        let parts = names.iter().enumerate().map(part).collect();
        Columns::custom(&types.btf, parts).expect("they lie apart")
    };
    let slots = Elements::new(
        key,
        parts(&["slots", "comm"]),
        Form::Slots(Steps::Log2),
        "(unit)",
    );
    assert_eq!(slots.header(), None);
    assert_eq!(
        slots.draw(&[counted], "").as_deref(),
        Ok("key =  305
comm = work
     (unit)              : count    distribution
         0 -> 1          : 1        |********************                    |
         2 -> 3          : 2        |****************************************|

")
    );
    let steps = Steps::Linear { base: 0, step: 1 };
    let whole = Elements::new(parts(&["slot"]), parts(&["n"]), Form::Slots(steps), "calls");
    let slot = |slot, n| element(json!({ "slot": slot }), json!({ "n": n }));
    assert_eq!(
        whole.draw(&[slot(3, 1), slot(1, 2)], "").as_deref(),
        Ok("     calls         : count     distribution
        1          : 2        |****************************************|
        2          : 0        |                                        |
        3          : 1        |********************                    |
")
    );
    assert_eq!(
        whole
            .draw(&[element(json!({"slot": 1}), json!({"text": "x"}))], "")
            .err()
            .as_deref(),
        Some("is to be a histogram, but has no slots that are counts")
    );
}
