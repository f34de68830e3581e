//! The shapes that types have.

/// A type: a name and a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Offset of its name; 0 for none. The text of a tag.
    pub name: u32,
    /// What it is.
    pub shape: Shape,
}

/// What a type is (`BTF_KIND_*`). Numbers that name types are type ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: type id 0.
    Void,
    /// An integer.
    Int {
        /// Its bytes.
        size: u32,
        /// Bits that count.
        bits: u8,
        /// Its first bit.
        offset: u8,
        /// `BTF_INT_SIGNED`, `BTF_INT_CHAR`, `BTF_INT_BOOL`, or 0.
        encoding: u8,
    },
    /// A pointer to a type.
    Ptr(u32),
    /// An array.
    Array {
        /// Type of an element.
        element: u32,
        /// Type of an index.
        index: u32,
        /// Elements.
        count: u32,
    },
    /// A structure.
    Struct {
        /// Its bytes.
        size: u32,
        /// Ascending by offset.
        members: Box<[Member]>,
    },
    /// A union.
    Union {
        /// Its bytes.
        size: u32,
        /// All at offset 0.
        members: Box<[Member]>,
    },
    /// An enumeration.
    Enum {
        /// Its bytes.
        size: u32,
        /// Names and values; a signed value is sign-extended.
        values: Box<[(u32, u64)]>,
    },
    /// A structure or union that is only declared.
    Fwd {
        /// Whether a union.
        union: bool,
    },
    /// Another name, a qualifier or a tag on a type.
    Modifier {
        /// Which.
        kind: Modifier,
        /// The type.
        to: u32,
    },
    /// A function.
    Func {
        /// Its prototype.
        proto: u32,
        /// Whether other objects may call it (`BTF_FUNC_GLOBAL`).
        global: bool,
    },
    /// A prototype.
    FuncProto {
        /// Type of the result; 0 for none.
        ret: u32,
        /// The parameters; the last one has type 0 when more may follow.
        params: Box<[Param]>,
    },
    /// A variable.
    Var {
        /// Its type.
        ty: u32,
        /// Whether it is nobody's but its source's (`BTF_VAR_STATIC`).
        is_static: bool,
    },
    /// A section of variables.
    DataSec {
        /// Its bytes.
        size: u32,
        /// Ascending by offset.
        vars: Box<[SectionVar]>,
    },
    /// A floating point number.
    Float {
        /// Its bytes.
        size: u32,
    },
    /// A tag on a declaration.
    DeclTag {
        /// The type, function or variable it is on.
        to: u32,
        /// The member or parameter, or -1.
        component: i32,
    },
}

/// What stands before a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Modifier {
    Typedef,
    Volatile,
    Const,
    Restrict,
    TypeTag,
}

/// A member of a structure or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset of its name; 0 for none.
    pub name: u32,
    /// Its type.
    pub ty: u32,
    /// Its first bit.
    pub bit: u32,
    /// Bits of a bitfield, or 0.
    pub bits: u8,
}

/// A parameter of a prototype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Offset of its name; 0 for none.
    pub name: u32,
    /// Its type.
    pub ty: u32,
}

/// A variable's place in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionVar {
    /// A [`Shape::Var`].
    pub ty: u32,
    /// Its first byte.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
}

impl Shape {
    /// The kernel's word for the kind.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Shape::Void => "UNKNOWN",
            Shape::Int { .. } => "INT",
            Shape::Ptr(_) => "PTR",
            Shape::Array { .. } => "ARRAY",
            Shape::Struct { .. } => "STRUCT",
            Shape::Union { .. } => "UNION",
            Shape::Enum { .. } => "ENUM",
            Shape::Fwd { .. } => "FWD",
            Shape::Modifier { kind, .. } => match kind {
                Modifier::Typedef => "TYPEDEF",
                Modifier::Volatile => "VOLATILE",
                Modifier::Const => "CONST",
                Modifier::Restrict => "RESTRICT",
                Modifier::TypeTag => "TYPE_TAG",
            },
            Shape::Func { .. } => "FUNC",
            Shape::FuncProto { .. } => "FUNC_PROTO",
            Shape::Var { .. } => "VAR",
            Shape::DataSec { .. } => "DATASEC",
            Shape::Float { .. } => "FLOAT",
            Shape::DeclTag { .. } => "DECL_TAG",
        }
    }

    /// Members of a structure or union.
    pub fn members(&self) -> &[Member] {
        match self {
            Shape::Struct { members, .. } | Shape::Union { members, .. } => members,
            _ => &[],
        }
    }
}
