//! bpf(2) on a map, answered by the kernel or by the commands that tools meet.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bpftime_runtime::command::batch::{BatchKind, cursor_size};
use bpftime_runtime::command::elem::{NewValue, value_size};
use bpftime_runtime::command::map::Elements;
use bpftime_runtime::command::prog::ProgLoad;
use bpftime_runtime::command::{Bpf, MapObject, ProgObject};
use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::session::{Dirs, Session};
use uapi::insn::{BPF_ALU64, BPF_EXIT, BPF_JMP, BPF_K, BPF_MOV};
use uapi::map::BPF_MAP_TYPE_BLOOM_FILTER;
use uapi::prog::BPF_PROG_TYPE_KPROBE;
use uapi::{Errno, Insn};
use vm::ProgramSpec;

use crate::kernel::{self, BatchAttr, KernelMap};

/// What a call of a batch command asks, beside keys and values.
#[derive(Clone, Debug)]
pub struct BatchCall {
    pub kind: BatchKind,
    pub cursor: Option<Vec<u8>>,
    pub count: u32,
    pub elem_flags: u64,
    pub flags: u64,
}

/// What it answered. `count` is what the caller's attribute holds afterwards.
#[derive(Debug, PartialEq, Eq)]
pub struct BatchAnswer {
    pub result: Result<(), Errno>,
    pub count: u32,
    pub cursor: Vec<u8>,
}

/// bpf(2) on one map.
pub trait Side {
    fn lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno>;
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno>;
    fn delete(&self, key: &[u8]) -> Result<(), Errno>;
    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno>;
    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno>;
    fn freeze(&self) -> Result<(), Errno>;
    fn batch(&self, call: &BatchCall, keys: &mut [u8], values: &mut [u8]) -> BatchAnswer;
}

impl Side for KernelMap {
    fn lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        KernelMap::lookup(self, key, value, flags)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        KernelMap::update(self, key, value, flags)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        KernelMap::delete(self, key)
    }

    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        KernelMap::lookup_and_delete(self, key, value, flags)
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        KernelMap::next_key(self, key, next)
    }

    fn freeze(&self) -> Result<(), Errno> {
        KernelMap::freeze(self)
    }

    fn batch(&self, call: &BatchCall, keys: &mut [u8], values: &mut [u8]) -> BatchAnswer {
        // Long enough for the cursor of every type.
        let mut out = vec![0; 4096];
        let in_batch = call.cursor.as_ref().map(|cursor| {
            let mut bytes = cursor.clone();
            bytes.resize(4096, 0);
            bytes
        });
        let mut attr = BatchAttr {
            in_batch: in_batch.as_ref().map_or(0, |cursor| cursor.as_ptr() as u64),
            out_batch: out.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: call.count,
            elem_flags: call.elem_flags,
            flags: call.flags,
            ..BatchAttr::default()
        };
        let command = match call.kind {
            BatchKind::Lookup => kernel::BPF_MAP_LOOKUP_BATCH,
            BatchKind::LookupAndDelete => kernel::BPF_MAP_LOOKUP_AND_DELETE_BATCH,
            BatchKind::Update => kernel::BPF_MAP_UPDATE_BATCH,
            BatchKind::Delete => kernel::BPF_MAP_DELETE_BATCH,
        };
        let result = KernelMap::batch(self, command, &mut attr);
        BatchAnswer {
            result,
            count: attr.count,
            cursor: out,
        }
    }
}

/// A program on each side, for maps whose elements are objects.
struct Objects {
    ours: Arc<ProgObject>,
    theirs: OwnedFd,
}

impl Objects {
    fn new(bpf: &Bpf) -> Objects {
        let insns = vec![
            Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
            Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        ];
        let theirs = kernel::program(BPF_PROG_TYPE_KPROBE, &insns).unwrap();
        let load = ProgLoad {
            spec: ProgramSpec {
                prog_type: BPF_PROG_TYPE_KPROBE,
                gpl: true,
                insns,
                ..ProgramSpec::default()
            },
            maps: Vec::new(),
            btf: None,
        };
        Objects {
            ours: bpf.prog_load(load, None).unwrap(),
            theirs,
        }
    }
}

/// The commands on a session of their own.
pub struct Commands {
    objects: Objects,
    bpf: Bpf,
    _root: tempfile::TempDir,
}

impl Commands {
    pub fn new() -> Commands {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let dirs = Dirs {
            state: root.path().join("state"),
            sessions: root.path().join("sessions"),
        };
        let bpf = Bpf::new(Session::create(&dirs).unwrap());
        Commands {
            objects: Objects::new(&bpf),
            bpf,
            _root: root,
        }
    }

    /// Bytes of memory that maps' storage takes.
    pub fn memory(&self) -> u64 {
        let data = self.bpf.session().unwrap().path().join("data");
        std::os::unix::fs::MetadataExt::blocks(&data.metadata().unwrap()) * 512
    }

