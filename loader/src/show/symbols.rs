//! Names of functions at addresses: of the kernel by /proc/kallsyms, of
//! processes by what they have mapped. It reads files of live processes; who has
//! ended by then has no names, unless they were asked for before.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use object::ElfFile;
use object::elf::SymbolKind;

use super::table::printable;

/// Most bytes of a file that is read for its names.
const MAX_FILE: u64 = 512 << 20;
/// Most processes and files that are remembered.
const MAX_KEPT: usize = 256;

/// A function and a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// Names that were looked up, and where to look for more.
#[derive(Default)]
pub struct Symbols {
    kernel: Option<Names>,
    processes: HashMap<u32, Vec<Mapping>>,
    /// By device and inode, and path.
    files: HashMap<(String, PathBuf), Rc<File>>,
}

/// A file of code in a process.
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    /// Device and inode, as the process's table says them.
    identity: String,
    path: PathBuf,
}

#[derive(Default)]
struct File {
    names: Names,
    /// Where bytes of the file lie: begin, end, address of the first.
    segments: Vec<(u64, u64, u64)>,
}

/// Functions by their beginnings: with their ends, if those are known.
#[derive(Default)]
struct Names {
    sorted: Vec<(u64, u64, String)>,
}

impl Names {
    fn of(mut all: Vec<(u64, u64, String)>) -> Names {
        // Of several names of one place the one that says the most bytes.
        all.sort_by(|a, b| (a.0, b.1, &a.2).cmp(&(b.0, a.1, &b.2)));
        all.dedup_by_key(|name| name.0);
        Names { sorted: all }
    }

    fn at(&self, address: u64) -> Option<Symbol> {
        let after = self.sorted.partition_point(|name| name.0 <= address);
        let (start, size, name) = self.sorted.get(after.checked_sub(1)?)?;
        let offset = address - start;
        (*size == 0 || offset < *size).then(|| Symbol {
            name: readable(name),
            offset,
        })
    }
}

/// A name as its source has it, for C++ and Rust. What a terminal would obey is
/// not in it.
fn readable(name: &str) -> String {
    let rust = rustc_demangle::try_demangle(name).ok();
    let plain = rust.map(|name| format!("{name:#}")).or_else(|| cpp(name));
    let plain = plain.as_deref().unwrap_or(name);
    plain.chars().map(printable).collect()
}

fn cpp(name: &str) -> Option<String> {
    // Others are words of C, some of which would be read as types.
    let mangled = name.starts_with("_Z").then_some(name)?;
    cpp_demangle::Symbol::new(mangled).ok()?.demangle().ok()
}

impl Symbols {
    /// The function of the kernel at an address. `None` where the kernel does
    /// not tell addresses.
    pub fn kernel(&mut self, address: u64) -> Option<Symbol> {
        let names = self.kernel.get_or_insert_with(|| {
            let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
            Names::of(text.lines().filter_map(kernel_name).collect())
        });
        names.at(address)
    }

    /// The function of a process at an address.
    pub fn user(&mut self, pid: u32, address: u64) -> Option<Symbol> {
        let place = self.place(pid, address).or_else(|| {
            self.look_at(pid);
            self.place(pid, address)
        });
        let (key, offset) = place?;
        let file = self.file(pid, key);
        let inside = |segment: &&(u64, u64, u64)| (segment.0..segment.1).contains(&offset);
        let (start, _, first) = file.segments.iter().find(inside)?;
        file.names.at(offset - start + first)
    }

    /// The file at an address, and where in it.
    fn place(&self, pid: u32, address: u64) -> Option<((String, PathBuf), u64)> {
        let mappings = self.processes.get(&pid)?;
        let inside = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&address);
        let mapping = mappings.iter().find(inside)?;
        let key = (mapping.identity.clone(), mapping.path.clone());
        Some((key, address - mapping.start + mapping.offset))
    }

    fn look_at(&mut self, pid: u32) {
        let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else {
            return;
        };
        if self.processes.len() >= MAX_KEPT {
            self.processes.clear();
        }
        let mappings = maps.lines().filter_map(mapping).collect();
        self.processes.insert(pid, mappings);
    }

    fn file(&mut self, pid: u32, key: (String, PathBuf)) -> Rc<File> {
        if let Some(file) = self.files.get(&key) {
            return Rc::clone(file);
        }
        if self.files.len() >= MAX_KEPT {
            self.files.clear();
        }
        let file = Rc::new(read(pid, &key.1).unwrap_or_default());
        self.files.insert(key, Rc::clone(&file));
        file
    }
}

