//! All that tools and programs do with what they share. It knows no contents:
//! whatever comes out is right, if it comes out.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bpftime_runtime::maps::{Map, PerfRing};
use bpftime_runtime::session::{Laggards, Role, Roster};
use bpftime_runtime::thread;
use bpftime_runtime::vcpu::Vcpus;
use shm::Region;
use uapi::map::*;

use crate::process::Random;
use crate::segment;

pub trait Target {
    /// One operation.
    fn operate(&mut self, random: &mut Random);
}

/// Reads and writes every byte that a program may.
fn touch(at: *mut u8, len: usize, random: &mut Random) {
    for at in (0..len).map(|index| at.wrapping_add(index)) {
        // SAFETY: the map said that so many bytes are there.
        unsafe {
            let byte = at.read_volatile();
            at.write_volatile(if random.below(8) == 0 { 0 } else { byte });
        }
    }
}

/// An fd of this process itself, never closed.
fn own_pidfd() -> i32 {
    static OWN: OnceLock<i32> = OnceLock::new();
    *OWN.get_or_init(|| {
        // SAFETY: takes a number and makes an fd.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
        i32::try_from(fd).unwrap()
    })
}

pub struct OfMap {
    map: Map,
    storage: Region,
    /// What may be in a map of maps.
    inner: Vec<Arc<Map>>,
    records: Vec<(*mut u8, u64)>,
    runs: u64,
}

impl OfMap {
    pub fn new(map: Map, storage: Region) -> OfMap {
        let template = segment::spec(BPF_MAP_TYPE_ARRAY, 4, 8, 24, 0);
        let inner = (0..3)
            .map(|_| Arc::new(segment::map(template).unwrap()))
            .collect();
        let mut target = OfMap {
            map,
            storage,
            inner,
            records: Vec::new(),
            runs: 0,
        };
        target.meet();
        target
    }

    fn meet(&mut self) {
        for (id, inner) in (1..).zip(&self.inner) {
            self.map.add_inner(id, inner);
        }
    }

    /// A key of few, so that operations meet; of a trie with any length.
    fn key(&self, random: &mut Random) -> Vec<u8> {
        let spec = self.map.spec();
        if self.map.task_storage().is_some() {
            return own_pidfd().to_ne_bytes().to_vec();
        }
        let number = random.below(2 * u64::from(spec.max_entries.min(300)));
        let mut key = vec![0; spec.key_size as usize];
        if spec.map_type == BPF_MAP_TYPE_LPM_TRIE {
            let bits = random.below(u64::from(spec.key_size - 4) * 8 + 2) as u32;
            key[..4].copy_from_slice(&bits.to_ne_bytes());
            key[4] = number as u8;
        } else {
            let bytes = number.to_ne_bytes();
            let len = key.len().min(8);
            key[..len].copy_from_slice(&bytes[..len]);
        }
        key
    }

    fn value(&self, len: usize, random: &mut Random) -> Vec<u8> {
        let mut value = vec![random.next() as u8; len];
        if self.map.spec().template().is_some() || random.below(4) == 0 {
            value.fill(0);
            let id = (random.below(6) as u32).to_ne_bytes();
            value.iter_mut().zip(id).for_each(|(to, byte)| *to = byte);
        }
        value
    }

    /// As the tool does it, by bpf(2).
    fn call(&mut self, random: &mut Random) {
        let map = &self.map;
        let key = self.key(random);
        let size = map.syscall_value_size();
        let mut value = vec![0; size];
        let flags = [BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK][random.below(4) as usize];
        // Any answer will do.
        match random.below(8) {
            0 => drop(map.lookup(&key, &mut value, flags & BPF_F_LOCK)),
            1..=3 => drop(map.update(&key, &self.value(size, random), flags)),
            4 => drop(map.delete(&key)),
            5 => drop(map.lookup_and_delete(&key, &mut value, 0)),
            6 => self.walk(random),
            _ => {
                map.ready();
                let _ = map.set_slot(random.below(30) as u32, random.next() as u32);
                let _ = map.slot(random.below(30) as u32);
                let _ = map.direct_value(random.below(16) as u32);
            }
        }
    }

