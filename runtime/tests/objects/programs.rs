//! Programs whose results say what dynptrs and iterators do. They put numbers
//! at the start of the array's value; its second half is memory to work on.
//! They know no expected number: the kernel does.

use std::fmt::Write;

/// A name and the program's text.
pub type Case = (String, String);

/// `register` = the frame pointer and `off`.
fn at(register: &str, off: i32) -> String {
    format!("{register} = r10\n{register} += {off}\n")
}

/// Result number `place`.
fn keep(place: usize, register: &str) -> String {
    format!(
        "r9 = map_value[1]\n*(u64 *)(r9 + {}) = {register}\n",
        8 * place
    )
}

/// Call on the object at `off`.
fn on(off: i32, call: &str) -> String {
    at("r1", off) + &format!("call {call}\n")
}

/// What is behind r0, or 1, as result number `place`.
fn look(place: usize) -> String {
    let text =
        format!("r8 = 1\nif r0 == 0 goto null{place}\nr8 = *(u64 *)(r0 + 0)\nnull{place}:\n");
    text + &keep(place, "r8")
}

/// Memory that tells one byte from another.
fn fill() -> String {
    (0..8u64).fold(String::from("r9 = map_value[1]\n"), |mut text, word| {
        let bytes = 0x1112_1314_1516_1718 + word * 0x0808_0808_0808_0808;
        let place = 64 + 8 * word;
        let _ = writeln!(text, "r8 = {bytes} ll\n*(u64 *)(r9 + {place}) = r8");
        text
    })
}

/// A dynptr at -16 of `len` bytes from `start` of that memory on.
fn dynptr(start: u32, len: u32, flags: u32) -> String {
    let memory = format!(
        "r1 = map_value[1] + {}\nr2 = {len}\nr3 = {flags}\n",
        64 + start
    );
    fill() + &memory + &at("r4", -16) + "call 197\n"
}

/// What the dynptr at -16 says of itself; of a `bool` only a byte counts.
fn ask(place: usize) -> String {
    let bool = "w0 &= 255\n";
    let asks = [
        ("bpf_dynptr_is_null", bool),
        ("bpf_dynptr_is_rdonly", bool),
        ("bpf_dynptr_size", ""),
    ];
    let asks = asks.iter().zip(place..);
    asks.map(|((name, mask), place)| on(-16, name) + mask + &keep(place, "r0"))
        .collect()
}

fn read(offset: u64, len: u32, flags: u32) -> String {
    let rest = format!("r4 = {offset} ll\nr5 = {flags}\ncall 201\n");
    at("r1", -32) + &format!("r2 = {len}\n") + &at("r3", -16) + &rest
}

fn write(offset: u64, len: u32, flags: u32) -> String {
    let rest = format!("r4 = {len}\nr5 = {flags}\ncall 202\n");
    at("r1", -16) + &format!("r2 = {offset} ll\n") + &at("r3", -32) + &rest
}

fn data(offset: u64, len: u32) -> String {
    at("r1", -16) + &format!("r2 = {offset} ll\nr3 = {len}\ncall 203\n")
}

fn slice(offset: u64, len: u32) -> String {
    let rest = format!("r2 = {offset} ll\nr3 = 0\nr4 = {len}\ncall bpf_dynptr_slice\n");
    at("r1", -16) + &rest
}

fn adjust(start: u64, end: u64) -> String {
    let rest = format!("r2 = {start} ll\nr3 = {end} ll\ncall bpf_dynptr_adjust\n");
    at("r1", -16) + &rest
}

fn copy() -> String {
    at("r1", -16) + &at("r2", -32) + "call bpf_dynptr_clone\n"
}

/// A dynptr at -16 of a record.
fn reserve(size: u32, flags: u32) -> String {
    format!("r1 = map[2]\nr2 = {size}\nr3 = {flags}\n") + &at("r4", -16) + "call 198\n"
}

/// Submits (199) or discards (200) the record behind a dynptr.
fn commit(off: i32, helper: u32) -> String {
    at("r1", off) + &format!("r2 = 0\ncall {helper}\n")
}

/// What `bpf_ringbuf_query` says.
fn query(what: u32, place: usize) -> String {
    format!("r1 = map[2]\nr2 = {what}\ncall 134\n") + &keep(place, "r0")
}

/// Goes over an iterator that `new` makes of what the arguments say.
fn iterate(iterator: &str, slots: i32, arguments: &str) -> String {
    let off = -8 * slots;
    let call = |step: &str| on(off, &format!("bpf_iter_{iterator}_{step}"));
    let new = at("r1", off) + arguments + &format!("call bpf_iter_{iterator}_new\n");
    let body = "if r0 == 0 goto done\nr1 = *(s32 *)(r0 + 0)\nr6 *= 31\nr6 += r1\nr7 += 1\n";
    // Not to their end: nobody waits for 8 million.
    let end = "if r1 != 5000 goto again\ndone:\n";
    let results = keep(1, "r6") + &keep(2, "r7");
    let begin = new + &keep(0, "r0") + "r6 = 0\nr7 = 0\nagain:\n" + &call("next");
    fill() + &begin + body + end + &call("destroy") + &results
}

