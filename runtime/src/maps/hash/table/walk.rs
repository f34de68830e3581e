//! Walks over all entries, while others change the table: what is in it
//! throughout is seen.

use core::iter;

use shm::sync::Ordering::Acquire;

use super::super::element::{Element, Link};
use super::{Entry, LOOKS, Steps, Strayed, Table};

/// Entries of a bucket that a walk remembers, not to show them again.
const SHOWN: usize = 16;
/// How often a walk that calls a program may go over all elements: each time
/// it strays it looks at a bucket anew.
const ROUNDS: u64 = 4;

impl Table {
    fn head(&self, bucket: u64) -> Link {
        Link(self.pool.bucket(bucket as u32).load(Acquire))
    }

    /// Buckets that ever had an entry, and their neighbours.
    fn used_buckets(&self) -> impl Iterator<Item = u64> {
        let end = self.pool.layout.bucket_mask + 1;
        let from = move |bucket| Some(self.pool.used_from(bucket)).filter(|&found| found < end);
        iter::successors(from(0), move |bucket| from(bucket + 1))
    }

    /// The first entry behind `entry` in its list, or in a later bucket; from
    /// the first bucket for `None`.
    pub fn after(&self, entry: Option<(Entry<'_>, u32)>) -> Option<Entry<'_>> {
        let mut bucket = 0;
        let mut steps = self.steps(1);
        let mut looks = LOOKS;
        if let Some((entry, hash)) = entry {
            bucket = (u64::from(hash) & self.pool.layout.bucket_mask) + 1;
            match self.first_live(entry.next, &mut steps) {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(Strayed) => bucket -= 1,
            }
        }
        loop {
            bucket = self.pool.used_from(bucket);
            if bucket > self.pool.layout.bucket_mask {
                return None;
            }
            match self.first_live(self.head(bucket), &mut steps) {
                Ok(Some(found)) => return Some(found),
                Err(Strayed) if steps.are_over() => return None,
                Err(Strayed) if looks > 0 => looks -= 1,
                Ok(None) | Err(Strayed) => {
                    bucket += 1;
                    looks = LOOKS;
                }
            }
        }
    }

    /// Calls `turn` for the entries, bucket by bucket, until it returns
    /// `false`. Entries that come and go meanwhile, also by `turn`, are seen or
    /// not; none twice in its place.
    pub fn each(&self, turn: &mut dyn FnMut(Entry<'_>) -> bool) {
        let mut steps = self.steps(ROUNDS);
        for bucket in self.used_buckets() {
            let mut shown = [Link(0); SHOWN];
            let mut count = 0;
            let mut once = |entry: Entry<'_>| {
                if shown
                    .iter()
                    .any(|link| link.0 != 0 && link.same_target(entry.link))
                {
                    return true;
                }
                if let Some(slot) = shown.get_mut(count) {
                    *slot = entry.link;
                    count += 1;
                }
                turn(entry)
            };
            for _ in 0..LOOKS {
                match self.each_of(bucket, &mut steps, &mut once) {
                    Ok(true) => break,
                    Ok(false) => return,
                    Err(Strayed) if steps.are_over() => return,
                    Err(Strayed) => {}
                }
            }
        }
    }

    /// Calls `turn` for the entries of a bucket: whether it wants more.
    fn each_of(
        &self,
        bucket: u64,
        steps: &mut Steps,
        turn: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Result<bool, Strayed> {
        let mut link = self.head(bucket);
        while let Some(entry) = self.first_live(link, steps)? {
            if !turn(entry) {
                return Ok(false);
            }
            link = entry.next;
        }
        Ok(true)
    }

    /// What `key` says of all entries; for bpf(2).
    pub fn all<T>(&self, key: &dyn Fn(Element<'_>) -> T) -> Vec<T> {
        let mut keys = Vec::new();
        let mut steps = self.steps(ROUNDS);
        for bucket in self.used_buckets() {
            let before = keys.len();
            for _ in 0..LOOKS {
                keys.truncate(before);
                let whole = self.see_bucket(bucket, &mut steps, &mut |entry| {
                    keys.push(key(entry.element));
                });
                if whole.is_ok() || steps.are_over() {
                    break;
                }
            }
        }
        keys
    }

    /// Calls `see` for the entries of a bucket. If that strays, what was seen
    /// is nothing.
    fn see_bucket(
        &self,
        bucket: u64,
        steps: &mut Steps,
        see: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), Strayed> {
        let mut link = self.head(bucket);
        while let Some(entry) = self.entry(link) {
            steps.step()?;
            if entry.next.is_live() {
                see(entry);
            }
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            link = entry.next;
        }
        Ok(())
    }

    fn first_live(&self, first: Link, steps: &mut Steps) -> Result<Option<Entry<'_>>, Strayed> {
        let mut link = first;
        while let Some(entry) = self.entry(link) {
            steps.step()?;
            let now = self.state_of(entry.element);
            if now.generation() != entry.generation() {
                return Err(Strayed);
            }
            if !entry.next.is_live() {
                link = entry.next;
            } else if now.has_value_of(entry.state) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}
