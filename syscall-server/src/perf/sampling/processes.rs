//! Sampled processes: their threads' names, whose they are, and what they have
//! mapped. Begun with what /proc says, then as the kernel's records tell, so
//! that it is right for processes that have ended meanwhile. It knows no event.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::sync::Arc;

use runtime::mapped::{self, Files, Mapping};
use runtime::sample::COMM;
use runtime::thread::ThreadIds;
use runtime::unwind::{Module, Tables};

/// What is known of the threads that are sampled.
#[derive(Default)]
pub struct Processes {
    threads: HashMap<i32, Thread>,
    processes: HashMap<i32, Process>,
    files: Files,
}

struct Thread {
    pid: i32,
    name: [u8; COMM],
}

/// A process.
#[derive(Clone, Default)]
struct Process {
    /// Real group id in the upper, user id in the lower half.
    uid_gid: u64,
    /// Mapped text, by address.
    texts: Vec<Mapping>,
    modules: Vec<(Mapping, Option<Module>)>,
    /// `None` when something else is mapped than when it was made.
    tables: Option<Arc<Tables>>,
}

/// What a sample needs to know of its thread.
pub struct Whose {
    /// Its name.
    pub name: [u8; COMM],
    /// As in the process.
    pub uid_gid: u64,
    /// What stack walks need, if they were asked for.
    pub tables: Arc<Tables>,
}

impl Processes {
    /// Learns of a process before it is sampled.
    pub fn meet(&mut self, pid: i32) {
        self.processes
            .entry(pid)
            .or_insert_with(|| Process::read(pid));
    }

    /// Makes its tables before they are needed.
    pub fn prepare(&mut self, pid: i32) {
        self.meet(pid);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.tables(pid, &mut self.files);
        }
    }

    /// Whose a sample is.
    pub fn of(&mut self, ids: ThreadIds, with_tables: bool) -> Whose {
        self.meet(ids.pid);
        let name = self.thread(ids).name;
        let process = self.processes.entry(ids.pid).or_default();
        Whose {
            name,
            uid_gid: process.uid_gid,
            tables: match with_tables {
                true => process.tables(ids.pid, &mut self.files),
                false => Arc::default(),
            },
        }
    }

    fn thread(&mut self, ids: ThreadIds) -> &mut Thread {
        match self.threads.entry(ids.tid) {
            // Ids come again.
            Entry::Occupied(known) if known.get().pid != ids.pid => {
                let thread = known.into_mut();
                *thread = Thread::read(ids);
                thread
            }
            known => known.or_insert_with(|| Thread::read(ids)),
        }
    }

    /// A thread was made.
    pub fn made(&mut self, ids: ThreadIds, by: ThreadIds) {
        let name = self.thread(by).name;
        let pid = ids.pid;
        self.threads.insert(ids.tid, Thread { pid, name });
        if pid != by.pid {
            self.meet(by.pid);
            let process = self.processes.get(&by.pid).cloned();
            self.processes.insert(pid, process.unwrap_or_default());
        }
    }

    /// A thread has ended.
    pub fn ended(&mut self, ids: ThreadIds) {
        self.threads.remove(&ids.tid);
        if !self.threads.values().any(|thread| thread.pid == ids.pid) {
            self.processes.remove(&ids.pid);
        }
    }

    /// A thread has another name, `executes` says whether with a program.
    pub fn named(&mut self, ids: ThreadIds, name: [u8; COMM], executes: bool) {
        let pid = ids.pid;
        self.threads.insert(ids.tid, Thread { pid, name });
        if executes {
            let process = self.processes.entry(pid).or_default();
            process.texts.clear();
            process.tables = None;
        }
    }

    /// A process has mapped text.
    pub fn mapped(&mut self, pid: i32, text: Mapping) {
        // Of who is not known all will be read.
        if let Some(process) = self.processes.get_mut(&pid) {
            process.map(text);
        }
    }
}

impl Thread {
    fn read(ids: ThreadIds) -> Thread {
        let path = format!("/proc/{}/task/{}/comm", ids.pid, ids.tid);
        let text = fs::read(path).unwrap_or_default();
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let mut name = [0; COMM];
        for (to, from) in name.iter_mut().take(COMM - 1).zip(text) {
            *to = *from;
        }
        Thread { pid: ids.pid, name }
    }
}

