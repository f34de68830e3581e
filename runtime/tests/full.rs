//! A file system without room is an error for the tool that wants more, and
//! nothing to targets.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use bpftime_runtime::session::{Dirs, LinkKind, LinkSpec, Place, Session};
use uapi::{Errno, Insn};
use vm::ProgramSpec;

const PAGE: u64 = 4096;
/// Bytes of the file system: a session, and a little.
const ROOM: &str = "size=512k";

/// Mounts a small file system at `path` for this process alone.
fn mount(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let options = CString::new(ROOM).unwrap();
    let none = std::ptr::null();
    // SAFETY: the kernel reads strings up to their zeros.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                none,
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            ) == 0
            && libc::mount(
                c"none".as_ptr(),
                path.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                options.as_ptr().cast(),
            ) == 0
    }
}

fn fill(file: &mut File) -> u64 {
    while file.write_all(&[1; PAGE as usize]).is_ok() {}
    file.metadata().unwrap().len()
}

fn link(prog: u32) -> LinkSpec {
    LinkSpec {
        kind: LinkKind::Uprobe,
        prog,
        dev: 1,
        ino: 2,
        path: "/bin/true".into(),
        pid: -1,
        enabled: true,
        places: vec![Place {
            offset: 8,
            cookie: 0,
            ref_ctr_offset: 0,
        }],
    }
}

/// What the child does in its file system.
fn story(directory: &Path) {
    let dirs = Dirs {
        state: directory.join("state"),
        sessions: directory.join("sessions"),
    };
    // The roster's memory is not the question here.
    let session = Session::create(&dirs).unwrap();
    let program = ProgramSpec {
        name: "probe".into(),
        prog_type: 2,
        gpl: true,
        insns: vec![Insn::new(0xb7, 0, 0, 0, 7); 2],
        ..ProgramSpec::default()
    };
    let program = session.create_program(&program).unwrap();
    let mut filler = File::create(directory.join("filler")).unwrap();
    let full = fill(&mut filler);
    assert_eq!(session.create_link(&link(program)), Err(Errno::ENOMEM));

    filler.set_len(full - 8 * PAGE).unwrap();
    let made = session.create_link(&link(program)).unwrap();
    std::io::Seek::seek(&mut filler, std::io::SeekFrom::End(0)).unwrap();
    fill(&mut filler);
    let counters = session.counters(made).unwrap();
    counters.add(3, 1);
    assert_eq!((counters.totals().hits, counters.totals().missed), (3, 1));
}

#[test]
fn a_full_file_system_is_told_to_the_tool() {
    let directory = tempfile::tempdir().unwrap();
    // SAFETY: the child works on its own files and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        std::panic::set_hook(Box::new(|info| {
            let text = format!("{info}\n");
            // SAFETY: the bytes of the text.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }));
        let code = match mount(directory.path()) {
            true => std::panic::catch_unwind(|| story(directory.path())).map_or(1, |()| 0),
            false => 77,
        };
        // SAFETY: ends the child without the parent's destructors.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    let may_not_mount = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 77;
    if may_not_mount && std::env::var_os("CI").is_none() {
        return;
    }
    assert_eq!(status, 0, "status {status:#x}");
}
