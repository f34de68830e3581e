//! How to find callers: the unwind tables (`.eh_frame`) of a file as a sorted
//! list of plain rows, so that whoever walks a stack neither parses nor
//! allocates. It knows no stack.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, FrameDescriptionEntry, LittleEndian,
    Operation, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, X86_64,
};

use crate::elf::{Class, ElfFile, Machine};

/// How to get from a frame to its caller's, at addresses from `start` up to
/// the next row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Link-time address.
    pub start: u32,
    /// Where the caller's stack pointer will be.
    pub cfa: Cfa,
    /// Where the caller's frame pointer is.
    pub bp: Saved,
}

/// The canonical frame address: the stack pointer that the caller has after
/// the call. The return address is in the word before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cfa {
    /// No description of this code.
    Unknown,
    /// There is no caller.
    Outermost,
    /// A register (DWARF numbers) and an offset.
    Register(u8, i32),
    /// The word at a register and an offset.
    Deref(u8, i32),
    /// In an entry of a procedure linkage table: the stack pointer and 8, or 16
    /// from this offset in the entry on.
    Plt(u8),
    /// A signal handler returns to it: the stack pointer leads to what the
    /// kernel saved (`struct ucontext`).
    Signal,
}

/// Where a register of the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Where it was.
    Same,
    /// In the word at an offset from the canonical frame address.
    AtCfa(i32),
    /// In the word at an offset from the frame pointer.
    AtFrame(i32),
}

/// DWARF's numbers of registers, for [`Cfa`].
pub mod register {
    /// `rbp`.
    pub const FRAME_POINTER: u8 = 6;
    /// `rsp`.
    pub const STACK_POINTER: u8 = 7;
}

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// All rows of a file, by address; none for other processors. What does not
/// parse is left out.
pub fn rows(file: &ElfFile<'_>) -> Vec<Row> {
    let supported = file.machine() == Machine::X86_64 && file.class() == Class::Elf64;
    let Some((address, bytes)) = file.section(".eh_frame").filter(|_| supported) else {
        return Vec::new();
    };
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default()
        .set_eh_frame(address)
        .set_text(file.section(".text").map_or(0, |(address, _)| address));
    let mut context = UnwindContext::new();
    let mut parts = Vec::new();
    let mut entries = section.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let fde = partial.parse(|section, bases, offset| section.cie_from_offset(bases, offset));
        if let Ok(fde) = fde {
            let part = part(&section, &bases, &mut context, &fde);
            parts.extend(part.filter(|part| !part.rows.is_empty()));
        }
    }
    joined(parts)
}

/// The rows of one description.
struct Part {
    end: u32,
    rows: Vec<Row>,
}

fn part(
    section: &EhFrame<Bytes<'_>>,
    bases: &BaseAddresses,
    context: &mut UnwindContext<usize>,
    fde: &FrameDescriptionEntry<Bytes<'_>>,
) -> Option<Part> {
    let end = u32::try_from(fde.end_address()).ok()?;
    let mut table = fde.rows(section, bases, context).ok()?;
    let mut rows: Vec<Row> = Vec::new();
    while let Ok(Some(row)) = table.next_row() {
        let encoding = fde.cie().encoding();
        let operations = |expression: &UnwindExpression<usize>| {
            let mut found = Vec::new();
            let mut operations = expression.get(section).ok()?.operations(encoding);
            while let Ok(Some(operation)) = operations.next() {
                found.push(operation);
            }
            Some(found)
        };
        let cfa = match row.register(X86_64::RA) {
            // `DW_CFA_undefined`: glibc's mark of a thread's first frame.
            Some(RegisterRule::Undefined) => Cfa::Outermost,
            Some(RegisterRule::Offset(-8)) => match row.cfa() {
                CfaRule::RegisterAndOffset { register, offset } => {
                    at(*register, *offset, Cfa::Register).unwrap_or(Cfa::Unknown)
                }
                CfaRule::Expression(expression) => operations(expression)
                    .and_then(|operations| computed(&operations))
                    .unwrap_or(Cfa::Unknown),
            },
            Some(RegisterRule::Expression(saved)) if fde.is_signal_trampoline() => {
                operations(&saved)
                    .filter(|operations| is_saved_ip(operations))
                    .map_or(Cfa::Unknown, |_| Cfa::Signal)
            }
            _ => Cfa::Unknown,
        };
        let bp = match row.register(X86_64::RBP) {
            Some(RegisterRule::Offset(offset)) => {
                i32::try_from(offset).map_or(Saved::Same, Saved::AtCfa)
            }
            Some(RegisterRule::Expression(saved)) => match operations(&saved).as_deref() {
                Some(
                    [
                        Operation::RegisterOffset {
                            register: X86_64::RBP,
                            offset,
                            ..
                        },
                    ],
                ) => i32::try_from(*offset).map_or(Saved::Same, Saved::AtFrame),
                _ => Saved::Same,
            },
            _ => Saved::Same,
        };
        let start = u32::try_from(row.start_address()).ok()?;
        rows.push(Row { start, cfa, bp });
    }
    Some(Part { end, rows })
}

