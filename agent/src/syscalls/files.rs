//! The text of files as the engine asks for it: what was found out about a
//! file is kept in the state directory, so that not each process looks anew.
//! It knows no site.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attach::Engine;
use attach::syscalls::{Memo, Text};
use runtime::session::file;

use crate::log::debug;
use crate::maps::Mapping;
use crate::modules::{Image, Modules};

/// Beside the roster. Another layout gets another name.
const DIRECTORY: &str = "texts-1";
/// A file's text is not longer than what it takes to remember a million calls.
const LONGEST: usize = 64 << 20;

/// Texts that are followed, each with what it is mapped as.
#[derive(Default)]
pub struct Files {
    /// Where memos are kept, if they are.
    directory: Option<PathBuf>,
    known: Vec<Known>,
}

struct Known {
    mapping: Mapping,
    text: Arc<Text>,
    /// Where its memo is, or is to be.
    memo: Option<PathBuf>,
}

impl Files {
    /// The state directory is this.
    pub fn set_state(&mut self, state: &Path) {
        self.directory = Some(state.join(DIRECTORY));
    }

    /// All text of files but this library's; what is gone is forgotten.
    pub fn follow(&mut self, image: &Image) -> Vec<Arc<Text>> {
        self.known.retain(|known| {
            let stays = image.still_has(&known.mapping);
            if !stays && let Ok(engine) = Engine::new() {
                attach::Backend::forget_range(&engine, known.mapping.range.clone());
            }
            stays
        });
        let mappings = image.texts().filter(|mapping| !is_own(mapping, image));
        mappings.map(|mapping| self.text_of(mapping)).collect()
    }

    fn text_of(&mut self, mapping: &Mapping) -> Arc<Text> {
        if let Some(known) = self.known.iter().find(|known| known.mapping == *mapping) {
            return known.text.clone();
        }
        let directory = self.directory.as_ref();
        let path = directory.and_then(|directory| Some(directory.join(memo_name(mapping)?)));
        let memo = path.as_deref().and_then(read);
        let mapped = (mapping.range.clone(), mapping.offset);
        let text = Arc::new(Text::of_file(std::slice::from_ref(&mapped), memo));
        self.known.push(Known {
            mapping: mapping.clone(),
            text: text.clone(),
            memo: path,
        });
        text
    }

    /// Makes the modules of texts that lack them. False if one cannot be made.
    pub fn supply(&self, texts: &[Arc<Text>], image: &Image, modules: &mut Modules) -> bool {
        let mut is_all = true;
        for text in texts {
            let known = self
                .known
                .iter()
                .find(|known| Arc::ptr_eq(&known.text, text));
            let module = known.map(|known| modules.of(&known.mapping, image));
            match module {
                Some(Ok(module)) => text.set_module(module),
                Some(Err(error)) => {
                    debug!("not hooked: {error}");
                    is_all = false;
                }
                None => is_all = false,
            }
        }
        is_all
    }

    /// Keeps what was found out about these, for other processes.
    pub fn keep(&self, texts: &[Arc<Text>], engine: &Engine) {
        for known in &self.known {
            let is_new = texts.iter().any(|text| Arc::ptr_eq(&known.text, text));
            if let (true, Some(path)) = (is_new, &known.memo)
                && let Some(memo) = engine.syscall_memo(&known.text)
                && let Err(error) = file::replace(path, &memo.to_bytes())
            {
                debug!("{}: {error}", path.display());
            }
        }
    }
}

/// Whether a mapping is this library's own text, or that of the server in a
/// tool that traces itself; in a program that has the library linked in,
/// nothing is.
fn is_own(mapping: &Mapping, image: &Image) -> bool {
    let own = [Some(is_own as *const () as usize), crate::server()];
    let is_in = |address: usize| mapping.range.contains(&address);
    own.into_iter().flatten().any(is_in) && !image.is_program(mapping)
}

/// A name for exactly the file that is mapped, as it is now.
fn memo_name(mapping: &Mapping) -> Option<String> {
    let path = CString::new(mapping.path.as_os_str().as_bytes()).ok()?;
    let stat = file::stat(&path)
        .ok()
        .filter(|stat| stat.ino == mapping.ino)?;
    Some(format!(
        "{:x}-{:x}-{:x}-{:x}-{:x}-{:x}-{:x}",
        stat.dev,
        stat.ino,
        stat.size,
        stat.modified,
        stat.changed,
        mapping.offset,
        mapping.range.len()
    ))
}

fn read(path: &Path) -> Option<Memo> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let stat = file::stat(&path).ok()?;
    // SAFETY: asks for a number.
    let is_mine = stat.uid == unsafe { libc::geteuid() } && stat.mode & 0o022 == 0;
    let is_short = stat.size as usize <= LONGEST;
    (is_mine && is_short).then_some(())?;
    Memo::from_bytes(&file::read_all(&path).ok()?)
}
