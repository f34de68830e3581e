//! Writes BTF: for loaders on machines whose kernel does not tell its types, and
//! for tests of those who read it.

use uapi::btf::*;

/// A description under construction.
#[derive(Clone, Debug)]
pub struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            types: Vec::new(),
            strings: vec![0],
            count: 0,
        }
    }
}

impl Builder {
    /// The offset of a string.
    pub fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A record with the words that follow it; its id. `info` is vlen and
    /// `kind_flag` where the kernel has them.
    pub fn raw(&mut self, name: &str, kind: u8, info: u32, word: u32, rest: &[u32]) -> u32 {
        let name = self.string(name);
        let info = info | u32::from(kind) << 24;
        for word in [name, info, word].iter().chain(rest) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    /// A signed integer of `size` bytes.
    pub fn int(&mut self, name: &str, size: u32) -> u32 {
        self.raw(name, BTF_KIND_INT, 0, size, &[(1 << 24) | (size * 8)])
    }

    /// A pointer.
    pub fn ptr(&mut self, to: u32) -> u32 {
        self.raw("", BTF_KIND_PTR, 0, to, &[])
    }

    /// A typedef.
    pub fn typedef(&mut self, name: &str, to: u32) -> u32 {
        self.raw(name, BTF_KIND_TYPEDEF, 0, to, &[])
    }

    /// An array; `index` is an integer type.
    pub fn array(&mut self, element: u32, index: u32, count: u32) -> u32 {
        self.raw("", BTF_KIND_ARRAY, 0, 0, &[element, index, count])
    }

    /// A structure of members {name, type, byte offset}.
    pub fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut words = Vec::new();
        for &(name, ty, offset) in members {
            words.extend([self.string(name), ty, offset * 8]);
        }
        self.raw(name, BTF_KIND_STRUCT, members.len() as u32, size, &words)
    }

    /// A function with its prototype; parameters are {name, type}.
    pub fn func(&mut self, name: &str, global: bool, ret: u32, params: &[(&str, u32)]) -> u32 {
        let mut words = Vec::new();
        for &(name, ty) in params {
            words.extend([self.string(name), ty]);
        }
        let proto = self.raw("", BTF_KIND_FUNC_PROTO, params.len() as u32, ret, &words);
        self.raw(name, BTF_KIND_FUNC, global.into(), proto, &[])
    }

    /// A declaration tag on a type (component -1), parameter or member.
    pub fn tag(&mut self, text: &str, to: u32, component: i32) -> u32 {
        self.raw(text, BTF_KIND_DECL_TAG, 0, to, &[component as u32])
    }

    /// The description.
    pub fn finish(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }
}