fn at(register: Register, offset: i64, make: fn(u8, i32) -> Cfa) -> Option<Cfa> {
    Some(make(
        u8::try_from(register.0).ok()?,
        i32::try_from(offset).ok()?,
    ))
}

/// The expressions that compilers and linkers write for a frame address.
fn computed(operations: &[Operation<Bytes<'_>>]) -> Option<Cfa> {
    match operations {
        // gcc, where it aligned the stack.
        [
            Operation::RegisterOffset {
                register, offset, ..
            },
            Operation::Deref { .. },
        ] => at(*register, *offset, Cfa::Deref),
        // Linkers: sp + 8 + ((ip & 15) >= n) * 8.
        [
            Operation::RegisterOffset {
                register: X86_64::RSP,
                offset: 8,
                ..
            },
            Operation::RegisterOffset {
                register: X86_64::RA,
                offset: 0,
                ..
            },
            Operation::UnsignedConstant { value: 15 },
            Operation::And,
            Operation::UnsignedConstant { value },
            Operation::Ge,
            Operation::UnsignedConstant { value: 3 },
            Operation::Shl,
            Operation::Plus,
        ] => u8::try_from(*value).ok().map(Cfa::Plt),
        _ => None,
    }
}

/// Is it the `rip` of a `struct ucontext` at the stack pointer?
fn is_saved_ip(operations: &[Operation<Bytes<'_>>]) -> bool {
    matches!(
        operations,
        [Operation::RegisterOffset {
            register: X86_64::RSP,
            offset: 168,
            ..
        }]
    )
}

/// All rows in order, with [`Cfa::Unknown`] for what no description covers.
fn joined(mut parts: Vec<Part>) -> Vec<Row> {
    parts.sort_by_key(|part| part.rows.first().map_or(0, |row| row.start));
    let mut all: Vec<Row> = Vec::new();
    let mut push = |row: Row| {
        let rule = |row: &Row| (row.cfa, row.bp);
        if all.last().map(rule) != Some(rule(&row)) {
            all.push(row);
        }
    };
    let mut starts = parts.iter().skip(1).map(|part| part.rows[0].start);
    for part in &parts {
        let next = starts.next();
        part.rows.iter().copied().for_each(&mut push);
        if next.is_none_or(|next| next > part.end) {
            push(Row {
                start: part.end,
                cfa: Cfa::Unknown,
                bp: Saved::Same,
            });
        }
    }
    all.shrink_to_fit();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(path: &str) -> Vec<Row> {
        let bytes = std::fs::read(path).unwrap();
        rows(&ElfFile::parse(&bytes).unwrap())
    }

    #[test]
    fn libcs_tables_are_whole() {
        let rows = rows_of("/lib/x86_64-linux-gnu/libc.so.6");
        assert!(rows.is_sorted_by_key(|row| row.start));
        let count = |wanted: fn(&Cfa) -> bool| rows.iter().filter(|row| wanted(&row.cfa)).count();
        // __restore_rt; the entry of threads; the linkage table.
        assert_eq!(count(|cfa| *cfa == Cfa::Signal), 1);
        assert!(count(|cfa| *cfa == Cfa::Outermost) >= 1);
        assert!(count(|cfa| matches!(cfa, Cfa::Plt(_))) >= 1);
        let known = count(|cfa| *cfa != Cfa::Unknown);
        let usual = [register::STACK_POINTER, register::FRAME_POINTER];
        let by_usual = rows.iter().filter(
            |row| matches!(row.cfa, Cfa::Register(register, _) if usual.contains(&register)),
        );
        assert!(known > 10_000 && by_usual.count() > known * 99 / 100);
    }

    #[test]
    fn the_build_id_is_readelfs() {
        let path = "/lib/x86_64-linux-gnu/libc.so.6";
        let bytes = std::fs::read(path).unwrap();
        let id = ElfFile::parse(&bytes)
            .unwrap()
            .build_id()
            .map(<[u8]>::to_vec);
        let text: String = id
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let said = std::process::Command::new("readelf")
            .args(["-n", path])
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("Build ID: {text}")));
    }

    #[test]
    fn a_function_moves_its_frame() {
        let rows = rows_of("/proc/self/exe");
        let pushed = |pair: &[Row]| {
            pair[0].cfa == Cfa::Register(register::STACK_POINTER, 8)
                && pair[1].cfa == Cfa::Register(register::STACK_POINTER, 16)
                && pair[1].bp == Saved::AtCfa(-16)
        };
        assert!(rows.windows(2).any(pushed), "push rbp");
    }
}
