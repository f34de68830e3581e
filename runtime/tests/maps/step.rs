//! Runs an operation in a child, instruction by instruction, and remembers
//! every state of the map's storage that was there in between: what a kill at
//! any instruction boundary would leave. It knows no map type.

use bpftime_runtime::maps::{Map, MapSpec};
use shm::Region;

use crate::process::Zombie;
use crate::segment;

/// Instructions after which an operation is taken for endless.
const MOST_STEPS: u64 = 1 << 20;

/// A map, its storage, and what the storage held when it was prepared.
pub struct Bench {
    spec: MapSpec,
    storage: Region,
    prepared: Vec<u8>,
    /// Those that were killed.
    zombies: Vec<Zombie>,
}

/// What a child did to the storage.
pub struct Trace {
    /// States in order, each once; the first is the prepared one.
    pub states: Vec<Vec<u8>>,
    /// For each state but the first, the instructions before the one that
    /// made it.
    pub before: Vec<u64>,
}

impl Bench {
    pub fn new(spec: MapSpec, prepare: impl FnOnce(&Map)) -> Bench {
        let (map, storage) = segment::map_and_storage(spec).unwrap();
        prepare(&map);
        let mut bench = Bench {
            spec,
            storage,
            prepared: Vec::new(),
            zombies: Vec::new(),
        };
        bench.prepared = bench.contents();
        bench
    }

    /// The map as a process sees it that opens it now.
    pub fn open(&self) -> Map {
        Map::open(self.spec, self.storage.clone(), segment::possible_cpus()).unwrap()
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.storage.len() as usize];
        // SAFETY: the whole storage, into as many bytes; who else writes it is
        // stopped or gone.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from(self.storage.as_ptr(), bytes.len())
        };
        bytes
    }

    fn differs(&self, from: &[u8]) -> bool {
        // SAFETY: the whole storage; who else writes it is stopped or gone.
        let now = unsafe { std::slice::from_raw_parts(self.storage.as_ptr(), from.len()) };
        now != from
    }

    /// The map with the storage of a state.
    pub fn at(&self, state: &[u8]) -> Map {
        assert_eq!(state.len() as u64, self.storage.len());
        // SAFETY: the whole storage, which nobody else uses now.
        unsafe { self.storage.as_ptr().copy_from(state.as_ptr(), state.len()) };
        self.open()
    }

    /// Runs `operation` in a child from the prepared state on.
    pub fn trace(&self, operation: impl FnOnce(&Map)) -> Trace {
        let child = Stepped::fork(self.at(&self.prepared), operation);
        let mut trace = Trace {
            states: vec![self.prepared.clone()],
            before: Vec::new(),
        };
        for steps in 0.. {
            if !child.step() {
                return trace;
            }
            if self.differs(&trace.states[trace.states.len() - 1]) {
                trace.states.push(self.contents());
                trace.before.push(steps);
            }
            assert!(steps < MOST_STEPS, "an operation without end");
        }
        unreachable!("counted to the end of numbers")
    }

    /// Kills a child right after the change number `changes` of its `operation`, from
    /// 1, lets `mend` see the map, and goes on from there. `false` if it makes
    /// fewer. Nobody waits for the child.
    pub fn kill(
        &mut self,
        operation: impl FnOnce(&Map),
        changes: u64,
        mend: impl FnOnce(&Map),
    ) -> bool {
        let map = self.at(&self.prepared);
        let child = Stepped::fork(self.open(), operation);
        let mut last = self.prepared.clone();
        for _ in 0..changes {
            while !self.differs(&last) {
                if !child.step() {
                    return false;
                }
            }
            last = self.contents();
        }
        self.zombies.push(child.kill());
        mend(&map);
        self.prepared = self.contents();
        true
    }

    /// Stops a child after `steps` instructions of `operation`, calls
    /// `meanwhile`, and lets the child end: the map then.
    pub fn interleave(
        &self,
        operation: impl FnOnce(&Map),
        steps: u64,
        meanwhile: impl FnOnce(&Map),
    ) -> Map {
        let child = Stepped::fork(self.at(&self.prepared), operation);
        for _ in 0..steps {
            assert!(child.step());
        }
        meanwhile(&self.open());
        child.finish();
        self.open()
    }
}

/// A traced child that stopped before its operation.
struct Stepped {
    pid: i32,
}

impl Stepped {
    fn fork(map: Map, operation: impl FnOnce(&Map)) -> Stepped {
        // SAFETY: the child works on the map and ends; it does not allocate in
        // ways that need other threads.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: system calls on the own process.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
            }
            operation(&map);
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(0) };
        }
        let child = Stepped { pid };
        assert!(libc::WIFSTOPPED(child.wait()));
        child
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: waits for our own child.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(waited, self.pid);
        status
    }

    fn resume(&self, request: libc::c_uint) -> i32 {
        // SAFETY: our own child, which is stopped; no signal is delivered.
        let done = unsafe { libc::ptrace(request, self.pid, 0, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        self.wait()
    }

    /// One instruction; `false` when the child has ended.
    fn step(&self) -> bool {
        let status = self.resume(libc::PTRACE_SINGLESTEP);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0);
            return false;
        }
        assert!(libc::WIFSTOPPED(status), "status {status:#x}");
        assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP);
        true
    }

    fn kill(self) -> Zombie {
        // SAFETY: our own child, which is stopped.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        Zombie::of(self.pid)
    }

    fn finish(self) {
        let status = self.resume(libc::PTRACE_CONT);
        assert!(libc::WIFEXITED(status), "status {status:#x}");
    }
}
