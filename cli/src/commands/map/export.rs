//! `bpftime map export`: the elements of a map as a table for spreadsheets
//! and scripts.

use object::btf::{Btf, Shape};

use super::super::chosen::Chosen;
use super::super::json::Json;
use super::entry::hex;
use super::found::Found;
use super::typed::{Typed, number};
use super::walk::Walk;
use crate::problem::Problem;

/// Print a map as CSV
///
/// One line for each element (and CPU, for maps with a value for each); one
/// column for each member of key and value when the tool described them
/// (BTF), else their bytes. The first line names the columns.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An id, a name, id ID or name NAME
    #[arg(value_name = "MAP", required = true)]
    map: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
}

const EXAMPLES: &str = "\
Example:
  bpftime map export counts > counts.csv";

/// Prints the table.
pub fn run(args: &Args) -> Result<(), Problem> {
    let mut words = &args.map[..];
    let map = Found::one(args.chosen, &mut words)?;
    if let [extra, ..] = words {
        return Err(map.problem(
            format_args!("nothing can follow it, got: {extra}"),
            "name one map",
        ));
    }
    let walk = Walk::of(&map)?;
    let btf = map.btf();
    let key = Columns::of(btf.as_ref(), "key", map.spec.btf_key_type_id);
    let value = Columns::of(btf.as_ref(), "value", map.spec.btf_value_type_id);
    let cpu = map.per_cpu().then(|| "cpu".to_owned());
    let head: Vec<String> = key.names().chain(cpu).chain(value.names()).collect();
    let mut text = line(&head);
    for (key_bytes, value_bytes) in walk {
        for (cpu, copy) in map.values(&value_bytes).enumerate() {
            let cpu = map.per_cpu().then(|| cpu.to_string());
            let cells: Vec<String> = key
                .cells(&key_bytes)
                .into_iter()
                .chain(cpu)
                .chain(value.cells(copy))
                .collect();
            text.push_str(&line(&cells));
        }
    }
    super::super::print(&text)
}

/// The columns of a key or a value.
struct Columns<'a> {
    btf: Option<&'a Btf>,
    all: Vec<Column>,
}

struct Column {
    name: String,
    ty: u32,
    /// Its first bit.
    bit: u32,
    /// Bits of a bitfield, or 0.
    bits: u8,
}

impl<'a> Columns<'a> {
    fn of(btf: Option<&'a Btf>, name: &str, ty: u32) -> Columns<'a> {
        let btf = btf.filter(|_| ty != 0);
        let mut all = Vec::new();
        let whole = Column {
            name: name.to_owned(),
            ty,
            bit: 0,
            bits: 0,
        };
        match btf {
            Some(btf) => flatten(btf, &mut all, whole),
            None => all.push(whole),
        }
        Columns { btf, all }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|column| column.name.clone())
    }

    fn cells(&self, bytes: &[u8]) -> Vec<String> {
        let Some(btf) = self.btf else {
            return vec![hex(bytes)];
        };
        let typed = Typed { btf, plain: true };
        let cell = |column: &Column| {
            if column.bits > 0 {
                return number(bytes, column.bit, u32::from(column.bits)).to_string();
            }
            let mut json = Json::new(false);
            let from = bytes.get(column.bit as usize / 8..).unwrap_or_default();
            typed.write(&mut json, column.ty, from);
            let text = json.finish();
            let text = text.trim_end();
            let unquoted = text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'));
            unquoted.unwrap_or(text).to_owned()
        };
        self.all.iter().map(cell).collect()
    }
}

/// A column for each member of structures; other types are one column.
fn flatten(btf: &Btf, columns: &mut Vec<Column>, column: Column) {
    let (_, shape) = btf.resolved(column.ty);
    let Shape::Struct { members, .. } = shape else {
        return columns.push(column);
    };
    for member in members {
        let own = btf.string(member.name).unwrap_or("");
        let member = Column {
            name: match own {
                "" => column.name.clone(),
                own => format!("{}.{own}", column.name),
            },
            ty: member.ty,
            bit: column.bit + member.bit,
            bits: member.bits,
        };
        match member.bits {
            0 => flatten(btf, columns, member),
            _ => columns.push(member),
        }
    }
}

/// A line of RFC 4180, with a Unix line break.
fn line(cells: &[String]) -> String {
    let quoted = cells
        .iter()
        .map(|cell| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.clone(),
        });
    let mut text = quoted.collect::<Vec<_>>().join(",");
    text.push('\n');
    text
}
