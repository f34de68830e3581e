//! Which memory of this process is readable, and stays so until a call of its
//! own takes it away: private memory without a file, and what is mapped of the
//! running program's file. It publishes nothing.
//!
//! Not: other files (whoever truncates one takes its pages away from here),
//! shared memory, huge pages of files, devices, what the kernel maps, text that
//! is of no file.
//! Guard regions, which no list of mappings shows, are cut out.

use std::ffi::CStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use runtime::session::file;

use crate::{arch, breakpoints};

/// The file of the running program, where it is known that nobody can write to
/// it or truncate it meanwhile (ETXTBSY).
struct Program {
    path: Vec<u8>,
    ino: u64,
    size: u64,
}

impl Program {
    fn own() -> Option<Program> {
        let own = c"/proc/thread-self/exe";
        if !denies_writes(&kernel_release()?) || !is_local(own) {
            return None;
        }
        let stat = file::stat(own).ok()?;
        let path = fs::read_link("/proc/thread-self/exe").ok()?;
        Some(Program {
            path: path.as_os_str().as_bytes().to_vec(),
            ino: stat.ino,
            size: stat.size,
        })
    }

    /// How much of a mapping is within the file.
    fn part_of(&self, mapping: &Mapping<'_>) -> Option<Range<u64>> {
        if mapping.ino != self.ino || mapping.name != self.path {
            return None;
        }
        let size = self.size.next_multiple_of(shm::PAGE);
        let inside = size.checked_sub(mapping.offset)?;
        let Range { start, end } = mapping.range;
        Some(start..end.min(start.saturating_add(inside)))
    }
}

fn kernel_release() -> Option<String> {
    let bytes = file::read_small(c"/proc/sys/kernel/osrelease", 256).ok()?;
    String::from_utf8(bytes).ok()
}

/// Linux 6.11 and 6.12 let running programs be written to (fs/exec.c, "don't
/// block `i_writecount` during exec", reverted in 6.13).
fn denies_writes(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    match (number(), number()) {
        (Some(major), Some(minor)) => !(11..=12).contains(&minor) || major != 6,
        _ => false,
    }
}

/// Whether a file's only writers are of this machine, through this kernel's
/// count of them.
fn is_local(path: &CStr) -> bool {
    const BTRFS: i64 = 0x9123_683e;
    const EROFS: i64 = 0xe0f5_e1e2;
    const EXT4: i64 = 0xef53;
    const F2FS: i64 = 0xf2f5_2010;
    const OVERLAY: i64 = 0x794c_7630;
    const SQUASHFS: i64 = 0x7371_7368;
    const TMPFS: i64 = 0x0102_1994;
    const XFS: i64 = 0x5846_5342;
    // SAFETY: all zeros is a valid value, which the call fills.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a zero-terminated path, and room for the answer.
    let asked = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) };
    let kinds = [BTRFS, EROFS, EXT4, F2FS, OVERLAY, SQUASHFS, TMPFS, XFS];
    asked == 0 && kinds.contains(&stat.f_type)
}

