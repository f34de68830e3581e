//! `bpftime link`: what runs where, in the layout of bpftool link.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Subcommand;
use runtime::session::{LinkSpec, ObjectKind, SessionView};

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
    Pin(PinArgs),
    Detach(DetachArgs),
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
        Command::Pin(args) => pin(args),
        Command::Detach(args) => detach(args),
    }
}

/// Name a link in /sys/fs/bpf: it goes on when its tool ends
#[derive(clap::Args)]
struct PinArgs {
    /// Its id
    #[arg(value_name = "LINK")]
    link: u32,
    /// A path below /sys/fs/bpf
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    chosen: Chosen,
}

/// Say what ends a link: those of user space cannot be detached, as in the kernel
#[derive(clap::Args)]
struct DetachArgs {
    /// Its id
    #[arg(value_name = "LINK")]
    link: u32,
    #[command(flatten)]
    chosen: Chosen,
}

/// The session of a link.
fn find(chosen: Chosen, link: u32) -> Result<SessionView, Problem> {
    let views = chosen.views().into_iter();
    let mut found = views.filter(|view| view.has(link, ObjectKind::Link));
    found.next().ok_or_else(|| {
        Problem::new(
            format_args!("link {link}"),
            "no such link",
            "bpftime link list lists them",
        )
    })
}

fn pin(args: &PinArgs) -> Result<(), Problem> {
    let view = find(args.chosen, args.link)?;
    if view.link_type(args.link).is_none() {
        return Err(Problem::new(
            format_args!("link {}", args.link),
            "is a perf event with a program, which no name keeps",
            "have the tool make a link",
        ));
    }
    super::pin::pin(&view, ObjectKind::Link, args.link, &args.path)
}

fn detach(args: &DetachArgs) -> Result<(), Problem> {
    let view = find(args.chosen, args.link)?;
    let advice = match view.owner().pid {
        0 => "remove its pin by bpftime exec rm /sys/fs/bpf/NAME".to_owned(),
        pid => format!("end {} (process {pid}) and remove its pins", view.command()),
    };
    Err(Problem::new(
        format_args!("link {}", args.link),
        "cannot be detached, as no link of its kind can",
        advice,
    ))
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
    text.push_str(&super::chosen::pids(view));
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
