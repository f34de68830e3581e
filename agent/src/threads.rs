//! The other threads of this process, as /proc shows them. A thread that has
//! gone is told apart from one of which nothing can be read, as in a process
//! that has no fd left: of that one, fear the worst.

use std::ffi::CString;

use runtime::session::file;

/// All threads but the calling one; `None` when they cannot be listed.
pub fn others() -> Option<Vec<i32>> {
    let own = shm::sys::gettid();
    let mut ids = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").ok()? {
        let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
        if id != own {
            ids.push(id);
        }
    }
    Some(ids)
}

/// A file of a thread; `None` when it has gone or cannot be read.
pub fn read(tid: i32, what: &str) -> Option<String> {
    let path = CString::new(format!("/proc/self/task/{tid}/{what}")).ok()?;
    let bytes = file::read_small(&path, 1 << 16).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of proc_pid_status(5).
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.get(name.len()..).map(str::trim)
}

/// Whether a thread will never run again. Certain: false in doubt.
pub fn has_gone(tid: i32) -> bool {
    if !shm::sys::alive(shm::sys::getpid(), tid) {
        return true;
    }
    let status = read(tid, "status");
    let state = status.as_deref().and_then(|status| field(status, "State:"));
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_is_there_until_it_ends() {
        let (told, tid) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            told.send(shm::sys::gettid()).expect("a receiver");
            // The sender goes when the thread may end.
            ended.recv().expect_err("nothing is sent");
        });
        let tid = tid.recv().expect("a thread");
        assert!(others().expect("a list").contains(&tid));
        assert!(!has_gone(tid));
        drop(end);
        thread.join().expect("its end");
        while !has_gone(tid) {
            std::thread::yield_now();
        }
        assert_eq!(read(tid, "status"), None);
    }
}