/// A line of /proc/PID/maps.
struct Mapping<'a> {
    range: Range<u64>,
    access: &'a [u8],
    offset: u64,
    is_of_file: bool,
    ino: u64,
    name: &'a [u8],
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE   PATH`, proc_pid_maps(5).
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let access = field()?.as_bytes();
    let offset = hex(field()?)?;
    let device = field()?;
    let ino = field()?.parse().ok()?;
    Some(Mapping {
        range: hex(start)?..hex(end)?,
        access,
        offset,
        is_of_file: ino != 0 || device != "00:00",
        ino,
        name: fields.next().unwrap_or_default().trim_ascii_start(),
    })
}

/// What of a mapping stays readable until a call takes it away.
fn lasting(mapping: &Mapping<'_>, program: Option<&Program>) -> Option<Range<u64>> {
    let [b'r', _, text, b'p', ..] = mapping.access else {
        return None;
    };
    if mapping.is_of_file {
        return program?.part_of(mapping);
    }
    // The kernel's own have other names in brackets.
    let is_named_by_program = mapping.name.starts_with(b"[anon:");
    let is_heap = mapping.name == b"[heap]";
    let is_memory =
        is_heap || is_named_by_program || mapping.name.is_empty() || mapping.name == b"[stack]";
    // What brk(2) takes away is told up to there only.
    let is_odd_heap = is_heap && mapping.range.contains(&super::BEHIND_HEAP);
    let is_text = *text == b'x';
    (is_memory && !is_odd_heap && !is_text).then(|| mapping.range.clone())
}

/// Most bytes of the list that are read: some 100,000 mappings.
const LIMIT: usize = 16 << 20;
/// So many ranges are published; the largest where there are more.
const RANGES: usize = 256;

/// What is readable now, in order. `None` if that cannot be told.
pub(super) fn readable(has_guards: bool) -> Option<Vec<Range<u64>>> {
    let text = file::read_small(c"/proc/thread-self/maps", LIMIT).ok()?;
    let program = Program::own();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mappings = text.split(|&byte| byte == b'\n').filter_map(parse);
    for range in mappings.filter_map(|mapping| lasting(&mapping, program.as_ref())) {
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => ranges.push(range),
        }
    }
    if has_guards {
        ranges = Guards::open()?.cut(ranges)?;
    }
    if ranges.len() > RANGES {
        ranges.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
        ranges.truncate(RANGES);
        ranges.sort_by_key(|range| range.start);
    }
    Some(ranges)
}

/// The kernel's list of guard regions (`MADV_GUARD_INSTALL`).
struct Guards(File);

/// `struct page_region` and `struct pm_scan_arg` (uapi/linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl Guards {
    fn open() -> Option<Guards> {
        File::open("/proc/thread-self/pagemap").ok().map(Guards)
    }

    /// The first guard regions in a range, and how far it looked.
    fn scan(&self, range: &Range<u64>) -> Option<(Vec<Region>, u64)> {
        const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
        const PAGE_IS_GUARD: u64 = 1 << 8;
        let mut found = [Region::default(); 64];
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start: range.start,
            end: range.end,
            vec: found.as_mut_ptr() as u64,
            vec_len: found.len() as u64,
            category_mask: PAGE_IS_GUARD,
            return_mask: PAGE_IS_GUARD,
            ..Scan::default()
        };
        // SAFETY: the kernel reads and writes `scan` and writes `found`.
        let count = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
        let found = found.get(..usize::try_from(count).ok()?)?;
        (scan.walk_end > range.start).then(|| (found.to_vec(), scan.walk_end))
    }

    /// The ranges without guard regions.
    fn cut(&self, ranges: Vec<Range<u64>>) -> Option<Vec<Range<u64>>> {
        /// The kernel holds the process's mappings still meanwhile.
        const AT_A_TIME: u64 = 64 << 20;
        let mut left = Vec::new();
        for range in ranges {
            let mut start = range.start;
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at.saturating_add(AT_A_TIME));
                let (guards, walked) = self.scan(&(at..end))?;
                for guard in guards {
                    left.push(start..guard.start);
                    start = guard.end;
                }
                at = walked;
            }
            left.push(start..range.end);
        }
        left.retain(|range| !range.is_empty());
        Some(left)
    }
}

/// Whether this kernel knows guard regions. An error if they would not show.
pub(super) fn find_guards() -> Result<bool, &'static str> {
    const MADV_GUARD_INSTALL: i32 = 102;
    const UNSEEN: &str = "the kernel does not list guard regions";
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let len = shm::PAGE as usize;
    // SAFETY: a fresh page, given back below.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err("no memory to try guard regions");
    }
    // SAFETY: nobody uses the page.
    let installed = unsafe { libc::madvise(page, len, MADV_GUARD_INSTALL) } == 0;
    let range = page as u64..page as u64 + shm::PAGE;
    let left = Guards::open().and_then(|guards| guards.cut(vec![range]));
    // SAFETY: as above.
    unsafe { libc::munmap(page, len) };
    match left {
        _ if !installed => Ok(false),
        Some(left) if left.is_empty() => Ok(true),
        _ => Err(UNSEEN),
    }
}

/// Whether nothing in this process makes what [`readable`] tells wrong.
pub(super) fn is_fit(has_guards: bool) -> Result<(), &'static str> {
    if breakpoints::is_filtered() {
        return Err("a system call filter may forbid what a withdrawal takes");
    }
    for entry in fs::read_dir("/proc/thread-self/fd").map_err(|_| "no list of fds")? {
        let link = entry.and_then(|entry| fs::read_link(entry.path()));
        let link = link.map(|link| link.into_os_string().into_encoded_bytes());
        match link.as_deref() {
            Ok(b"anon_inode:[userfaultfd]") => return Err("the process has a userfaultfd"),
            Ok(b"anon_inode:[io_uring]") if has_guards => {
                return Err("io_uring can make guard regions");
            }
            _ => {}
        }
    }
    match any_marked() {
        Some(true) => Err("mappings have protection keys or userfaultfds"),
        None if arch::has_protection_keys() => {
            Err("the process is too large to ask for protection keys")
        }
        _ => Ok(()),
    }
}

/// Whether a mapping has a protection key, or is registered with userfaultfd(2);
/// `None` where that would take too long to find out.
fn any_marked() -> Option<bool> {
    /// Resident pages: the kernel walks all of them.
    const MOST_PAGES: u64 = (4 << 30) / shm::PAGE;
    const MOST_BYTES: usize = 64 << 20;
    let statm = file::read_small(c"/proc/thread-self/statm", 256).ok()?;
    let resident = std::str::from_utf8(&statm).ok()?.split(' ').nth(1)?;
    if resident.parse::<u64>().ok()? > MOST_PAGES {
        return None;
    }
    let text = file::read_small(c"/proc/thread-self/smaps", MOST_BYTES).ok()?;
    Some(text.split(|&byte| byte == b'\n').any(is_marked))
}

/// A line of smaps.
fn is_marked(line: &[u8]) -> bool {
    if let Some(key) = line.strip_prefix(b"ProtectionKey:") {
        return key.trim_ascii() != b"0";
    }
    let flags = line.strip_prefix(b"VmFlags:").unwrap_or_default();
    let mut flags = flags.split(|&byte| byte == b' ');
    flags.any(|flag| matches!(flag, b"um" | b"uw" | b"ui"))
}
