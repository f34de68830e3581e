//! What stack walks need to know of the process: the unwind tables of the
//! files that are mapped executable, read while a program asks for stacks. It
//! knows no program and no stack.

use runtime::mapped::Files;
use runtime::unwind::{Module, Tables, nobody_walks};

use crate::maps::Mapping;
use crate::modules::{Image, OWN};

/// The tables that were read.
#[derive(Default)]
pub struct Stacks {
    made: Vec<(Mapping, Option<Module>)>,
    /// Replaced; a walk may still be using them.
    #[expect(clippy::vec_box, reason = "walks have their addresses")]
    replaced: Vec<Box<Tables>>,
    in_use: bool,
}

impl Stacks {
    /// Whether walks use the tables of this process.
    pub fn in_use(&self) -> bool {
        self.in_use
    }

    /// Publishes the tables of what is mapped now, if that has changed.
    pub fn follow(&mut self, image: &Image) {
        self.let_go();
        let known = self.made.iter().map(|(mapping, _)| mapping);
        if self.in_use && known.eq(image.texts()) {
            return;
        }
        self.in_use = true;
        let mut before = std::mem::take(&mut self.made);
        let mut files = Files::default();
        for mapping in image.texts() {
            let known = before.iter().position(|(made, _)| made == mapping);
            let module = match known {
                Some(index) => before.swap_remove(index).1,
                None => mapping.module(OWN, &mut files),
            };
            self.made.push((mapping.clone(), module));
        }
        let modules = self.made.iter().filter_map(|(_, module)| module.clone());
        let tables = Tables::new(modules.collect());
        self.replaced.extend(tables.publish());
    }
    /// No program asks for stacks any more.
    pub fn forget(&mut self) {
        if self.in_use {
            self.in_use = false;
            self.made.clear();
            self.replaced.extend(Tables::default().publish());
        }
        self.let_go();
    }

    fn let_go(&mut self) {
        if !self.replaced.is_empty() && nobody_walks() {
            self.replaced.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mapping_has_its_tables() {
        let image = Image::read().unwrap();
        let mut stacks = Stacks::default();
        stacks.follow(&image);
        assert!(stacks.replaced.is_empty() && stacks.in_use());
        for (mapping, module) in &stacks.made {
            let module = module.as_ref().unwrap_or_else(|| panic!("{mapping:?}"));
            assert!(!module.rows.is_empty(), "{mapping:?}");
            let first = module.bias + u64::from(module.rows[0].start);
            assert!(first < module.text.end, "{mapping:?}");
        }
        let libc = libc::malloc as *const () as u64;
        let offset = libc - image.holding(libc as usize).unwrap().range.start as u64;
        let (_, place) = runtime::unwind::place_in_file(libc).unwrap();
        assert_eq!(place, image.holding(libc as usize).unwrap().offset + offset);
        stacks.follow(&image);
        assert!(stacks.replaced.is_empty(), "nothing has changed");
        stacks.follow(&Image::default());
        assert_eq!((stacks.replaced.len(), nobody_walks()), (1, true));
        stacks.forget();
        assert!(stacks.replaced.is_empty() && !stacks.in_use());
        assert!(runtime::unwind::place_in_file(libc).is_none());
    }
}
