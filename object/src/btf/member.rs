//! Where the members of a structure lie, by their names.

use super::{Btf, Shape};

/// Structures without a name within one another.
const MAX_DEPTH: usize = 16;

impl Btf {
    /// First byte and type of the member that `path` leads to from a structure
    /// or union: names of members within members, where an array counts as its
    /// first element. `None` for what is not there or a bitfield.
    pub fn member(&self, structure: u32, path: &[&str]) -> Option<(u32, u32)> {
        let (mut at, mut ty) = (0u32, structure);
        for name in path {
            let (bit, found) = self.named(self.element(ty), name, 0)?;
            at = at.checked_add(bit / 8)?;
            ty = found;
        }
        Some((at, ty))
    }

    /// The type of a first element, for arrays.
    fn element(&self, ty: u32) -> u32 {
        match self.resolved(ty) {
            (_, &Shape::Array { element, .. }) => element,
            (id, _) => id,
        }
    }

    /// First bit and type of a member, also of structures without a name.
    fn named(&self, structure: u32, name: &str, depth: usize) -> Option<(u32, u32)> {
        let members = self.resolved(structure).1.members();
        members.iter().find_map(|member| {
            if member.bits == 0 && self.string(member.name) == Some(name) {
                return Some((member.bit, member.ty));
            }
            if member.name != 0 || depth == MAX_DEPTH {
                return None;
            }
            let (bit, ty) = self.named(member.ty, name, depth + 1)?;
            Some((member.bit.checked_add(bit)?, ty))
        })
    }
}
