//! Global variables of an object, set in its bytes before the load. Knows of ELF
//! what it takes to find a variable by its symbol.

use crate::{Errno, Object, Plain, plain};

/// A section header's bytes, and a symbol's.
const HEADER: usize = 64;
const SYMBOL: usize = 24;
/// `SHT_SYMTAB`.
const SYMBOLS: u32 = 2;
/// `SHT_NOBITS`: a section of zeros that is not in the file.
const ZEROS: u32 = 8;

/// An object whose variables can be set.
#[derive(Debug, Clone)]
pub struct Open {
    bytes: Vec<u8>,
}

/// A section by its header.
struct Section {
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

impl Open {
    /// An object of an object file's bytes.
    pub fn new(bytes: &[u8]) -> Open {
        Open {
            bytes: bytes.to_vec(),
        }
    }

    /// Sets a variable of `.rodata` or `.data`.
    ///
    /// # Errors
    /// ENOENT for an unknown variable, EINVAL for a value of another size or a
    /// variable that is zero in the file (`.bss`; give it a section).
    pub fn set<T: Plain>(&mut self, variable: &str, value: &T) -> Result<(), Errno> {
        let value = plain::bytes(value);
        let (start, size) = self.find(variable).ok_or(Errno::ENOENT)?;
        if size != value.len() {
            return Err(Errno::EINVAL);
        }
        let place = self.bytes.get_mut(start..start + size);
        place.ok_or(Errno::EINVAL)?.copy_from_slice(value);
        Ok(())
    }

    /// Loads it.
    ///
    /// # Errors
    /// EINVAL; the host has told its user why.
    pub fn load(&self) -> Result<Object, Errno> {
        Object::load(&self.bytes)
    }

    /// Where a variable lies in the file, and its bytes.
    fn find(&self, variable: &str) -> Option<(usize, usize)> {
        let table = (0..self.number(60, 2)?)
            .filter_map(|index| self.section(index))
            .find(|section| section.kind == SYMBOLS)?;
        let names = self.section(table.link)?;
        for at in (table.offset..table.offset.checked_add(table.size)?).step_by(SYMBOL) {
            let name = names.offset.checked_add(self.number(at, 4)?)?;
            let name = self.bytes.get(name..)?;
            let rest = name.strip_prefix(variable.as_bytes());
            if rest.and_then(<[u8]>::first) != Some(&0) {
                continue;
            }
            let section = self.section(self.number(at + 6, 2)?)?;
            let (value, size) = (self.number(at + 8, 8)?, self.number(at + 16, 8)?);
            if section.kind == ZEROS {
                return Some((usize::MAX - size, size));
            }
            return Some((section.offset.checked_add(value)?, size));
        }
        None
    }

    fn section(&self, index: usize) -> Option<Section> {
        let header = self
            .number(40, 8)?
            .checked_add(index.checked_mul(HEADER)?)?;
        Some(Section {
            kind: self.number(header + 4, 4)? as u32,
            offset: self.number(header + 24, 8)?,
            size: self.number(header + 32, 8)?,
            link: self.number(header + 40, 4)?,
        })
    }

    /// A number of the file's.
    fn number(&self, at: usize, size: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(size)?)?;
        let value = bytes
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    }
}
