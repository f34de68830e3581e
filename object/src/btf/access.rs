//! What lies at an offset of a structure (kernel: `btf_struct_walk`,
//! kernel/bpf/btf.c). It knows no pointer's target.

use uapi::Errno;

use super::{Btf, BtfError, Member, Modifier, Shape};

/// What some bytes of a structure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Numbers.
    Scalar,
    /// A whole pointer to something that is no structure.
    Memory,
    /// A whole pointer to a structure.
    Pointer {
        /// The structure's type id.
        to: u32,
        /// The space that the pointer's type is tagged with.
        space: Space,
        /// Whether it shares its bytes with other members of a union.
        shared: bool,
    },
}

/// Where a tagged pointer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the tags' names")]
pub enum Space {
    Kernel,
    User,
    Percpu,
    Rcu,
}

/// Structures in each other, at most; checked ones contain no circle.
const MAX_DEPTH: usize = 64;

impl Btf {
    /// What `size` bytes at `off` of the structure `id` are, for reading.
    ///
    /// # Errors
    /// EACCES or EINVAL in the kernel's words for bytes that are no field.
    pub fn field(&self, id: u32, off: u32, size: u32) -> Result<Field, BtfError> {
        let (mut id, mut off) = (self.resolve(id), u64::from(off));
        let size = u64::from(size);
        let mut shared = false;
        for _ in 0..MAX_DEPTH {
            let bytes = match self.get(id).map(|ty| &ty.shape) {
                Some(Shape::Struct { size, .. }) => *size,
                Some(Shape::Union { size, members }) => {
                    shared |= members.len() != 1;
                    *size
                }
                _ => {
                    let text = format!("Type '{}' is not a struct", self.name(id));
                    return Err(BtfError::new(Errno::EINVAL, text));
                }
            };
            if off + size > u64::from(bytes) {
                match self.flexible(id, off) {
                    Some(Behind::Numbers) => return Ok(Field::Scalar),
                    Some(Behind::Structure { element, at }) => {
                        (id, off) = (element, at);
                        continue;
                    }
                    None => {
                        let name = self.name(id);
                        let text = format!("access beyond struct {name} at off {off} size {size}");
                        return Err(BtfError::new(Errno::EACCES, text));
                    }
                }
            }
            match self.member_at(id, off, size, shared)? {
                Found::Scalar => return Ok(Field::Scalar),
                Found::Memory => return Ok(Field::Memory),
                Found::Pointer { to, space } => return Ok(Field::Pointer { to, space, shared }),
                Found::Inside { structure, at } => (id, off) = (structure, at),
            }
        }
        Err(BtfError::new(Errno::EINVAL, "structures nest too deep"))
    }

    fn member_at(&self, id: u32, off: u64, size: u64, shared: bool) -> Result<Found, BtfError> {
        let members = self.get(id).map_or(&[][..], |ty| ty.shape.members());
        for member in members {
            let start = u64::from(member.bit / 8);
            if off + size <= start {
                break;
            }
            if member.bits != 0 {
                let end = u64::from(member.bit + u32::from(member.bits)).div_ceil(8);
                if off <= start && end <= off + size {
                    return Ok(Found::Scalar);
                }
                continue;
            }
            if off < start {
                break;
            }
            let Some(bytes) = self.size(member.ty) else {
                continue;
            };
            let end = start + u64::from(bytes);
            if off < end {
                // In a union, another member may be meant.
                let end = if shared { u64::MAX } else { end };
                return self.inside(id, member, off, size, end);
            }
        }
        let text = format!(
            "struct {} doesn't have field at offset {off}",
            self.name(id)
        );
        Err(BtfError::new(Errno::EINVAL, text))
    }

