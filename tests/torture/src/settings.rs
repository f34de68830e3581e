//! What the environment asks for. It knows no function.

use std::path::PathBuf;
use std::time::Duration;

/// Which probes, and how long they stay.
pub struct Settings {
    /// Where the report goes; without one nothing happens.
    pub report: PathBuf,
    /// Return probes beside those at entry.
    pub returns: bool,
    /// How long probes stay and stay away; for ever without it.
    pub toggle: Option<Duration>,
    /// Modules whose name holds one of these; all without it.
    pub modules: Vec<String>,
}

impl Settings {
    /// `TORTURE_REPORT` (a file), `TORTURE_RETURNS` (set or not),
    /// `TORTURE_TOGGLE` (microseconds), `TORTURE_MODULES` (separated by commas).
    /// With `TORTURE_ALONE` programs that this one starts are left alone.
    pub fn from_environment() -> Option<Settings> {
        let text = |name| std::env::var(name).ok();
        let report = std::env::var_os("TORTURE_REPORT")?.into();
        if text("TORTURE_ALONE").is_some() {
            // SAFETY: runs before the program's first instruction, on its only thread.
            unsafe { std::env::remove_var("TORTURE_REPORT") };
        }
        Some(Settings {
            report,
            returns: text("TORTURE_RETURNS").is_some(),
            toggle: text("TORTURE_TOGGLE")
                .and_then(|micros| micros.parse().ok())
                .map(Duration::from_micros),
            modules: text("TORTURE_MODULES")
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
        })
    }
}
