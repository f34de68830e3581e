//! What commands that fetch or push have in common: their options, where a
//! user's files are, how far it is on a terminal, failures in a user's words.

use std::cell::Cell;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use registry::{Fetched, Places, Settings, Source, settings};

use crate::problem::Problem;

/// Options of commands that fetch.
// The derived group would be called like every other `Options`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    /// Take from a registry only what this public key signed (cosign); may be
    /// given several times. Without it the keys in ~/.config/bpftime/keys are
    /// asked about signatures that are there
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,

    /// Speak plain HTTP to the registry, as to those on this machine
    #[arg(long)]
    insecure: bool,

    /// Take no more than so many bytes from a server or registry
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256M")]
    max_size: u64,
}

impl Options {
    /// Whether anything may be taken, as a file that is not in a registry.
    pub fn needs_no_key(&self) -> bool {
        self.key.is_empty()
    }
}

/// Progress is shown of what takes longer.
const QUIET: Duration = Duration::from_millis(400);
/// And not more often than so.
const REDRAW: Duration = Duration::from_millis(100);

/// Fetches `source`, which the user called `name`; one line may go to stderr.
pub fn fetch(name: &str, source: &Source, options: &Options) -> Result<Fetched, Problem> {
    let mut settings = plain_settings(options.insecure);
    settings.largest = options.max_size;
    settings.keys.clone_from(&options.key);
    settings.progress = meter(name);
    let fetched = registry::fetch(source, &settings).map_err(problem)?;
    if let Some(note) = &fetched.note {
        crate::tell(&Problem::new(name, note.what, note.advice));
    }
    Ok(fetched)
}

/// For commands that only ask.
pub fn plain_settings(insecure: bool) -> Settings {
    Settings {
        places: places(),
        insecure,
        largest: settings::LARGEST,
        keys: Vec::new(),
        progress: None,
    }
}

/// A failure in a user's words.
pub fn problem(error: registry::Error) -> Problem {
    let advice = error.trouble.advice();
    Problem::new(error.who, error.trouble, advice)
}

/// Where this user keeps what (XDG Base Directory Specification).
pub fn places() -> Places {
    let path = |variable| env::var_os(variable).map(PathBuf::from);
    let absolute = |variable| path(variable).filter(|path| path.is_absolute());
    let home = absolute("HOME");
    let below = |name| home.as_ref().map(|home| home.join(name));
    let config = absolute("XDG_CONFIG_HOME").or_else(|| below(".config"));
    let docker = path("DOCKER_CONFIG").or_else(|| below(".docker"));
    let podman = absolute("XDG_RUNTIME_DIR").or_else(|| config.clone());
    let logins = [
        path("REGISTRY_AUTH_FILE"),
        docker.map(|dir| dir.join("config.json")),
        podman.map(|dir| dir.join("containers/auth.json")),
    ];
    Places {
        cache: absolute("XDG_CACHE_HOME")
            .or_else(|| below(".cache"))
            .map(|dir| dir.join("bpftime")),
        config: config.map(|dir| dir.join("bpftime")),
        logins: logins.into_iter().flatten().collect(),
    }
}

/// One line that is drawn again and again, on a terminal only.
fn meter(name: &str) -> Option<Box<settings::Progress>> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let name = name.to_owned();
    let due = Cell::new(Instant::now() + QUIET);
    let drawn = Cell::new(false);
    Some(Box::new(move |came, of| {
        let mut stderr = io::stderr().lock();
        // Nobody is left to see it if stderr is gone.
        if of == Some(came) {
            if drawn.get() {
                let _ = write!(stderr, "\r\x1b[K");
            }
        } else if Instant::now() >= due.get() {
            let of = of.map_or(String::new(), |of| format!(" of {} KiB", of >> 10));
            let _ = write!(stderr, "\r\x1b[K{name}: {} KiB{of}", came >> 10);
            due.set(Instant::now() + REDRAW);
            drawn.set(true);
        }
    }))
}

/// A number of bytes, with K, M or G for powers of 1024.
fn size(words: &str) -> Result<u64, String> {
    let (digits, shift) = match words.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&words[..at], 10),
        Some((at, 'm' | 'M')) => (&words[..at], 20),
        Some((at, 'g' | 'G')) => (&words[..at], 30),
        _ => (words, 0),
    };
    let number = digits.parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        // One more must be a number as well.
        .filter(|bytes| (1..u64::MAX).contains(bytes))
        .ok_or_else(|| "a number of bytes is wanted, like 500M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_units() {
        for (words, bytes) in [
            ("1", 1),
            ("2k", 2 << 10),
            ("256M", 256 << 20),
            ("3G", 3 << 30),
        ] {
            assert_eq!(size(words), Ok(bytes), "{words}");
        }
        for wrong in [
            "",
            "0",
            "-1",
            "M",
            "1T",
            "1é",
            "18446744073709551615",
            "99999999999G",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
