//! Milliseconds from the start of a tool until its programs are attached: ours
//! as an ordinary user, the kernel's as root, in turn, with the same headers.

use anyhow::Result;
use tests::World;

use crate::report::Startup;
use crate::tool::Tool;
use crate::{Worlds, best, is_wanted, median};

/// Name, command line and what it shows when it has attached; `{victim}` is a
/// program of the world's own.
const TOOLS: [(&str, &[&str], &str); 5] = [
    (
        "bcc funccount",
        &["funccount-bpfcc", "{victim}:v_push"],
        "Tracing",
    ),
    ("bcc opensnoop", &["opensnoop-bpfcc"], "PATH"),
    (
        "bpftrace, uprobe",
        &[
            "bpftrace",
            "-q",
            "-e",
            "uprobe:{victim}:v_push { @ = count(); } interval:ms:1 { printf(\"ready\\n\"); }",
        ],
        "ready",
    ),
    (
        "libbpf-tools funclatency",
        &["funclatency", "{victim}:v_push"],
        "Tracing",
    ),
    ("libbpf-tools opensnoop", &["opensnoop"], "PATH"),
];

/// Measures every tool; one that does not start in the kernel of this machine
/// has no figure there.
pub fn measure(worlds: &Worlds<'_>, rounds: usize, words: &[String]) -> Result<Vec<Startup>> {
    let mut rows = Vec::new();
    for (name, tool, mark) in TOOLS {
        if !is_wanted(name, words) {
            continue;
        }
        let time = |world: &World| -> Result<f64> {
            let victim = world.fixture("victim").display().to_string();
            let words: Vec<String> = tool
                .iter()
                .map(|w| w.replace("{victim}", &victim))
                .collect();
            let tool = Tool::start(worlds.tool(world, &words), mark)?;
            let ready = tool.ready_ms;
            tool.stop()?;
            Ok(ready)
        };
        // Caches of both are warm afterwards.
        time(worlds.ours)?;
        let kernel = worlds.kernel.filter(|kernel| time(kernel).is_ok());
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            here.push(time(worlds.ours)?);
            if let Some(kernel) = kernel {
                there.push(time(kernel)?);
            }
        }
        rows.push(Startup {
            tool: name,
            bpftime_ms: median(&here),
            bpftime_best_ms: best(&here),
            kernel_ms: kernel.map(|_| median(&there)),
            kernel_best_ms: kernel.map(|_| best(&there)),
        });
    }
    Ok(rows)
}