    /// `BPF_MAP_GET_NEXT_KEY`, as often as one with patience asks.
    fn walk(&self, random: &mut Random) {
        let map = &self.map;
        let mut next = self.key(random);
        let mut from = None;
        for _ in 0..random.below(60) {
            if map.next_key(from.as_deref(), &mut next).is_err() {
                break;
            }
            from = Some(next.clone());
        }
    }

    /// As programs do it, at the address of a value.
    fn run(&mut self, random: &mut Random) {
        let map = &self.map;
        let spec = *map.spec();
        let (key, size) = (self.key(random), spec.value_size as usize);
        let mut value = self.value(size.max(4), random);
        let cpus = u64::from(segment::possible_cpus());
        let vcpu = random.below(cpus) as u32;
        let flags = random.below(3);
        // SAFETY: key and value have the map's sizes.
        unsafe {
            match random.below(10) {
                9 => self.each(vcpu, random),
                0 | 1 => self.look(map.lookup_ptr(key.as_ptr(), vcpu), random),
                2 => self.look(map.lookup_percpu_ptr(key.as_ptr(), vcpu + 1), random),
                3 | 4 => drop(map.update_prog(key.as_ptr(), value.as_ptr(), flags, vcpu)),
                5 => drop(map.delete_prog(key.as_ptr())),
                6 => drop(map.push(value.as_ptr(), flags)),
                7 => drop(map.pop(value.as_mut_ptr())),
                _ => drop(map.peek(value.as_mut_ptr())),
            }
        }
    }

    /// `bpf_for_each_map_elem`, with a callback that changes the map.
    fn each(&self, vcpu: u32, random: &mut Random) {
        let (map, size) = (&self.map, self.map.spec().value_size as usize);
        let mut left = 20_000;
        map.for_each(vcpu, &mut |key, value| {
            touch(value, size, random);
            if random.below(4) == 0 {
                // SAFETY: a key of the map.
                unsafe { map.delete_prog(key) };
            }
            left -= 1;
            left > 0
        });
    }

    fn look(&self, found: *mut u8, random: &mut Random) {
        let map = &self.map;
        if found.is_null() {
            return;
        }
        if map.spec().template().is_some() {
            let known = self.inner.iter().map(Arc::as_ptr);
            assert!(
                known
                    .into_iter()
                    .any(|inner| inner == found.cast_const().cast())
            );
            return;
        }
        // Another byte than the storage's would fault.
        touch(found, map.spec().value_size as usize, random);
    }

    fn ring(&mut self, random: &mut Random) {
        let Some(ring) = self.map.ring() else {
            return self.drain(random);
        };
        match random.below(8) {
            0 | 1 => {
                let len = [0, 8, 13, 500, 4000, 5000][random.below(6) as usize];
                let record = ring.reserve(len);
                if !record.is_null() {
                    assert!(record.addr() % 8 == 0 && ring.contains(record));
                    touch(record, len as usize, random);
                    self.records.push((record, len));
                }
            }
            2 | 3 if !self.records.is_empty() => {
                let at = random.below(self.records.len() as u64) as usize;
                let (record, len) = self.records.swap_remove(at);
                touch(record, len as usize, random);
                ring.commit(record, random.below(3), random.below(2) == 0);
            }
            4 => {
                let data = vec![7; random.below(600) as usize];
                // SAFETY: the bytes of a vector.
                let _ = unsafe { ring.output(data.as_ptr(), data.len() as u64, 0) };
            }
            5 => drop(ring.query(random.below(5))),
            6 => drop((ring.is_empty(), ring.dropped(), self.map.ready())),
            _ => self.map.reclaim(),
        }
    }

