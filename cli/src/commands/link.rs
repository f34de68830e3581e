//! `bpftime link`: what runs where, in the layout of bpftool link.

use std::fmt::Write;

use clap::Subcommand;
use runtime::session::{LinkSpec, SessionView};

use super::chosen::Chosen;
use super::json::{Format, Json};
use super::status::names;
use crate::problem::Problem;

/// Look into the links of running tools
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(visible_alias = "show")]
    List(ListArgs),
}

/// List where programs of running tools are attached
#[derive(clap::Args)]
struct ListArgs {
    /// Only the link with this id
    #[arg(value_name = "LINK")]
    link: Option<u32>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    format: Format,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<(), Problem> {
    match &args.command {
        Command::List(args) => list(args),
    }
}

fn list(args: &ListArgs) -> Result<(), Problem> {
    let mut text = String::new();
    let mut json = args.format.writer();
    let mut count = 0;
    json.array(|json| {
        for view in args.chosen.views() {
            let wanted = |id: &u32| args.link.is_none_or(|link| link == *id);
            for (id, spec) in view.links().into_iter().filter(|(id, _)| wanted(id)) {
                count += 1;
                if args.format.is_json() {
                    write_json(json, &view, id, &spec);
                } else {
                    plain(&mut text, &view, id, &spec);
                }
            }
        }
    });
    if let Some(who) = args.link
        && count == 0
    {
        return Err(Problem::new(
            format_args!("link {who}"),
            "no such link",
            "bpftime link list lists them",
        ));
    }
    if args.format.is_json() {
        text = json.finish();
    }
    super::print(&text)
}

fn plain(text: &mut String, view: &SessionView, id: u32, spec: &LinkSpec) {
    let kind = names::link_kind(spec.kind);
    let pid = match spec.pid {
        1.. => format!("  pid {}", spec.pid),
        _ => String::new(),
    };
    let off = if spec.enabled { "" } else { "  disabled" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{id}: {kind}  prog {}{pid}{off}", spec.prog);
    if !spec.kind.is_of_syscalls() {
        for place in &spec.places {
            let _ = write!(text, "\t{}+{:#x}", spec.path, place.offset);
            if place.cookie != 0 {
                let _ = write!(text, "  cookie {}", place.cookie);
            }
            if place.ref_ctr_offset != 0 {
                let _ = write!(text, "  ref_ctr_offset {:#x}", place.ref_ctr_offset);
            }
            text.push('\n');
        }
    } else if !spec.path.is_empty() {
        let _ = writeln!(text, "\t{}", spec.path);
    }
    let _ = writeln!(text, "\tpids {}({})", view.command(), view.owner().pid);
}

fn write_json(json: &mut Json, view: &SessionView, id: u32, spec: &LinkSpec) {
    json.object(|json| {
        json.bare_member("id", id);
        json.string_member("type", names::link_kind(spec.kind));
        json.bare_member("prog_id", spec.prog);
        json.bare_member("enabled", spec.enabled);
        if spec.pid > 0 {
            json.bare_member("pid", spec.pid);
        }
        json.string_member("path", &spec.path);
        if !spec.kind.is_of_syscalls() {
            json.name("places");
            json.array(|json| {
                for place in &spec.places {
                    json.object(|json| {
                        json.bare_member("offset", place.offset);
                        json.bare_member("cookie", place.cookie);
                        json.bare_member("ref_ctr_offset", place.ref_ctr_offset);
                    });
                }
            });
        }
        json.tool(view);
    });
}
