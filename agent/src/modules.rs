//! From a link to addresses: which mappings of this process hold the probed
//! file, and what the file says about its text. It knows no program.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use attach::Module;
use object::ElfFile;
use uapi::Errno;

use crate::maps::{self, Mapping};

/// This process in /proc.
pub const OWN: &str = "self";

/// The executable mappings at one moment, each with its file's identity.
#[derive(Clone, Default, PartialEq)]
pub struct Image {
    mappings: Vec<Mapping>,
    /// By device and inode, both as stat(2) and as the mapping show them.
    by_file: HashMap<(u64, u64), Vec<usize>>,
}

impl Image {
    /// Reads the mappings.
    ///
    /// # Errors
    /// When /proc does not give them.
    pub fn read() -> Result<Image, Errno> {
        let mut image = Image {
            mappings: maps::executable()?,
            by_file: HashMap::new(),
        };
        let mut known: HashMap<&Path, Option<(u64, u64)>> = HashMap::new();
        for (index, mapping) in image.mappings.iter().enumerate() {
            let shown = (mapping.dev, mapping.ino);
            let named = *known
                .entry(&mapping.path)
                .or_insert_with(|| maps::identity(&mapping.path));
            image.by_file.entry(shown).or_default().push(index);
            // A new file of that name has another inode, and is not ours.
            if let Some(named) = named
                && named != shown
                && named.1 == shown.1
            {
                image.by_file.entry(named).or_default().push(index);
            }
        }
        Ok(image)
    }

    /// The mappings of a file.
    pub fn mappings_of(&self, file: (u64, u64)) -> impl Iterator<Item = &Mapping> {
        let indices = self.by_file.get(&file).into_iter().flatten();
        indices.filter_map(|&index| self.mappings.get(index))
    }

    /// All executable file mappings.
    pub fn texts(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter()
    }

    /// The mapping that an address lies in.
    pub fn holding(&self, address: usize) -> Option<&Mapping> {
        self.mappings.iter().find(|m| m.range.contains(&address))
    }

    /// Whether a mapping is of the program itself.
    pub fn is_program(&self, mapping: &Mapping) -> bool {
        // SAFETY: reads what the kernel handed to the process.
        let entry = unsafe { libc::getauxval(libc::AT_ENTRY) } as usize;
        let program = self.holding(entry);
        program.is_some_and(|program| (program.dev, program.ino) == (mapping.dev, mapping.ino))
    }

    /// Whether a mapping is of the program itself or of libc: these are never closed.
    pub fn is_for_life(&self, mapping: &Mapping) -> bool {
        // SAFETY: reads what the kernel handed to the process.
        let entry = unsafe { libc::getauxval(libc::AT_ENTRY) } as usize;
        let in_libc = libc::getauxval as *const () as usize;
        [entry, in_libc].into_iter().any(|address| {
            self.holding(address)
                .is_some_and(|held| (held.dev, held.ino) == (mapping.dev, mapping.ino))
        })
    }

    /// Whether a mapping that was seen before is still there.
    pub fn still_has(&self, mapping: &Mapping) -> bool {
        // Parts of it may have become writable or been split since.
        self.mappings.iter().any(|now| {
            (now.dev, now.ino) == (mapping.dev, mapping.ino)
                && now.range.start <= mapping.range.start
                && now.range.end >= mapping.range.end
        })
    }

    /// All ranges of a file that belong to one load of it: its load bias is `bias`.
    fn text_of(&self, mapping: &Mapping, elf: &ElfFile<'_>, bias: u64) -> Vec<Range<usize>> {
        self.mappings
            .iter()
            .filter(|m| (m.dev, m.ino) == (mapping.dev, mapping.ino))
            .filter(|m| m.bias(elf) == Some(bias))
            .map(|m| m.range.clone())
            .collect()
    }
}

/// Modules made so far; making one reads the whole file.
#[derive(Default)]
pub struct Modules {
    made: Vec<(Mapping, Result<Arc<Module>, String>)>,
}

impl Modules {
    /// The module whose text is in `mapping`, or why there is none.
    pub fn of(&mut self, mapping: &Mapping, image: &Image) -> Result<Arc<Module>, String> {
        if let Some((_, module)) = self.made.iter().find(|(made, _)| made == mapping) {
            return module.clone();
        }
        let module = make(mapping, image);
        self.made.push((mapping.clone(), module.clone()));
        module
    }

    /// Forgets the modules that are not mapped any more; returns their ranges.
    pub fn retain(&mut self, image: &Image) -> Vec<Range<usize>> {
        let mut gone = Vec::new();
        self.made.retain(|(mapping, _)| {
            let stays = image.still_has(mapping);
            if !stays {
                gone.push(mapping.range.clone());
            }
            stays
        });
        gone
    }
}

fn make(mapping: &Mapping, image: &Image) -> Result<Arc<Module>, String> {
    let path = mapping.path.display();
    let bytes = mapping
        .open(OWN)
        .ok_or_else(|| format!("{path} was replaced since it was mapped"))?;
    let elf = ElfFile::parse(&bytes).map_err(|error| format!("{path}: {error}"))?;
    let bias = mapping
        .bias(&elf)
        .ok_or_else(|| format!("{path}: no segment holds its text"))?;
    let text = image.text_of(mapping, &elf, bias);
    Module::new(&bytes, bias, &text)
        .map(Arc::new)
        .map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_module_of_this_program() {
        let image = Image::read().unwrap();
        let here = makes_a_module_of_this_program as *const () as usize;
        let own = maps::identity(Path::new("/proc/self/exe")).unwrap();
        let mapping = image
            .mappings
            .iter()
            .find(|m| m.range.contains(&here))
            .unwrap();
        let offset = mapping.offset + (here - mapping.range.start) as u64;
        let places: Vec<usize> = image
            .mappings_of(own)
            .filter_map(|mapping| mapping.address_of(offset))
            .collect();
        assert_eq!(places, [here]);
        let mut modules = Modules::default();
        assert!(modules.of(mapping, &image).is_ok());
        assert!(modules.retain(&image).is_empty());
        assert_eq!(
            modules.retain(&Image::default()),
            std::slice::from_ref(&mapping.range)
        );
    }

    #[test]
    fn the_bias_agrees_with_the_loader() {
        // SAFETY: dladdr only fills the structure, which outlives the call.
        let base = unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            assert_ne!(libc::dladdr(libc::malloc as *const _, &raw mut info), 0);
            info.dli_fbase as u64
        };
        let image = Image::read().unwrap();
        let address = libc::malloc as *const () as usize;
        let mapping = image
            .mappings
            .iter()
            .find(|m| m.range.contains(&address))
            .unwrap();
        let bytes = mapping.open(OWN).unwrap();
        let elf = ElfFile::parse(&bytes).unwrap();
        assert_eq!(mapping.bias(&elf), Some(base));
    }
}
