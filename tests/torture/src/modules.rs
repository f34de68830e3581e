//! The modules of this process and where their functions begin.

use std::ffi::{CStr, OsStr, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use attach::Module;
use object::ElfFile;

/// One loaded file.
pub struct Loaded {
    /// Its path.
    pub path: PathBuf,
    /// What the engine has to know of it.
    pub module: Arc<Module>,
    /// Where its functions begin, known by symbols or unwind tables.
    pub entries: Vec<usize>,
    /// Its text in memory.
    text: Vec<Range<usize>>,
}

impl Loaded {
    /// Whether all that can be executed is as the file has it: dead padding may
    /// hold jumps that nobody takes any more.
    pub fn is_untouched(&self) -> bool {
        self.text.iter().all(|range| {
            let Some(original) = self.module.original(range.start as u64, range.len()) else {
                return false;
            };
            let changed = original.iter().enumerate().filter(|(at, byte)| {
                // SAFETY: the text of a module that was there at the start,
                // which stays mapped and readable.
                **byte != unsafe { ((range.start + at) as *const u8).read_volatile() }
            });
            changed.into_iter().all(|(_, byte)| PADDING.contains(byte))
        })
    }
}

/// Bytes of the instructions that compilers fill space with.
const PADDING: [u8; 11] = [
    0x00, 0x0f, 0x1f, 0x2e, 0x40, 0x44, 0x66, 0x80, 0x84, 0x90, 0xcc,
];

/// Every module with a file whose name holds one of `names`, or every one.
pub fn all(names: &[String]) -> Vec<Loaded> {
    let mut headers: Vec<(PathBuf, u64, Vec<Range<usize>>)> = Vec::new();
    // SAFETY: `visit` gets `headers` back, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut headers).cast()) };
    let wanted = |path: &PathBuf| {
        let path = path.to_string_lossy();
        !path.contains("bpftime_torture")
            && (names.is_empty() || names.iter().any(|name| path.contains(name)))
    };
    headers
        .into_iter()
        .filter(|(path, ..)| wanted(path))
        .filter_map(|(path, bias, text)| describe(path, bias, text))
        .collect()
}

fn describe(path: PathBuf, bias: u64, text: Vec<Range<usize>>) -> Option<Loaded> {
    let bytes = std::fs::read(&path).ok()?;
    let module = Module::new(&bytes, bias, &text).ok()?;
    let elf = ElfFile::parse(&bytes).ok()?;
    let addresses = elf.functions();
    let addresses = addresses
        .iter()
        .map(|function| bias.wrapping_add(function.range.start));
    let entries = addresses
        .filter(|address| module.original(*address, 1).is_some())
        .map(|address| address as usize)
        .collect();
    Some(Loaded {
        path,
        module: Arc::new(module),
        entries,
        text,
    })
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> i32 {
    // SAFETY: dl_iterate_phdr(3) gives a valid entry and our pointer.
    let (info, found) = unsafe {
        (
            &*info,
            &mut *found.cast::<Vec<(PathBuf, u64, Vec<Range<usize>>)>>(),
        )
    };
    // SAFETY: the loader's own string.
    let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
    let path = if name.is_empty() && found.is_empty() {
        std::fs::read_link("/proc/self/exe").unwrap_or_default()
    } else {
        PathBuf::from(OsStr::from_bytes(name))
    };
    // SAFETY: as above.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let executable = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0);
    let text = executable.map(|header| {
        let start = (info.dlpi_addr + header.p_vaddr) as usize;
        // Up to the end of the file's bytes; pages are mapped whole.
        start..start + header.p_filesz as usize
    });
    found.push((path, info.dlpi_addr, text.collect()));
    0
}
