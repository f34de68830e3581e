//! Which types of an object a guest is given, in which order and by which
//! names. It knows no language.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use object::btf::{Btf, Member, Modifier, SectionVar, Shape};

use super::layout::{Place, Plan};

/// What a program and its user exchange, and all that this is made of.
pub struct Types<'a> {
    /// Their description.
    pub btf: &'a Btf,
    /// Structures, unions and enumerations that have a name, each behind those
    /// that it contains.
    pub order: Vec<u32>,
    /// Whether none was asked for by name.
    all: bool,
    names: HashMap<u32, Name>,
    seen: HashSet<u32>,
    pads: Cell<u32>,
}

/// What a type is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// A word of C.
    pub text: String,
    /// Whether only a typedef names it.
    pub typedef: bool,
    /// Typedefs that name it, too.
    pub others: Vec<String>,
}

impl<'a> Types<'a> {
    /// The types that are asked for by name, or, if none are, those of
    /// variables, and of keys and values of maps.
    ///
    /// # Errors
    /// A name that no type has.
    pub fn new(btf: &'a Btf, wanted: &[String]) -> Result<Types<'a>, String> {
        let roots = match wanted {
            [] => exchanged(btf),
            names => {
                let find = |name: &String| named(btf, name).ok_or_else(|| name.clone());
                names.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        let mut types = Types {
            btf,
            order: Vec::new(),
            all: wanted.is_empty(),
            names: HashMap::new(),
            seen: HashSet::new(),
            pads: Cell::new(0),
        };
        for root in roots {
            types.visit(root);
        }
        Ok(types)
    }

    /// The sections of variables, unless types were asked for by name: name,
    /// bytes and variables.
    pub fn sections(&self) -> Vec<(String, u32, Box<[Member]>)> {
        let ids = (1..=self.btf.count()).filter(|_| self.all);
        let section = |id| match self.btf.get(id).map(|ty| &ty.shape) {
            Some(Shape::DataSec { size, vars }) if is_of_variables(self.btf.name(id)) => {
                let members = vars.iter().filter_map(|var| self.variable(var)).collect();
                let name = word(self.btf.name(id).trim_start_matches('.'));
                Some((name, *size, members))
            }
            _ => None,
        };
        ids.filter_map(section).collect()
    }

    fn variable(&self, var: &SectionVar) -> Option<Member> {
        let found = self.btf.get(var.ty)?;
        match found.shape {
            Shape::Var { ty, .. } => Some(Member {
                name: found.name,
                ty,
                bit: var.offset * 8,
                bits: 0,
            }),
            _ => None,
        }
    }

    /// The name of a structure, union or enumeration that has one.
    pub fn name(&self, id: u32) -> Option<&Name> {
        self.names.get(&id)
    }

    /// A number for bytes that nobody uses; none is given twice, for members of
    /// structures without names are members of those around them.
    pub fn pad(&self) -> u32 {
        self.pads.replace(self.pads.get() + 1)
    }

    /// What a type comes down to: no typedef, no qualifier.
    pub fn resolved(&self, id: u32) -> (u32, &'a Shape) {
        self.btf.resolved(id)
    }

    /// A member's name; empty for none.
    pub fn text(&self, name: u32) -> &'a str {
        self.btf.string(name).unwrap_or("")
    }

    /// Bits of a bitfield, or 0, and its first bit.
    pub fn bits(&self, member: &Member) -> (u64, u64) {
        match self.resolved(member.ty).1 {
            // As compilers wrote bitfields before BTF had a place for their bits.
            Shape::Int {
                size, bits, offset, ..
            } if member.bits == 0 && u32::from(*bits) < size * 8 => {
                (u64::from(member.bit) + u64::from(*offset), u64::from(*bits))
            }
            _ => (u64::from(member.bit), u64::from(member.bits)),
        }
    }

    /// Where a member lies, with the alignment that `align` says of its type.
    pub fn place(&self, member: &Member, align: u64) -> Place {
        let (bit, bits) = self.bits(member);
        Place {
            bit,
            bits,
            size: u64::from(self.btf.size(member.ty).unwrap_or(0)),
            align,
        }
    }

    /// Alignment of a type in C.
    pub fn align(&self, id: u32) -> u64 {
        let (_, shape) = self.resolved(id);
        match shape {
            Shape::Int { size, .. } | Shape::Enum { size, .. } => u64::from(*size).clamp(1, 16),
            Shape::Float { size: 4 } => 4,
            Shape::Float { size: 8 } | Shape::Ptr(_) => 8,
            Shape::Array { element, .. } => self.align(*element),
            Shape::Struct { .. } | Shape::Union { .. } => self.plan(shape).align,
            _ => 1,
        }
    }

    /// How a structure or union is written in C.
    pub fn plan(&self, shape: &Shape) -> Plan {
        let place = |member: &Member| self.place(member, self.align(member.ty));
        let places: Vec<Place> = shape.members().iter().map(place).collect();
        match shape {
            Shape::Union { size, .. } => Plan::union(u64::from(*size), &places),
            Shape::Struct { size, .. } => Plan::structure(u64::from(*size), &places, false),
            _ => Plan::structure(0, &[], false),
        }
    }

    /// A type that guests see, and all that lies in it.
    fn visit(&mut self, id: u32) {
        let mut id = id;
        let mut typedefs = Vec::new();
        while let Some(Shape::Modifier { kind, to }) = self.btf.get(id).map(|ty| &ty.shape) {
            if *kind == Modifier::Typedef {
                typedefs.push(self.btf.name(id).to_owned());
            }
            id = *to;
        }
        let shape = self.resolved(id).1;
        match shape {
            Shape::Array { element, .. } => return self.visit(*element),
            Shape::Struct { .. } | Shape::Union { .. } | Shape::Enum { .. } => {}
            _ => return,
        }
        if self.seen.insert(id) {
            for member in shape.members() {
                self.visit(member.ty);
            }
            self.call(id, typedefs.last());
        }
        let Some(name) = self.names.get_mut(&id) else {
            return;
        };
        let new = |typedef: &String| *typedef != name.text && !name.others.contains(typedef);
        let new: Vec<String> = typedefs.into_iter().filter(new).collect();
        name.others.extend(new);
    }

    /// Gives a type its name, which no other has.
    fn call(&mut self, id: u32, typedef: Option<&String>) {
        let own = self.btf.name(id);
        let text = match (own, typedef) {
            ("", None) => {
                // The constants of an enumeration are wanted even so.
                if matches!(self.resolved(id).1, Shape::Enum { .. }) {
                    self.order.push(id);
                }
                return;
            }
            ("", Some(typedef)) => word(typedef),
            (own, _) => word(own),
        };
        let taken = |text: &str| self.names.values().any(|name| name.text == text);
        let further = (2..).map(|number| format!("{text}__{number}"));
        let mut free = std::iter::once(text.clone()).chain(further);
        let text = free.find(|text| !taken(text)).unwrap_or(text);
        let name = Name {
            text,
            typedef: own.is_empty(),
            others: Vec::new(),
        };
        self.names.insert(id, name);
        self.order.push(id);
    }
}

/// Whether a section becomes a map of variables that guests may see.
pub fn is_of_variables(section: &str) -> bool {
    let base = section
        .strip_prefix('.')
        .and_then(|name| name.split('.').next());
    matches!(base, Some("rodata" | "data" | "bss"))
}

/// A name of another language as a word of C.
pub fn word(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(letter).collect()
}

/// A type by its name.
fn named(btf: &Btf, name: &str) -> Option<u32> {
    btf.find(name, |shape| {
        matches!(
            shape,
            Shape::Struct { .. }
                | Shape::Union { .. }
                | Shape::Enum { .. }
                | Shape::Modifier {
                    kind: Modifier::Typedef,
                    ..
                }
        )
    })
}

/// Types of variables, of what they point to, and of keys and values of maps.
fn exchanged(btf: &Btf) -> Vec<u32> {
    let mut roots = Vec::new();
    for id in 1..=btf.count() {
        let Some(Shape::DataSec { vars, .. }) = btf.get(id).map(|ty| &ty.shape) else {
            continue;
        };
        let maps = btf.name(id) == ".maps";
        for var in vars {
            let Some(Shape::Var { ty, .. }) = btf.get(var.ty).map(|ty| &ty.shape) else {
                continue;
            };
            match maps {
                true => roots.extend(elements(btf, *ty)),
                false => roots.push(pointee(btf, *ty)),
            }
        }
    }
    roots
}

/// Key and value of a map, as libbpf's macros declare them.
fn elements(btf: &Btf, map: u32) -> impl Iterator<Item = u32> {
    let members = btf.resolved(map).1.members();
    let element = |member: &&Member| matches!(btf.string(member.name), Some("key" | "value"));
    members
        .iter()
        .filter(element)
        .map(|member| pointee(btf, member.ty))
}

/// What a pointer, or an array of such, leads to; any other type itself.
fn pointee(btf: &Btf, id: u32) -> u32 {
    match btf.resolved(id).1 {
        Shape::Ptr(to) => *to,
        Shape::Array { element, .. } => pointee(btf, *element),
        _ => id,
    }
}
