//! Operations on a map, as data: generated from a seed, run on both sides.

use std::collections::BTreeMap;

use bpftime_runtime::command::batch::BatchKind;
use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::map::*;

use super::side::{BatchCall, OurMap, Side};
use crate::kernel::KernelMap;
use crate::process::Random;

/// What a sequence of operations is run on.
#[derive(Clone, Copy)]
pub struct Case {
    pub spec: MapSpec,
    /// Numbers of keys that are used.
    pub keys: u32,
    /// The bytes of key `n`.
    pub key: fn(&MapSpec, u32) -> Vec<u8>,
    /// Whether the order of keys is the kernel's.
    pub ordered: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    Lookup {
        key: u32,
        flags: u64,
    },
    Update {
        key: u32,
        value: u8,
        flags: u64,
    },
    Delete {
        key: u32,
    },
    LookupAndDelete {
        key: u32,
        flags: u64,
    },
    NextKey {
        key: Option<u32>,
    },
    /// Batches of `step` elements until the map ends.
    Walk {
        delete: bool,
        step: u32,
    },
    /// A single batch of keys from `key` on.
    Batch {
        kind: BatchKind,
        key: u32,
        value: u8,
        count: u32,
        elem_flags: u64,
        flags: u64,
    },
    /// A single lookup batch after a key of the caller's choice.
    From {
        key: u32,
        count: u32,
    },
    /// All contents, by next key and lookup.
    Contents,
    Freeze,
}

/// Mostly `usual`, sometimes one of the others.
fn flags(random: &mut Random, usual: &[u64], others: &[u64]) -> u64 {
    let list = if random.below(8) == 0 { others } else { usual };
    list[random.below(list.len() as u64) as usize]
}

impl Op {
    pub fn random(case: &Case, random: &mut Random) -> Op {
        const ODD: [u64; 6] = [1, BPF_F_LOCK, 3, 8, 1 << 33, u64::MAX];
        let key = random.below(u64::from(case.keys)) as u32;
        let value = random.next() as u8;
        let count = random.below(u64::from(case.keys) + 2) as u32;
        match random.below(100) {
            0..20 => Op::Lookup {
                key,
                flags: flags(random, &[0], &ODD),
            },
            20..56 => {
                let usual = [BPF_ANY, BPF_ANY, BPF_NOEXIST, BPF_EXIST];
                Op::Update {
                    key,
                    value,
                    flags: flags(random, &usual, &ODD),
                }
            }
            // Without keys, deletions take out nothing.
            56..64 if case.spec.key_size == 0 => Op::LookupAndDelete { key, flags: 0 },
            56..70 => Op::Delete { key },
            70..76 => Op::LookupAndDelete {
                key,
                flags: flags(random, &[0], &ODD),
            },
            76..84 => Op::NextKey {
                key: (random.below(6) != 0).then_some(key),
            },
            84..88 => Op::Walk {
                delete: random.below(4) == 0,
                step: count.max(1),
            },
            88..96 => {
                use BatchKind::{Delete, Lookup, LookupAndDelete, Update};
                let kind = [Lookup, LookupAndDelete, Update, Update, Delete, Delete];
                let kind = kind[random.below(6) as usize];
                let count = match kind {
                    // A part of an unordered map is up to the kernel.
                    Lookup | LookupAndDelete if !case.ordered => {
                        [0, case.keys][random.below(2) as usize]
                    }
                    _ => count,
                };
                let elem_flags = flags(random, &[0], &ODD);
                let flags = flags(random, &[0, 0, 0, 1], &ODD);
                Op::Batch {
                    kind,
                    key,
                    value,
                    count,
                    elem_flags,
                    flags,
                }
            }
            96..98 => Op::From {
                key,
                count: count.max(1),
            },
            _ if random.below(30) == 0 => Op::Freeze,
            _ => Op::Contents,
        }
    }
}