    /// An access that begins in a member that ends at `end`.
    fn inside(
        &self,
        id: u32,
        member: &Member,
        off: u64,
        size: u64,
        end: u64,
    ) -> Result<Found, BtfError> {
        let mut start = u64::from(member.bit / 8);
        let mut ty = self.resolve(member.ty);
        while let Some(Shape::Array { element, .. }) = self.get(ty).map(|ty| &ty.shape) {
            ty = self.resolve(*element);
        }
        let bytes = u64::from(self.size(ty).unwrap_or(0)).max(1);
        // The element of an array, or the member itself.
        start += (off - start) / bytes * bytes;
        let (name, member_name) = (self.name(id), self.string(member.name).unwrap_or(""));
        match self.get(ty).map(|ty| &ty.shape) {
            Some(Shape::Struct { .. } | Shape::Union { .. }) => {
                return Ok(Found::Inside {
                    structure: ty,
                    at: off - start,
                });
            }
            Some(Shape::Ptr(_)) if bytes != size || off != start => {
                let text = format!(
                    "cannot access ptr member {member_name} with moff {start} in struct {name} with off {off} size {size}"
                );
                return Err(BtfError::new(Errno::EACCES, text));
            }
            Some(Shape::Ptr(to)) => {
                let (target, shape) = self.resolved(*to);
                if !matches!(shape, Shape::Struct { .. } | Shape::Union { .. }) {
                    return Ok(Found::Memory);
                } else {
                    return Ok(Found::Pointer {
                        to: target,
                        space: self.space(*to),
                    });
                }
            }
            _ => {}
        }
        if off + size > end {
            let text = format!(
                "access beyond the end of member {member_name} (mend:{end}) in struct {name} with off {off} size {size}"
            );
            return Err(BtfError::new(Errno::EACCES, text));
        }
        Ok(Found::Scalar)
    }

    /// What lies behind the end of a structure whose last member is an array
    /// without length.
    fn flexible(&self, id: u32, off: u64) -> Option<Behind> {
        let last = self.get(id)?.shape.members().last()?;
        let start = u64::from(last.bit / 8);
        let Shape::Array {
            element, count: 0, ..
        } = self.resolved(last.ty).1
        else {
            return None;
        };
        let element = self.resolve(*element);
        match &self.get(element)?.shape {
            _ if off < start => None,
            Shape::Int { .. } => Some(Behind::Numbers),
            Shape::Struct { size, .. } | Shape::Union { size, .. } if *size != 0 => {
                let at = (off - start) % u64::from(*size);
                Some(Behind::Structure { element, at })
            }
            _ => None,
        }
    }

    /// The space that the first tag of a pointer's target names.
    fn space(&self, id: u32) -> Space {
        match self.get(id) {
            Some(ty) => match ty.shape {
                Shape::Modifier {
                    kind: Modifier::TypeTag,
                    ..
                } => match self.string(ty.name) {
                    Some("user") => Space::User,
                    Some("percpu") => Space::Percpu,
                    Some("rcu") => Space::Rcu,
                    _ => Space::Kernel,
                },
                _ => Space::Kernel,
            },
            None => Space::Kernel,
        }
    }
}

enum Found {
    Scalar,
    Memory,
    Pointer { to: u32, space: Space },
    Inside { structure: u32, at: u64 },
}

enum Behind {
    Numbers,
    Structure { element: u32, at: u64 },
}

#[cfg(test)]
mod tests {
    use super::super::build::Builder;
    use super::*;

    fn words(field: Result<Field, BtfError>) -> String {
        field.map_or_else(|error| error.text, |field| format!("{field:?}"))
    }

    #[test]
    fn fields_of_a_structure() {
        let mut types = Builder::default();
        let int = types.int("int", 4);
        let inner = types.structure("inner", 8, &[("a", int, 0), ("b", int, 4)]);
        let to_inner = types.ptr(inner);
        let to_int = types.ptr(int);
        let four = types.array(inner, int, 4);
        let rest = types.array(int, int, 0);
        let outer = types.structure(
            "outer",
            64,
            &[
                ("x", int, 0),
                ("p", to_inner, 8),
                ("q", to_int, 16),
                ("list", four, 24),
                ("rest", rest, 64),
            ],
        );
        let btf = Btf::parse(&types.finish()).expect("valid types");
        let at = |off, size| words(btf.field(outer, off, size));
        let pointer = format!(
            "{:?}",
            Field::Pointer {
                to: inner,
                space: Space::Kernel,
                shared: false
            }
        );
        assert_eq!(at(0, 4), "Scalar");
        assert_eq!(at(1, 2), "Scalar");
        assert_eq!(
            at(0, 8),
            "access beyond the end of member x (mend:4) in struct outer with off 0 size 8"
        );
        assert_eq!(at(4, 4), "struct outer doesn't have field at offset 4");
        assert_eq!(at(8, 8), pointer);
        assert_eq!(
            at(8, 4),
            "cannot access ptr member p with moff 8 in struct outer with off 8 size 4"
        );
        assert_eq!(at(16, 8), "Memory");
        assert_eq!(at(44, 4), "Scalar");
        assert_eq!(at(44, 8), "access beyond struct inner at off 4 size 8");
        // The array without length goes on behind the end.
        assert_eq!(at(64, 4), "Scalar");
        assert_eq!(at(4000, 8), "Scalar");
    }
}
