//! The skeleton of an object for guests in C: its bytes, programs, maps and
//! global variables, in the shape of bpftool's skeletons.

use std::fmt::Write;

use object::btf::Shape;

use super::c;
use super::types::{Types, word};

/// What a skeleton is made of.
pub struct Object<'a> {
    /// Its name, a word of C.
    pub name: String,
    /// Its file.
    pub bytes: &'a [u8],
    /// Functions of its programs.
    pub programs: Vec<String>,
    /// Its maps.
    pub maps: Vec<Map>,
}

/// A map.
pub struct Map {
    /// Its name, or that of its section.
    pub name: String,
    /// Its variables, if it is made of such.
    pub variables: Option<Section>,
}

/// A section of variables.
pub struct Section {
    /// Its type.
    pub ty: u32,
    /// Where it lies in the file; 0 for one that is all zeros.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

impl Map {
    /// What C calls it: `.rodata.x` is `rodata_x`.
    fn word(&self) -> String {
        word(self.name.trim_start_matches('.'))
    }
}

/// Bytes of a line of the object.
const LINE: usize = 24;

/// The header, with definitions of all types if `define` asks for them.
pub fn header(object: &Object<'_>, types: Option<&Types<'_>>, define: bool) -> String {
    let name = &object.name;
    let guard = format!("__{}_SKEL_H__", name.to_uppercase());
    let mut text = format!(
        "/* Made by bpftime gen skeleton --wasm: make it again instead of changing it. */\n\
         #ifndef {guard}\n#define {guard}\n\n#include \"libbpf-wasm.h\"\n\n"
    );
    if let (true, Some(types)) = (define, types) {
        text.push_str(&c::definitions(types));
    }
    text.push_str(&structure(object, types));
    text.push_str(&functions(name));
    text.push_str(&tables(object));
    let _ = writeln!(text, "#endif /* {guard} */");
    text
}

fn structure(object: &Object<'_>, types: Option<&Types<'_>>) -> String {
    let name = &object.name;
    let mut text = format!("struct {name} {{\n\tstruct bpf_object_skeleton *skeleton;\n");
    if !object.maps.is_empty() {
        text.push_str("\tstruct {\n");
        for map in &object.maps {
            let _ = writeln!(text, "\t\tstruct bpf_map *{};", map.word());
        }
        text.push_str("\t} maps;\n");
    }
    if !object.programs.is_empty() {
        text.push_str("\tstruct {\n");
        for program in &object.programs {
            let _ = writeln!(text, "\t\tstruct bpf_program *{};", word(program));
        }
        text.push_str("\t} progs;\n");
    }
    let mut sections = String::new();
    let mut assertions = String::new();
    for map in &object.maps {
        let (Some(section), Some(types)) = (&map.variables, types) else {
            continue;
        };
        let tag = format!("{name}__{}", map.word());
        let (members, checks) = variables(types, section, &tag);
        let _ = writeln!(sections, "\tstruct {tag} {{\n{members} *{};", map.word());
        assertions.push_str(&checks);
    }
    let _ = writeln!(text, "{sections}}};\n\n{assertions}");
    text
}

/// A section's variables and closing brace, and assertions about them.
fn variables(types: &Types<'_>, section: &Section, tag: &str) -> (String, String) {
    let (mut members, mut checks) = (String::new(), String::new());
    let btf = types.btf;
    let (mut end, mut pads, mut packed) = (0, 0, false);
    let mut pad = |members: &mut String, bytes: usize| {
        if bytes > 0 {
            let _ = writeln!(members, "\t\tuint8_t __pad{pads}[{bytes}];");
            pads += 1;
        }
    };
    let Some(Shape::DataSec { vars, .. }) = btf.get(section.ty).map(|ty| &ty.shape) else {
        return (members, checks);
    };
    for var in vars {
        let Some(Shape::Var { ty, .. }) = btf.get(var.ty).map(|ty| &ty.shape) else {
            continue;
        };
        let offset = var.offset as usize;
        // Those of functions have a point in their names.
        let name = word(btf.name(var.ty));
        if offset < end {
            continue;
        }
        packed |= !u64::from(var.offset).is_multiple_of(types.align(*ty));
        pad(&mut members, offset - end);
        let (text, behind) = c::spelled(types, *ty, 2);
        let _ = writeln!(members, "\t\t{text} {name}{behind};");
        let _ = writeln!(
            checks,
            "_Static_assert(offsetof(struct {tag}, {name}) == {offset} && \
             sizeof(((struct {tag} *)0)->{name}) == {}, \"{name} of {tag}\");",
            var.size
        );
        end = offset + var.size as usize;
    }
    pad(&mut members, section.size.saturating_sub(end));
    members.push_str(match packed {
        true => "\t} __attribute__((packed))",
        false => "\t}",
    });
    (members, checks)
}

/// What has the same text in every skeleton, but for the name.
fn functions(name: &str) -> String {
    FUNCTIONS.replace("NAME", name)
}

const FUNCTIONS: &str = include_str!("skeleton.h");

/// The function that fills the tables, and the object's bytes.
fn tables(object: &Object<'_>) -> String {
    let name = &object.name;
    let mut text = format!(
        "static inline int {name}__create_skeleton(struct {name} *obj)\n{{\n\
         \tstruct bpf_object_skeleton *s;\n\n\
         \ts = (struct bpf_object_skeleton *)calloc(1, sizeof(*s));\n\
         \tif (!s)\n\t\treturn -ENOMEM;\n\
         \tobj->skeleton = s;\n\ts->sz = sizeof(*s);\n\ts->name = \"{name}\";\n\
         \ts->data = (void *){name}__elf_bytes(&s->data_sz);\n"
    );
    if !object.maps.is_empty() {
        text.push_str(&table("map", object.maps.len()));
    }
    for (index, map) in object.maps.iter().enumerate() {
        let (quoted, word) = (&map.name, map.word());
        let _ = writeln!(text, "\n\ts->maps[{index}].name = \"{quoted}\";");
        let _ = writeln!(text, "\ts->maps[{index}].map = &obj->maps.{word};");
        if let Some(section) = &map.variables {
            let _ = writeln!(
                text,
                "\ts->maps[{index}].mmaped = (void **)&obj->{word};\n\
                 \ts->maps[{index}].data_offset = {};\n\
                 \ts->maps[{index}].data_sz = {};",
                section.offset, section.size
            );
        }
    }
    if !object.programs.is_empty() {
        text.push_str(&table("prog", object.programs.len()));
    }
    for (index, program) in object.programs.iter().enumerate() {
        let _ = writeln!(text, "\n\ts->progs[{index}].name = \"{program}\";");
        let _ = writeln!(
            text,
            "\ts->progs[{index}].prog = &obj->progs.{};",
            word(program)
        );
    }
    text.push_str("\treturn 0;\n}\n\n");
    text.push_str(&bytes(object));
    text
}

fn table(what: &str, count: usize) -> String {
    format!(
        "\n\ts->{what}_cnt = {count};\n\
         \ts->{what}_skel_sz = sizeof(*s->{what}s);\n\
         \ts->{what}s = (struct bpf_{what}_skeleton *)calloc({count}, sizeof(*s->{what}s));\n\
         \tif (!s->{what}s)\n\t\treturn -ENOMEM;\n"
    )
}

fn bytes(object: &Object<'_>) -> String {
    let mut text = format!(
        "static inline const void *{}__elf_bytes(size_t *sz)\n{{\n\
         \tstatic const char data[] __attribute__((__aligned__(8))) =",
        object.name
    );
    for line in object.bytes.chunks(LINE) {
        text.push_str("\n\t\t\"");
        for byte in line {
            let _ = write!(text, "\\x{byte:02x}");
        }
        text.push('"');
    }
    text.push_str(";\n\n\t*sz = sizeof(data) - 1;\n\treturn data;\n}\n\n");
    text
}
