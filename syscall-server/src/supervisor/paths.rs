//! The calls on names: files that are elsewhere (bpffs, tracefs, PMUs), and what /proc tells of fds of ours. Nearly all are
//! the kernel's. It knows no object.

use std::ffi::{CStr, CString, c_char, c_int, c_long};

use uapi::Errno;

use super::Answer;
use super::notice::Notice;
use crate::trees::{self, Led, Tree};
use crate::{bpffs, caller, files, raw, trace_pipe, tracefs, user};

/// Answers a call on a name.
pub fn answer(notice: &Notice) -> Answer {
    let [a, b, c, d, e, _] = notice.args;
    let at = libc::AT_FDCWD as usize;
    let (nofollow, removedir) = (libc::AT_SYMLINK_NOFOLLOW as u64, libc::AT_REMOVEDIR as u64);
    match i64::from(notice.nr) {
        libc::SYS_open => open(a, b as c_int, c),
        libc::SYS_openat => open(b, c as c_int, d),
        libc::SYS_stat => stat(a, b, 0),
        libc::SYS_lstat => stat(a, b, nofollow),
        libc::SYS_newfstatat => stat(b, c, d),
        libc::SYS_statx => statx(b, c, d, e),
        libc::SYS_access => access(a, b),
        libc::SYS_faccessat | libc::SYS_faccessat2 => access(b, c),
        libc::SYS_readlink => readlink(a, b, c),
        libc::SYS_readlinkat => readlink(b, c, d),
        libc::SYS_statfs => statfs(a, b),
        libc::SYS_fstatfs => fstatfs(a as c_int, b),
        libc::SYS_mkdir => elsewhere(a, |path| call(libc::SYS_mkdirat, [at, path, b as usize])),
        libc::SYS_mkdirat => elsewhere(b, |path| call(libc::SYS_mkdirat, [at, path, c as usize])),
        libc::SYS_rmdir => elsewhere(a, |path| unlink(path, removedir)),
        libc::SYS_unlink => elsewhere(a, |path| unlink(path, 0)),
        libc::SYS_unlinkat => elsewhere(b, |path| unlink(path, c)),
        libc::SYS_rename => rename(a, b, 0),
        libc::SYS_renameat => rename(b, d, 0),
        libc::SYS_renameat2 => rename(b, d, e),
        _ => Answer::Pass,
    }
}

fn call<const N: usize>(number: c_long, words: [usize; N]) -> Result<i64, Errno> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&words);
    raw::checked(number, all).map(|value| value as i64)
}

/// Where the name at an address leads that is elsewhere.
fn lead(address: u64) -> Option<Result<Led, Errno>> {
    trees::lead(address as *const c_char)
}

/// Makes a call with one name, if that is elsewhere, where it leads to.
fn elsewhere(address: u64, call: impl FnOnce(usize) -> Result<i64, Errno>) -> Answer {
    in_tree(address, |path, _| call(path))
}

fn in_tree(address: u64, call: impl FnOnce(usize, Tree) -> Result<i64, Errno>) -> Answer {
    match lead(address) {
        None => Answer::Pass,
        Some(led) => Answer::Value(led.and_then(|led| call(led.real.as_ptr() as usize, led.tree))),
    }
}

fn unlink(path: usize, flags: u64) -> Result<i64, Errno> {
    let at = libc::AT_FDCWD as usize;
    let done = call(libc::SYS_unlinkat, [at, path, flags as usize])?;
    bpffs::changed(0);
    Ok(done)
}

fn rename(from: u64, to: u64, flags: u64) -> Answer {
    let (from, to) = match (lead(from), lead(to)) {
        (None, None) => return Answer::Pass,
        (Some(Ok(from)), Some(Ok(to))) => (from.real, to.real),
        (Some(Err(errno)), _) | (_, Some(Err(errno))) => return Answer::Value(Err(errno)),
        _ => return Answer::Value(Err(Errno(libc::EXDEV))),
    };
    let at = libc::AT_FDCWD as usize;
    let [from, to] = [[at, from.as_ptr() as usize], [at, to.as_ptr() as usize]];
    let words = [from[0], from[1], to[0], to[1], flags as usize];
    let done = call(libc::SYS_renameat2, words);
    if done.is_ok() {
        if flags == 0 {
            bpffs::finish_rename(from, to);
        }
        bpffs::changed(0);
    }
    Answer::Value(done)
}

fn open(address: u64, flags: c_int, mode: u64) -> Answer {
    match open_ours(address, flags, mode as u32) {
        None => Answer::Pass,
        Some(Err(errno)) => Answer::Value(Err(errno)),
        Some(Ok(fd)) => Answer::File(fd, flags & libc::O_CLOEXEC),
    }
}

