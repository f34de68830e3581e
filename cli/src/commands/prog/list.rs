//! `bpftime prog list`, in the layout of bpftool prog.

use std::fmt::Write;

use runtime::session::SessionView;
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};
use vm::ProgramSpec;

use super::super::chosen::Chosen;
use super::super::json::{Format, Json};
use super::super::status::names;
use crate::problem::Problem;

/// List the programs of running tools
#[derive(clap::Args)]
pub struct Args {
    /// Only the program with this id or name
    #[arg(value_name = "PROGRAM")]
    program: Option<String>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    format: Format,
}

/// Prints one program, or all.
pub fn run(args: &Args) -> Result<(), Problem> {
    let mut text = String::new();
    let mut json = args.format.writer();
    let mut count = 0;
    json.array(|json| {
        for view in args.chosen.views() {
            for (id, _) in view.programs() {
                let Some(spec) = view.program(id) else {
                    continue;
                };
                if !super::dump::wanted(args.program.as_deref(), id, &spec) {
                    continue;
                }
                count += 1;
                if args.format.is_json() {
                    write_json(json, &view, id, &spec);
                } else {
                    plain(&mut text, &view, id, &spec);
                }
            }
        }
    });
    if let Some(who) = &args.program
        && count == 0
    {
        return Err(Problem::new(
            who,
            "no such program",
            "bpftime prog list lists them",
        ));
    }
    if args.format.is_json() {
        text = json.finish();
    }
    super::super::print(&text)
}

/// Ids of the maps that a program uses, each once.
fn map_ids(spec: &ProgramSpec) -> Vec<u32> {
    let mut ids = Vec::new();
    for insn in &spec.insns {
        let of_map = matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE);
        let id = insn.imm.cast_unsigned();
        if insn.code == BPF_LD | BPF_IMM | BPF_DW && of_map && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

fn plain(text: &mut String, view: &SessionView, id: u32, spec: &ProgramSpec) {
    let kind = names::program_type(spec.prog_type);
    let name = match spec.name.as_str() {
        "" => String::new(),
        name => format!("  name {name}"),
    };
    let gpl = if spec.gpl { "  gpl" } else { "" };
    let maps: Vec<String> = map_ids(spec).iter().map(u32::to_string).collect();
    let maps = match maps.len() {
        0 => String::new(),
        _ => format!("  map_ids {}", maps.join(",")),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{id}: {kind}{name}{gpl}\n\txlated {}B{maps}",
        8 * spec.insns.len(),
    );
    text.push_str(&super::super::chosen::pids(view));
}

fn write_json(json: &mut Json, view: &SessionView, id: u32, spec: &ProgramSpec) {
    json.object(|json| {
        json.bare_member("id", id);
        json.string_member("type", &names::program_type(spec.prog_type));
        if !spec.name.is_empty() {
            json.string_member("name", &spec.name);
        }
        json.bare_member("gpl_compatible", spec.gpl);
        json.bare_member("bytes_xlated", 8 * spec.insns.len());
        json.name("map_ids");
        json.array(|json| map_ids(spec).iter().for_each(|id| json.bare(id)));
        json.tool(view);
    });
}
