//! What bytes from outside can do to us: each function takes any bytes and
//! must come back, without a panic and in bounded time and memory. cargo-fuzz
//! calls them from `fuzz_targets`, and the tests beside them with mutated seeds
//! in every run of the test suite. They know no expected results.

mod attr;
mod bytecode;

use object::ElfFile;
use object::btf::Btf;

pub use attr::bpf_attr;
pub use bytecode::bytecode;

/// An ELF file: everything that can be asked of it.
pub fn elf(data: &[u8]) {
    let Ok(file) = ElfFile::parse(data) else {
        return;
    };
    let (class, machine, kind) = (file.class(), file.machine(), file.kind());
    std::hint::black_box((class, machine, kind, file.is_pie(), file.is_go()));
    std::hint::black_box((file.interpreter(), file.soname(), file.needed().len()));
    for segment in file.segments() {
        std::hint::black_box(segment);
    }
    for symbol in file.symbols().take(LIMIT) {
        std::hint::black_box(file.function_address(symbol.name));
    }
    let functions = file.functions();
    for function in functions.iter().take(LIMIT) {
        std::hint::black_box(functions.at(function.range.start));
        std::hint::black_box(functions.before(function.range.start));
        std::hint::black_box(file.offset_of_address(function.range.start));
    }
    for offset in [0, 1, 0x1000, data.len() as u64, u64::MAX] {
        std::hint::black_box(file.address_of_offset(offset));
        std::hint::black_box(file.file_bytes(offset..offset.saturating_add(16)).len());
    }
    for name in [".BTF", ".BTF.ext", ".note.stapsdt", ".eh_frame", ".text"] {
        std::hint::black_box(file.section(name).map(|(at, bytes)| (at, bytes.len())));
    }
}

/// A type description: every type and every way to look at it.
pub fn btf(data: &[u8]) {
    let Ok(btf) = Btf::parse(data) else {
        return;
    };
    for id in 0..=btf.count().min(LIMIT as u32) {
        let members = btf.get(id).map(|t| t.shape.members().len());
        std::hint::black_box((members, btf.name(id), btf.size(id), btf.resolve(id)));
        std::hint::black_box(btf.resolved(id).1.kind_name());
        std::hint::black_box(btf.tags(id, -1).count());
    }
}

/// Symbols and types that are looked at; there is no end of them in hostile files.
const LIMIT: usize = 1000;
