//! Files that any user can read and run: the `bpftime` binary and the
//! fixtures, copied out of a working copy that may lie under /root. It knows
//! no test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The directory of copies; one in each test process, removed at its exit.
pub struct Stage {
    dir: PathBuf,
}

static STAGE: OnceLock<Stage> = OnceLock::new();

impl Stage {
    /// The stage of this process, set up at the first call.
    ///
    /// # Panics
    /// If the fixtures do not build or `bpftime` was not built.
    pub fn get() -> &'static Stage {
        STAGE.get_or_init(|| Stage::set_up().expect("the stage for end-to-end tests"))
    }

    /// The `bpftime` binary.
    pub fn bpftime(&self) -> PathBuf {
        self.dir.join("bpftime")
    }

    /// A fixture tool, target or library by its file name.
    pub fn fixture(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn set_up() -> Result<Stage> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the workspace")?;
        let built = root.join("target/fixtures");
        // Test processes start together, and one of them builds.
        let status = Command::new("flock")
            .arg(root.join("target/fixtures.lock"))
            .args(["make", "-s"])
            .arg("-C")
            .arg(root.join("fixtures"))
            .arg(format!("OUT={}", built.display()))
            .status()
            .context("flock make")?;
        ensure!(
            status.success(),
            "fixtures did not build; `make deps` installs what they need"
        );
        let bpftime = std::env::var_os("BPFTIME_BIN")
            .map_or_else(|| root.join("target/release/bpftime"), PathBuf::from);

        let dir = tempfile::Builder::new()
            .prefix("bpftime-stage-")
            .tempdir()?
            .keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let stage = Stage { dir };
        // SAFETY: `remove_stage` is an `extern "C" fn()` that lives as long as the program.
        let registered = unsafe { libc::atexit(remove_stage) };
        ensure!(registered == 0, "atexit");

        copy(&bpftime, &stage.bpftime()).context("`bpftime` is not built: `make build`")?;
        for entry in fs::read_dir(&built)? {
            let path = entry?.path();
            let name = path.file_name().context("a file name")?;
            let name_text = name.to_string_lossy();
            if !name_text.ends_with(".h") && !name_text.ends_with(".inc") {
                copy(&path, &stage.dir.join(name))?;
            }
        }
        Ok(stage)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

extern "C" fn remove_stage() {
    if let Some(stage) = STAGE.get() {
        // At exit there is nobody left to tell; the directory is in /tmp.
        drop(fs::remove_dir_all(&stage.dir));
    }
}