impl Process {
    fn read(pid: i32) -> Process {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let id = |word: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(word));
            let real = line.and_then(|ids| ids.split_whitespace().next());
            real.and_then(|id| id.parse::<u32>().ok()).unwrap_or(0)
        };
        let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        Process {
            uid_gid: u64::from(id("Gid:")) << 32 | u64::from(id("Uid:")),
            texts: mapped::executable(&maps),
            ..Process::default()
        }
    }

    /// `new` is mapped from now on, in place of what was where it is.
    fn map(&mut self, new: Mapping) {
        let mut texts = Vec::with_capacity(self.texts.len() + 1);
        for old in self.texts.drain(..) {
            let (start, end) = (old.range.start, old.range.end);
            let before = start..end.min(new.range.start);
            let behind = start.max(new.range.end)..end;
            for range in [before, behind] {
                if !range.is_empty() {
                    let offset = old.offset + (range.start - start) as u64;
                    texts.push(Mapping {
                        range,
                        offset,
                        ..old.clone()
                    });
                }
            }
        }
        texts.push(new);
        texts.sort_by_key(|text| text.range.start);
        self.texts = mapped::joined(texts.into_iter());
        self.tables = None;
    }

    fn tables(&mut self, pid: i32, files: &mut Files) -> Arc<Tables> {
        if let Some(tables) = &self.tables {
            return Arc::clone(tables);
        }
        let mut before = std::mem::take(&mut self.modules);
        for text in &self.texts {
            let known = before.iter().position(|(made, _)| made == text);
            let module = match known {
                Some(index) => before.swap_remove(index).1,
                None => text.module(&pid.to_string(), files),
            };
            self.modules.push((text.clone(), module));
        }
        let modules = self.modules.iter().filter_map(|(_, module)| module.clone());
        let tables = Arc::new(Tables::new(modules.collect()));
        self.tables = Some(Arc::clone(&tables));
        tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(start: usize, end: usize, offset: u64, ino: u64) -> Mapping {
        Mapping {
            range: start..end,
            offset,
            dev: 1,
            ino,
            path: "/x".into(),
        }
    }

    #[test]
    fn what_is_mapped_takes_the_place_of_what_was() {
        let mut process = Process::default();
        process.map(text(0x1000, 0x5000, 0x1000, 1));
        process.map(text(0x2000, 0x3000, 0, 2));
        let expected = [
            text(0x1000, 0x2000, 0x1000, 1),
            text(0x2000, 0x3000, 0, 2),
            text(0x3000, 0x5000, 0x3000, 1),
        ];
        assert_eq!(process.texts, expected);
        // As when text was made writable and back.
        process.map(text(0x2000, 0x3000, 0x2000, 1));
        assert_eq!(process.texts, [text(0x1000, 0x5000, 0x1000, 1)]);
    }

    #[test]
    fn threads_inherit_and_end() {
        let own = ThreadIds {
            pid: shm::sys::getpid(),
            tid: shm::sys::gettid(),
        };
        // No such process exists.
        let child = ThreadIds {
            pid: 1 << 23,
            tid: 1 << 23,
        };
        let mut processes = Processes::default();
        processes.named(own, *b"parent\0\0\0\0\0\0\0\0\0\0", false);
        processes.made(child, own);
        let whose = processes.of(child, true);
        assert!(whose.name.starts_with(b"parent\0"));
        assert_eq!(whose.uid_gid as u32, shm::sys::getuid());
        let here = threads_inherit_and_end as *const () as u64;
        assert!(whose.tables.place_in_file(here).is_some());
        processes.named(child, *b"child\0\0\0\0\0\0\0\0\0\0\0", true);
        let whose = processes.of(child, true);
        assert!(whose.name.starts_with(b"child\0"));
        assert!(
            whose.tables.place_in_file(here).is_none(),
            "it runs something else"
        );
        processes.ended(child);
        assert_eq!(processes.of(child, false).uid_gid, 0, "nothing is known");
    }
}