/// `ffffffff81000000 T _stext`; modules have their name behind.
fn kernel_name(line: &str) -> Option<(u64, u64, String)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    let is_code = matches!(kind, "t" | "T" | "w" | "W");
    (address != 0 && is_code).then(|| (address, 0, name.to_owned()))
}

/// `55d0-55e0 r-xp 00001000 08:01 1234    /usr/bin/work`
fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let access = words.next()?;
    let offset = hex(words.next()?)?;
    let identity = format!("{} {}", words.next()?, words.next()?);
    let path = words.next()?.trim_start();
    (access.contains('x') && path.starts_with('/')).then_some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        offset,
        identity,
        path: PathBuf::from(path),
    })
}

/// A file as the process sees it, which may be in a container.
fn read(pid: u32, path: &std::path::Path) -> Option<File> {
    let relative = path.strip_prefix("/").ok()?;
    let path = PathBuf::from(format!("/proc/{pid}/root")).join(relative);
    let about = fs::metadata(&path).ok()?;
    if !about.is_file() || about.len() > MAX_FILE {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let elf = ElfFile::parse(&bytes).ok()?;
    let functions = elf.symbols().filter(|symbol| {
        symbol.address != 0 && matches!(symbol.kind, SymbolKind::Function | SymbolKind::Ifunc)
    });
    let names = functions
        .map(|symbol| (symbol.address, symbol.size, symbol.name.to_owned()))
        .collect();
    let segments = elf.segments().filter(|segment| segment.executable);
    Some(File {
        names: Names::of(names),
        segments: segments
            .map(|segment| (segment.file.start, segment.file.end, segment.vaddr))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_their_functions_do() {
        let own = |start, size, name: &str| (start, size, name.to_owned());
        let names = Names::of(vec![
            own(0x20, 8, "b"),
            own(0x10, 8, "a"),
            own(0x10, 2, "also_a"),
            own(0x40, 0, "endless"),
        ]);
        let at = |address| names.at(address).map(|symbol| (symbol.name, symbol.offset));
        assert_eq!(at(0xf), None);
        assert_eq!(at(0x10), Some(("a".to_owned(), 0)));
        assert_eq!(at(0x17), Some(("a".to_owned(), 7)));
        assert_eq!(at(0x18), None);
        assert_eq!(at(0x1040), Some(("endless".to_owned(), 0x1000)));
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn a_function_that_is_looked_for() -> u32 {
        std::process::id()
    }

    #[test]
    fn names_are_those_of_sources() {
        for (mangled, name) in [
            ("main", "main"),
            ("i", "i"),
            (
                "_ZN4pool4workEPKcRSt6vectorIiSaIiEE",
                "pool::work(char const*, std::vector<int, std::allocator<int> >&)",
            ),
            ("_ZNSt6thread4joinEv", "std::thread::join()"),
            ("_ZN4core3ptr4swap17h0123456789abcdefE", "core::ptr::swap"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_Zwrong", "_Zwrong"),
            ("_ZN", "_ZN"),
            ("a\u{1b}[31m", "a\u{fffd}[31m"),
        ] {
            assert_eq!(readable(mangled), name);
        }
    }

    #[inline(never)]
    fn looked_for_by_its_path() -> u32 {
        std::hint::black_box(std::process::id())
    }

    #[test]
    fn own_functions_have_their_paths() {
        let pid = looked_for_by_its_path();
        let address = looked_for_by_its_path as *const () as u64;
        let symbol = Symbols::default().user(pid, address).expect("a symbol");
        let name = "loader::show::symbols::tests::looked_for_by_its_path";
        assert_eq!((symbol.name.as_str(), symbol.offset), (name, 0));
    }

    #[test]
    fn own_functions_have_names() {
        let pid = a_function_that_is_looked_for();
        let address = a_function_that_is_looked_for as *const () as u64;
        let wanted = Symbol {
            name: "a_function_that_is_looked_for".to_owned(),
            offset: 1,
        };
        assert_eq!(Symbols::default().user(pid, address + 1), Some(wanted));
    }
}