fn open_ours(address: u64, flags: c_int, mode: u32) -> Option<Result<c_int, Errno>> {
    if let Some(led) = lead(address) {
        return Some(led.and_then(|led| open_led(&led, flags, mode)));
    }
    if let Some(own) = files::open_own(address as *const c_char, flags) {
        return Some(Ok(own));
    }
    let name = user::read_string(address, user::PATH_MAX).ok()?;
    if let Some(real) = trace_pipe::of_tool(&name) {
        return Some(open_real(&real, flags));
    }
    let content = files::instead(&CString::new(name).ok()?)?;
    Some(files::open(content, flags))
}

fn open_led(led: &Led, flags: c_int, mode: u32) -> Result<c_int, Errno> {
    match led.tree {
        Tree::Bpffs => bpffs::open(&led.real, flags, mode),
        Tree::Tracefs | Tree::Sysfs => match trace_pipe::redirected(led.real.to_bytes()) {
            Some(pipe) if flags & libc::O_PATH == 0 => open_real(&pipe, flags),
            _ => tracefs::writing::open(&led.real, flags),
        },
    }
}

fn open_real(path: &CStr, flags: c_int) -> Result<c_int, Errno> {
    let at = libc::AT_FDCWD as usize;
    let words = [at, path.as_ptr() as usize, flags as usize];
    call(libc::SYS_openat, words).map(|fd| fd as c_int)
}

fn stat(address: u64, to: u64, flags: u64) -> Answer {
    in_tree(address, |path, tree| {
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let at = libc::AT_FDCWD as usize;
        let words = [at, path, &raw mut stat as usize, flags as usize];
        call(libc::SYS_newfstatat, words)?;
        if tree == Tree::Bpffs {
            // SAFETY: the kernel has just written there.
            unsafe { bpffs::empty(&raw mut stat) };
        }
        put(to, &stat)
    })
}

/// Copies a structure of numbers to the caller.
fn put<T>(to: u64, value: &T) -> Result<i64, Errno> {
    // SAFETY: the bytes of a structure that the kernel has filled, or that was
    // zeroed with its padding.
    let bytes = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>())
    };
    user::write(to, bytes).map(|()| 0)
}

fn statx(address: u64, flags: u64, mask: u64, to: u64) -> Answer {
    in_tree(address, |path, tree| {
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut stat: libc::statx = unsafe { std::mem::zeroed() };
        let at = libc::AT_FDCWD as usize;
        let to_here = &raw mut stat as usize;
        let words = [at, path, flags as usize, mask as usize, to_here];
        let answer = call(libc::SYS_statx, words)?;
        if tree == Tree::Bpffs {
            // SAFETY: the kernel has just written there.
            unsafe { bpffs::empty_statx(answer, &raw mut stat) };
        }
        put(to, &stat)
    })
}

fn access(address: u64, mode: u64) -> Answer {
    elsewhere(address, |path| {
        let at = libc::AT_FDCWD as usize;
        call(libc::SYS_faccessat, [at, path, mode as usize])
    })
}

fn readlink(address: u64, to: u64, size: u64) -> Answer {
    let name = user::read_string(address, user::PATH_MAX);
    if let Some(text) = name.ok().as_deref().and_then(files::own::link) {
        let text = &text.as_bytes()[..text.len().min(size as usize)];
        return Answer::Value(user::write(to, text).map(|()| text.len() as i64));
    }
    elsewhere(address, |path| {
        let mut text = vec![0u8; user::PATH_MAX.min(size as usize)];
        let words = [path, text.as_mut_ptr() as usize, text.len()];
        let len = call(libc::SYS_readlink, words)?;
        user::write(to, &text[..len as usize]).map(|()| len)
    })
}

fn statfs(address: u64, to: u64) -> Answer {
    in_tree(address, |path, tree| {
        tell_magic(libc::SYS_statfs, path, tree, to)
    })
}

/// statfs(2) or fstatfs(2) of something in a tree.
fn tell_magic(number: c_long, what: usize, tree: Tree, to: u64) -> Result<i64, Errno> {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    call(number, [what, &raw mut statfs as usize])?;
    statfs.f_type = tree.magic();
    put(to, &statfs)
}

fn fstatfs(fd: c_int, to: u64) -> Answer {
    let path = caller::in_proc(&format!("fd/{fd}"));
    let Ok(path) = CString::new(path) else {
        return Answer::Pass;
    };
    let Ok(own) = open_real(&path, libc::O_PATH | libc::O_CLOEXEC) else {
        return Answer::Pass;
    };
    let tree = match bpffs::is_inside(own) {
        true => Some(Tree::Bpffs),
        false => trees::known_as(own).map(|(tree, _)| tree),
    };
    let answer = match tree {
        Some(tree) => Answer::Value(tell_magic(libc::SYS_fstatfs, own as usize, tree, to)),
        None => Answer::Pass,
    };
    raw::close(own);
    answer
}
