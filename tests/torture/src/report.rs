//! One line in a file for each process that came to its end. It knows no probe.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// What a process has to tell.
#[derive(Default)]
pub struct Report {
    /// Points that were asked for.
    pub asked: usize,
    /// Points that took a probe.
    pub attached: usize,
    /// How often all probes were attached and detached.
    pub toggles: u64,
    /// Hits of all probes.
    pub hits: u64,
    /// Modules whose text is not as it was.
    pub changed: Vec<String>,
    /// Lines of /proc/self/maps that were there before and are not now.
    pub lost: Vec<String>,
    /// Why points were refused, with how often.
    pub refusals: Vec<(String, usize)>,
}

impl Report {
    /// Adds the line. A program may have closed or limited anything: then
    /// there is none, and whoever waits for it complains.
    pub fn write(&self, path: &Path) {
        let refusals: Vec<String> = self
            .refusals
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        let line = format!(
            "pid={}\tasked={}\tattached={}\ttoggles={}\thits={}\tchanged={}\tlost={}\trefused={}\n",
            std::process::id(),
            self.asked,
            self.attached,
            self.toggles,
            self.hits,
            self.changed.join(","),
            self.lost.join(","),
            refusals.join("; "),
        );
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}
