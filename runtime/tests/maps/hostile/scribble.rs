//! What a hostile process writes. It knows no map, but what words of maps
//! mean: numbers, owners, positions, links to each other.

use std::sync::atomic::Ordering::Relaxed;

use shm::Region;

use crate::process::Random;

/// The largest process id there is.
const LAST_PID: u64 = (1 << 22) - 1;

pub struct Scribbler {
    storage: Region,
    random: Random,
    /// A piece of storage as it was, and where.
    before: (u64, Vec<u8>),
}

impl Scribbler {
    pub fn new(storage: Region, seed: u64) -> Scribbler {
        Scribbler {
            storage,
            random: Random(seed),
            before: (0, Vec::new()),
        }
    }

    /// An offset that is a multiple of `unit`, often one of the first or last.
    fn place(&mut self, unit: u64) -> u64 {
        let units = self.storage.len() / unit;
        let near = units.min(64);
        let index = match self.random.below(5) {
            0 => self.random.below(near),
            1 => units - 1 - self.random.below(near),
            _ => self.random.below(units),
        };
        index * unit
    }

    /// One write, of a word or of many bytes.
    pub fn write(&mut self) {
        match self.random.below(16) {
            0 => {
                let byte = [0, 0xff, self.random.next() as u8][self.random.below(3) as usize];
                self.fill(|_| byte);
            }
            1 => {
                let mut random = Random(self.random.next());
                self.fill(|_| random.next() as u8);
            }
            2 => self.keep(),
            3 => self.put_back(),
            4 => self.half_word(),
            5 => {
                let at = self.place(1);
                let byte = [self.random.next() as u8];
                self.storage.write(at, &byte).unwrap();
            }
            _ => self.word(),
        }
    }

    fn load(&mut self) -> u64 {
        let at = self.place(8);
        self.storage.u64_at(at).unwrap().load(Relaxed)
    }

    fn word(&mut self) {
        let other = self.load();
        let at = self.place(8);
        let word = self.storage.u64_at(at).unwrap();
        let old = word.load(Relaxed);
        let own = u64::from(std::process::id());
        let small = self.random.below(40);
        let number = match self.random.below(18) {
            0 => 0,
            1 => u64::MAX,
            2 => small,
            3 => small.wrapping_neg(),
            4 => old.wrapping_add(1),
            5 => old.wrapping_sub(1),
            6 => old ^ 1 << self.random.below(64),
            // A link to what others lead to, so also to itself.
            7 | 8 => other,
            9 => old & !((1 << 26) - 1) | small,
            10 => other & !((1 << 26) - 1) | small,
            // Owners that live and that never did, in both forms.
            11 => [own << 32 | own, 1 << 32 | 1, LAST_PID << 32 | LAST_PID]
                [self.random.below(3) as usize],
            12 => {
                let pid = [own, 1, LAST_PID][self.random.below(3) as usize];
                old & !(LAST_PID << 42 | 0xf) | pid << 42 | self.random.below(10)
            }
            // Positions: back, ahead, unaligned, at the end of numbers.
            13 => old.wrapping_sub(8 * small),
            14 => old.wrapping_add(4096 + small),
            15 => u64::MAX - 8 * small,
            16 => 1 << self.random.below(64),
            _ => self.random.next(),
        };
        word.store(number, Relaxed);
    }

    fn half_word(&mut self) {
        let at = self.place(4);
        let word = self.storage.u32_at(at).unwrap();
        let old = word.load(Relaxed);
        let number = match self.random.below(6) {
            0 => u32::MAX,
            1 => old.wrapping_add(1),
            2 => self.random.below(64) as u32,
            3 => 1 << self.random.below(32),
            4 => std::process::id(),
            _ => self.random.next() as u32,
        };
        word.store(number, Relaxed);
    }

    fn fill(&mut self, mut byte: impl FnMut(u64) -> u8) {
        let at = self.place(8);
        let most = self.storage.len() - at;
        let len = match self.random.below(8) {
            0 => most,
            _ => most.min(1 + self.random.below(256)),
        };
        let bytes: Vec<u8> = (0..len).map(&mut byte).collect();
        self.storage.write(at, &bytes).unwrap();
    }

    /// Remembers a piece, to be put back when it is out of date.
    fn keep(&mut self) {
        let at = self.place(8);
        let len = (self.storage.len() - at).min(1 + self.random.below(2048));
        let mut bytes = vec![0; len as usize];
        self.storage.read(at, &mut bytes).unwrap();
        self.before = (at, bytes);
    }

    /// Puts that piece back, or elsewhere.
    fn put_back(&mut self) {
        let (from, bytes) = std::mem::take(&mut self.before);
        let elsewhere = self.place(8);
        let at = if self.random.below(2) == 0 {
            from
        } else {
            elsewhere
        };
        let fits = bytes.len().min((self.storage.len() - at) as usize);
        self.storage.write(at, &bytes[..fits]).unwrap();
        self.before = (from, bytes);
    }
}