    pub fn create(&self, spec: MapSpec) -> Result<OurMap<'_>, Errno> {
        let map = self.bpf.map_create(spec, None, None)?;
        Ok(OurMap {
            bpf: &self.bpf,
            objects: &self.objects,
            map,
        })
    }
}

/// A map of ours.
pub struct OurMap<'c> {
    bpf: &'c Bpf,
    objects: &'c Objects,
    map: Arc<MapObject>,
}

impl OurMap<'_> {
    /// Bytes of a value as bpf(2) copies it.
    pub fn value_size(&self) -> usize {
        value_size(&self.map)
    }

    /// Whether values name objects of one side.
    pub fn of_objects(&self) -> bool {
        self.map.elements() != Elements::Bytes
    }

    /// The value of an update of the kernel's map that does what `value`
    /// does on ours: the fd of the program, or none.
    pub fn their_value(&self, value: &[u8]) -> Vec<u8> {
        match self.of_objects() {
            false => value.to_vec(),
            true if value[0] == 0 => self.objects.theirs.as_raw_fd().to_le_bytes().to_vec(),
            true => (-1i32).to_le_bytes().to_vec(),
        }
    }

    /// Bytes of a batch's cursor.
    pub fn cursor_size(&self) -> usize {
        cursor_size(&self.map)
    }

    fn try_batch(
        &self,
        call: &BatchCall,
        keys: &mut [u8],
        values: &mut [u8],
        answer: &mut BatchAnswer,
    ) -> Result<(), Errno> {
        let (bpf, map) = (self.bpf, &*self.map);
        bpf.map_batch_check(map, call.kind, call.elem_flags, call.flags)?;
        if call.count == 0 {
            return Ok(());
        }
        answer.count = 0;
        let nth = |row: &[u8], index: u32, to: &mut [u8]| {
            let at = index as usize * to.len();
            to.copy_from_slice(&row[at..at + to.len()]);
        };
        let done = match call.kind {
            BatchKind::Lookup | BatchKind::LookupAndDelete => {
                let delete = call.kind == BatchKind::LookupAndDelete;
                let cursor = call.cursor.as_deref();
                let batch =
                    bpf.map_lookup_batch(map, cursor, call.count, call.elem_flags, delete)?;
                keys[..batch.keys.len()].copy_from_slice(&batch.keys);
                values[..batch.values.len()].copy_from_slice(&batch.values);
                answer.cursor[..batch.cursor.len()].copy_from_slice(&batch.cursor);
                answer.count = batch.count;
                return match batch.ended {
                    true => Err(Errno::ENOENT),
                    false => Ok(()),
                };
            }
            BatchKind::Update => bpf.map_update_batch(
                map,
                call.count,
                call.elem_flags,
                |index, key, value| {
                    nth(keys, index, key);
                    nth(values, index, value);
                    Ok(())
                },
                |_| NewValue::Unknown(Errno::EBADF),
            ),
            BatchKind::Delete => bpf.map_delete_batch(map, call.count, |index, key| {
                nth(keys, index, key);
                Ok(())
            }),
        };
        let (count, result) = match done {
            Ok(count) => (count, Ok(())),
            Err(stopped) => (stopped.count, Err(stopped.errno)),
        };
        answer.count = count;
        result
    }
}

impl Side for OurMap<'_> {
    fn lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let mut copy = value.to_vec();
        self.bpf.map_lookup(&self.map, key, &mut copy, flags)?;
        if self.map.map().spec().map_type != BPF_MAP_TYPE_BLOOM_FILTER {
            value.copy_from_slice(&copy);
        }
        Ok(())
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let value = match self.map.elements() {
            Elements::Bytes => NewValue::Bytes(value),
            Elements::Progs if value[0] == 0 => NewValue::Prog(Arc::clone(&self.objects.ours)),
            _ => NewValue::Unknown(Errno::EBADF),
        };
        self.bpf.map_update(&self.map, key, value, flags)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.bpf.map_delete(&self.map, key)
    }

    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let mut copy = value.to_vec();
        let result = self
            .bpf
            .map_lookup_and_delete(&self.map, key, &mut copy, flags);
        // A value is written when there is one.
        if result.is_ok() {
            value.copy_from_slice(&copy);
        }
        result
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        self.bpf.map_next_key(&self.map, key, next)
    }

    fn freeze(&self) -> Result<(), Errno> {
        self.bpf.map_freeze(&self.map)
    }

    fn batch(&self, call: &BatchCall, keys: &mut [u8], values: &mut [u8]) -> BatchAnswer {
        let mut answer = BatchAnswer {
            result: Ok(()),
            count: call.count,
            cursor: vec![0; 4096],
        };
        answer.result = self.try_batch(call, keys, values, &mut answer);
        answer
    }
}