/// Runs operations on both sides and says where they differ.
pub struct Pair<'a> {
    pub case: Case,
    pub theirs: KernelMap,
    pub ours: OurMap<'a>,
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

macro_rules! same {
    ($ours:expr, $theirs:expr) => {{
        let (ours, theirs) = ($ours, $theirs);
        if ours != theirs {
            return Err(format!("ours {ours:?}\nkernel {theirs:?}"));
        }
    }};
}

impl Pair<'_> {
    fn key(&self, key: u32) -> Vec<u8> {
        (self.case.key)(&self.case.spec, key)
    }

    fn value(&self, seed: u8) -> Vec<u8> {
        let bytes = 0..self.ours.value_size();
        // Programs and nothing in turn.
        let seed = if self.ours.of_objects() {
            seed % 2
        } else {
            seed
        };
        bytes.map(|at| seed.wrapping_add(at as u8)).collect()
    }

    pub fn run(&self, op: &Op) -> Result<(), String> {
        let (ours, theirs) = (&self.ours, &self.theirs);
        let fresh = || self.value(0x77);
        match *op {
            Op::Lookup { key, flags } => {
                // A bloom filter is asked for the value.
                let asked = || self.value(key as u8);
                let (mut our, mut their) = (asked(), asked());
                let key = self.key(key);
                let result = ours.lookup(&key, &mut our, flags);
                same!(result, theirs.lookup(&key, &mut their, flags));
                if !ours.of_objects() {
                    same!(our, their);
                }
            }
            Op::Update { key, value, flags } => {
                let (key, value) = (self.key(key), self.value(value));
                let result = ours.update(&key, &value, flags);
                let value = ours.their_value(&value);
                same!(result, theirs.update(&key, &value, flags));
            }
            Op::Delete { key } => {
                let key = self.key(key);
                same!(ours.delete(&key), theirs.delete(&key));
            }
            Op::LookupAndDelete { key, flags } => {
                let (key, mut our, mut their) = (self.key(key), fresh(), fresh());
                let result = ours.lookup_and_delete(&key, &mut our, flags);
                same!(result, theirs.lookup_and_delete(&key, &mut their, flags));
                same!(our, their);
            }
            Op::NextKey { key } => {
                let key = key.map(|key| self.key(key));
                let mut next = [0; 2].map(|_: i32| vec![0x77; self.case.spec.key_size as usize]);
                let [our, their] = &mut next;
                let result = ours.next_key(key.as_deref(), our);
                let expected = theirs.next_key(key.as_deref(), their);
                // Which key is the last is the order's business.
                if self.case.ordered || key.is_none() || expected == Err(Errno::ENOTSUPP) {
                    same!(result, expected);
                }
                if self.case.ordered {
                    same!(our, their);
                }
            }
            Op::Walk { delete, step } => {
                let kind = match delete {
                    true => BatchKind::LookupAndDelete,
                    false => BatchKind::Lookup,
                };
                let walk = |side| self.walk(side, kind, step);
                same!(walk(ours), walk(theirs));
            }
            Op::Batch {
                kind,
                key,
                value,
                count,
                elem_flags,
                flags,
            } => {
                let call = BatchCall {
                    kind,
                    cursor: None,
                    count,
                    elem_flags,
                    flags,
                };
                let input: Entries = (key..key + count)
                    .map(|key| (self.key(key % self.case.keys), self.value(value)))
                    .collect();
                same!(
                    self.batch(ours, &call, &input),
                    self.batch(theirs, &call, &input)
                );
            }
            Op::From { key, count } if self.case.ordered => {
                let cursor = Some(self.key(key));
                let kind = BatchKind::Lookup;
                let call = BatchCall {
                    kind,
                    cursor,
                    count,
                    elem_flags: 0,
                    flags: 0,
                };
                same!(self.batch(ours, &call, &[]), self.batch(theirs, &call, &[]));
            }
            Op::From { .. } => {}
            Op::Contents => same!(self.contents(ours), self.contents(theirs)),
            Op::Freeze => same!(ours.freeze(), theirs.freeze()),
        }
        Ok(())
    }

    /// The results of batches to the map's end, and all that they found.
    fn walk(&self, side: &dyn Side, kind: BatchKind, step: u32) -> (Vec<String>, Entries) {
        let mut call = BatchCall {
            kind,
            cursor: None,
            count: step,
            elem_flags: 0,
            flags: 0,
        };
        let (mut answers, mut entries) = (Vec::new(), Entries::new());
        for _ in 0..4 * self.case.keys + 8 {
            let (answer, found) = self.batch(side, &call, &[]);
            entries.extend(found);
            match answer.result {
                Err(Errno::ENOSPC) => call.count *= 2,
                Ok(()) if self.case.ordered => answers.push(format!("{answer:?}")),
                Ok(()) => {}
                Err(errno) => {
                    answers.push(format!("{errno:?}"));
                    break;
                }
            }
            if answer.count > 0 || answer.result == Err(Errno::ENOSPC) {
                call.cursor = Some(answer.cursor);
            }
        }
        if !self.case.ordered {
            entries.sort();
        }
        (answers, entries)
    }

    /// One batch: its answer, and what it found.
    fn batch(
        &self,
        side: &dyn Side,
        call: &BatchCall,
        input: &[(Vec<u8>, Vec<u8>)],
    ) -> (super::side::BatchAnswer, Entries) {
        let key_size = self.case.spec.key_size as usize;
        let value_size = self.ours.value_size();
        let room = call.count as usize;
        let mut keys: Vec<u8> = input.iter().flat_map(|(key, _)| key.clone()).collect();
        let mut values: Vec<u8> = input.iter().flat_map(|(_, value)| value.clone()).collect();
        keys.resize(room * key_size, 0);
        values.resize(room * value_size, 0);
        let mut answer = side.batch(call, &mut keys, &mut values);
        let beyond = answer.cursor.split_off(self.ours.cursor_size());
        assert!(beyond.iter().all(|&byte| byte == 0), "written too far");
        let mut entries = Entries::new();
        if matches!(call.kind, BatchKind::Lookup | BatchKind::LookupAndDelete)
            && answer.count <= call.count
            && matches!(answer.result, Ok(()) | Err(Errno::ENOENT))
            && key_size > 0
        {
            let values = values.chunks_exact(value_size.max(1)).map(<[u8]>::to_vec);
            let keys = keys.chunks_exact(key_size).map(<[u8]>::to_vec);
            entries = keys.zip(values).take(answer.count as usize).collect();
        }
        if !self.case.ordered {
            entries.sort();
            if input.len() == room {
                answer.cursor.clear();
            }
        }
        (answer, entries)
    }

    /// What walking the keys finds.
    fn contents(&self, side: &dyn Side) -> Result<(Entries, BTreeMap<Vec<u8>, u32>), Errno> {
        let (mut entries, mut times) = (Entries::new(), BTreeMap::new());
        let mut key: Option<Vec<u8>> = None;
        let mut next = vec![0; self.case.spec.key_size as usize];
        loop {
            match side.next_key(key.as_deref(), &mut next) {
                Ok(()) => {}
                Err(Errno::ENOENT) => break,
                Err(errno) => return Err(errno),
            }
            let mut value = vec![0; self.ours.value_size()];
            let found = side.lookup(&next, &mut value, 0);
            if found.is_err() || self.ours.of_objects() {
                value = format!("{found:?}").into_bytes();
            }
            entries.push((next.clone(), value));
            *times.entry(next.clone()).or_insert(0) += 1;
            assert!(times[&next] < 9, "a walk without end");
            key = Some(next.clone());
        }
        if !self.case.ordered {
            entries.sort();
        }
        Ok((entries, times))
    }
}