fn iterators() -> Vec<Case> {
    let mut cases = Vec::new();
    let ranges = [
        (0, 10),
        (-5, 5),
        (5, 5),
        (6, 5),
        (0, 8 << 20),
        (0, (8 << 20) + 1),
        (i32::MAX - 7, i32::MAX),
        (i32::MIN, i32::MIN + 8),
    ];
    for (start, end) in ranges {
        let text = iterate("num", 1, &format!("r2 = {start}\nr3 = {end}\n"));
        cases.push((format!("numbers from {start} to {end}"), text));
    }
    let memory = "r2 = map_value[1] + 64\n";
    for (from, words) in [
        (memory, 0),
        (memory, 1),
        (memory, 2),
        (memory, 8),
        (memory, 512),
        ("r2 = 0\n", 1),
        ("r2 = 16\n", 1),
    ] {
        let text = iterate("bits", 2, &format!("{from}r3 = {words}\n"));
        cases.push((format!("bits of {words} words, {from}"), text));
    }
    let mut text = at("r1", -8) + "r2 = 0\nr3 = 1\ncall bpf_iter_num_new\n";
    for place in 0..3 {
        text += &on(-8, "bpf_iter_num_next");
        text += &format!("r6 = 1\nif r0 == 0 goto null{place}\nr6 = *(u32 *)(r0 + 0)\n");
        text += &format!("r6 += 100\nnull{place}:\n{}", keep(place, "r6"));
    }
    text += &on(-8, "bpf_iter_num_destroy");
    cases.push(("an iterator stays at its end".to_owned(), text));
    cases
}

fn accesses() -> Vec<Case> {
    let mut cases = Vec::new();
    let word = "r8 = 0x7172737475767778 ll\n*(u64 *)(r10 - 32) = r8\n";
    for (offset, len, flags) in [
        (0, 8, 0),
        (3, 8, 0),
        (56, 8, 0),
        (57, 8, 0),
        (64, 8, 0),
        (64, 0, 0),
        (65, 0, 0),
        (0, 8, 1),
        (0xffff_ffff, 8, 0),
        (0x1_0000_0008, 8, 0),
    ] {
        let name = format!("{len} bytes at {offset:#x}, flags {flags}");
        let from = dynptr(0, 64, 0) + word + &read(offset, len, flags) + &keep(0, "r0");
        let found = "r8 = *(u64 *)(r10 - 32)\n".to_owned() + &keep(1, "r8");
        cases.push((format!("read {name}"), from + &found));
        let to = dynptr(0, 64, 0) + word + &write(offset, len, flags) + &keep(0, "r0");
        cases.push((format!("write {name}"), to));
    }
    let places = [0, 8, 56, 57, 0xffff_ffff, 0x1_0000_0000];
    for (name, way) in [("data", data as fn(u64, u32) -> String), ("slices", slice)] {
        let mut text = dynptr(0, 64, 0);
        for (place, offset) in places.into_iter().enumerate() {
            text += &(way(offset, 8) + &look(place));
        }
        cases.push((name.to_owned(), text));
    }
    for (to, from, len) in [(8, 0, 40), (0, 8, 40), (3, 1, 20), (1, 3, 20), (0, 0, 64)] {
        let target = format!("r1 = map_value[1] + {}\nr2 = {len}\n", 64 + to);
        let text = dynptr(from, len, 0) + &target + &at("r3", -16);
        let text = text + "r4 = 0\nr5 = 0\ncall 201\n" + &keep(0, "r0");
        cases.push((format!("read of {len} bytes from {from} over {to}"), text));
    }
    cases
}

fn views() -> Vec<Case> {
    let mut cases = Vec::new();
    for (len, flags) in [(64, 0), (0, 0), (64, 1)] {
        let text = dynptr(0, len, flags) + &keep(0, "r0") + &ask(1);
        cases.push((format!("dynptr of {len}, flags {flags}"), text));
        let text = dynptr(0, len, flags) + &copy() + &keep(0, "r0") + &adjust(0, 0);
        let other = on(-32, "bpf_dynptr_size") + &keep(4, "r0");
        cases.push((
            format!("copy of {len}, flags {flags}"),
            text + &ask(1) + &other,
        ));
    }
    for (start, end) in [
        (0, 64),
        (8, 16),
        (16, 8),
        (8, 65),
        (65, 65),
        (64, 64),
        (0x1_0000_0008, 0x1_0000_0010),
    ] {
        let text = dynptr(0, 64, 0) + &adjust(start, end) + &keep(0, "r0") + &ask(1);
        let text = text + &data(0, 8) + &look(4) + &data(1, 8) + &look(5);
        let twice = adjust(2, 4) + &keep(6, "r0") + &on(-16, "bpf_dynptr_size") + &keep(7, "r0");
        cases.push((format!("adjusted to {start:#x} {end:#x}"), text + &twice));
    }
    cases
}

fn records() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, flags) in [
        (8, 0),
        (0, 0),
        (8, 1),
        (4080, 0),
        (4088, 0),
        ((1 << 24) - 1, 0),
        (1 << 24, 0),
    ] {
        let text = reserve(size, flags) + &keep(0, "r0") + &ask(1) + &commit(-16, 199);
        let text = text + &query(0, 4) + &query(3, 5);
        cases.push((format!("record of {size}, flags {flags}"), text));
    }
    let word = "*(u64 *)(r10 - 32) = 5\n";
    let text = reserve(8, 0) + word + &write(0, 8, 0) + &keep(0, "r0");
    let again = text.clone() + &data(0, 8) + &look(1) + &commit(-16, 200) + &query(0, 2);
    cases.push(("record discarded".to_owned(), again));
    let text = reserve(8, 0) + &copy() + &keep(0, "r0") + &commit(-32, 199);
    cases.push(("copy submitted".to_owned(), text + &query(0, 1)));
    cases
}

/// All of them.
pub fn all() -> Vec<Case> {
    let cases = [iterators(), accesses(), views(), records()];
    let finish = |(name, text): Case| (name, text + "r0 = 7\nexit\n");
    cases.into_iter().flatten().map(finish).collect()
}