    fn drain(&mut self, random: &mut Random) {
        let Some(ring) = self.map.user_ring() else {
            return self.map.reclaim();
        };
        self.runs += 1;
        let mut left = random.below(3000);
        ring.drain(self.runs, random.below(4), &mut |at, len| {
            touch(at, len as usize, random);
            left = left.saturating_sub(1);
            left > 0
        });
    }

    /// Values of threads that are, were and never will be.
    fn task(&self, random: &mut Random) {
        let Some(storage) = self.map.task_storage() else {
            return;
        };
        let tids = [thread::ids().tid, 1, 2, 4_000_000];
        let tid = tids[random.below(4) as usize];
        match random.below(5) {
            0 => drop(storage.remove(tid)),
            1 if random.below(20) == 0 => self.map.reclaim(),
            turn => {
                // SAFETY: no initial value.
                let found = unsafe { storage.get(tid, std::ptr::null(), turn > 2) };
                self.look(found, random);
            }
        }
    }

    fn stack(&self, random: &mut Random) {
        let frames: Vec<u64> = (0..random.below(14)).map(|_| random.below(3)).collect();
        let flags = [
            0,
            BPF_F_USER_STACK,
            BPF_F_REUSE_STACKID,
            BPF_F_FAST_STACK_CMP,
        ][random.below(4) as usize];
        self.map.stack_put(&frames, flags);
    }
}

impl Target for OfMap {
    fn operate(&mut self, random: &mut Random) {
        match random.below(12) {
            0..=4 => self.call(random),
            5..=8 if self.map.task_storage().is_some() => self.task(random),
            5..=8 => self.run(random),
            9 => self.ring(random),
            10 => self.stack(random),
            _ if random.below(4) == 0 => {
                // Another process opens it now.
                let spec = *self.map.spec();
                let storage = self.storage.clone();
                let map = Map::open(spec, storage, segment::possible_cpus()).unwrap();
                self.records.clear();
                self.map = map;
                self.meet();
            }
            _ => self.ring(random),
        }
    }
}

/// A perf ring, vCPU claims, or the roster.
pub struct OfPerfRing(pub PerfRing);

impl Target for OfPerfRing {
    fn operate(&mut self, random: &mut Random) {
        let data = vec![7; [0, 8, 100, 4000, 9000, 70_000][random.below(6) as usize]];
        let parts = [
            (data.as_ptr(), data.len()),
            (data.as_ptr(), data.len().min(5)),
        ];
        // SAFETY: the bytes of a vector; nobody else writes to the ring but who
        // writes to everything.
        let _ = unsafe { self.0.output(&parts) };
        self.0.ready();
        self.0.dropped();
    }
}

pub struct OfVcpus(pub Vcpus);

impl Target for OfVcpus {
    fn operate(&mut self, random: &mut Random) {
        if let Some(slot) = self.0.claim(thread::ids()) {
            assert!(slot < self.0.count());
            if random.below(4) > 0 {
                self.0.release(slot);
            }
        }
    }
}

pub struct OfRoster(pub Roster, pub Laggards);

impl Target for OfRoster {
    fn operate(&mut self, random: &mut Random) {
        let OfRoster(roster, laggards) = self;
        let wait = Duration::from_millis(3);
        match random.below(6) {
            0 => roster.publish(wait, laggards),
            1 => drop(roster.members()),
            2 => drop(roster.agents()),
            3 => drop(roster.detach(random.below(100) as i32, wait)),
            4 => drop(roster.bump()),
            _ => {
                let role = [Role::Tool, Role::Agent][random.below(2) as usize];
                if let Ok(slot) = roster.join(role) {
                    slot.ack(roster.generation(), 1, 2, "none");
                    slot.sleep(
                        slot.wake_word().load(std::sync::atomic::Ordering::Relaxed),
                        Some(wait),
                    );
                    slot.detach_requested();
                    slot.leave();
                }
            }
        }
    }
}
