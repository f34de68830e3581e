//! What was found out about the system calls of one file's text, so that the
//! next process that maps it need not find it out again. It knows no address
//! of a process and does no IO.
//!
//! A memo is a claim: each place counts only where memory holds the very bytes
//! that were looked at, and all numbers are checked. What cannot be checked so
//! is how control flows around them; that is as good as the memo's key.

use crate::probe::Tactic;

const MAGIC: u64 = u64::from_le_bytes(*b"bpfsys02");
/// Most instructions before a system call that a memo tells of.
pub(crate) const MOST_BEFORE: usize = 8;
/// Most bytes of an instruction.
const LONGEST: usize = 15;
/// How far from its instruction a jump in padding may be.
const NEAR: i16 = 256;
/// Bytes of a jump.
pub(crate) const JUMP: usize = 5;

/// What is remembered of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memo {
    /// Places that may be system calls and are not hooked.
    pub(crate) doubts: u32,
    /// Those of them that certainly are: `int 0x80`.
    pub(crate) others: u32,
    pub(crate) places: Vec<Place>,
}

/// One `syscall` instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Where it is in the file.
    pub(crate) offset: u64,
    pub(crate) nr: Option<u32>,
    /// How long the instructions are that lead straight to it, nearest first.
    pub(crate) before: Vec<u8>,
    /// All of their bytes, and its own.
    pub(crate) bytes: Vec<u8>,
    pub(crate) recipe: Option<Recipe>,
}

/// How a jump was found to fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Recipe {
    pub(crate) tactic: Tactic,
    /// At which instruction: so many before the system call.
    pub(crate) back: u8,
    /// Dead bytes that are used, if any: how far behind that instruction, and
    /// what they hold.
    pub(crate) dead: Option<(i16, [u8; JUMP])>,
}

impl Place {
    /// Bytes from the first instruction before it to the system call.
    pub(crate) fn lead(&self) -> u64 {
        self.before.iter().map(|len| u64::from(*len)).sum()
    }

    fn is_sound(&self) -> bool {
        let lens = self
            .before
            .iter()
            .all(|len| (1..=LONGEST).contains(&usize::from(*len)));
        let is_near = |recipe: &Recipe| {
            let is_dead_near = |(at, _): (i16, _)| (-NEAR..=NEAR).contains(&at);
            usize::from(recipe.back) <= self.before.len() && recipe.dead.is_none_or(is_dead_near)
        };
        lens && self.before.len() <= MOST_BEFORE
            && self.bytes.len() as u64 == self.lead() + 2
            && self.bytes.ends_with(&[0x0f, 0x05])
            && self.offset >= self.lead()
            && self.recipe.as_ref().is_none_or(is_near)
    }
}

const TACTICS: [(u8, Tactic); 4] = [
    (1, Tactic::Jump),
    (2, Tactic::Short),
    (3, Tactic::Padding),
    (4, Tactic::Pun),
];
const NO_NUMBER: u32 = u32::MAX;

impl Memo {
    /// As bytes to keep.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.doubts.to_le_bytes());
        bytes.extend(self.others.to_le_bytes());
        bytes.extend((self.places.len() as u32).to_le_bytes());
        for place in &self.places {
            bytes.extend(place.offset.to_le_bytes());
            bytes.extend(place.nr.unwrap_or(NO_NUMBER).to_le_bytes());
            bytes.push(place.before.len() as u8);
            bytes.extend(&place.before);
            bytes.extend(&place.bytes);
            let kind = |recipe: &Recipe| {
                let known = TACTICS.iter().find(|(_, tactic)| *tactic == recipe.tactic);
                known.map_or(0, |(kind, _)| *kind)
            };
            let recipe = place.recipe;
            let (at, dead) = recipe.and_then(|recipe| recipe.dead).unwrap_or_default();
            bytes.push(recipe.as_ref().map_or(0, kind));
            bytes.push(recipe.map_or(0, |recipe| recipe.back));
            bytes.extend(at.to_le_bytes());
            bytes.extend(dead);
        }
        let sum = checksum(&bytes[16..]);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What [`Memo::to_bytes`] gave, if it is that.
    pub fn from_bytes(bytes: &[u8]) -> Option<Memo> {
        let mut at = Reader(bytes);
        let is_whole = at.u64()? == MAGIC && at.u64()? == checksum(bytes.get(16..)?);
        if !is_whole {
            return None;
        }
        let doubts = at.u32()?;
        let others = at.u32()?;
        let count = at.u32()?;
        let places = (0..count).map(|_| place(&mut at));
        let places = places.collect::<Option<Vec<Place>>>()?;
        at.0.is_empty().then_some(Memo {
            doubts,
            others,
            places,
        })
    }
}

fn place(at: &mut Reader<'_>) -> Option<Place> {
    let offset = at.u64()?;
    let nr = Some(at.u32()?).filter(|nr| *nr != NO_NUMBER);
    let count = at.take(1)?[0];
    let before = at.take(count.into())?.to_vec();
    let len: usize = before.iter().map(|len| usize::from(*len)).sum();
    let bytes = at.take(len + 2)?.to_vec();
    let [kind, back] = at.take(2)?.try_into().ok()?;
    let distance = i16::from_le_bytes(at.take(2)?.try_into().ok()?);
    let dead: [u8; JUMP] = at.take(JUMP)?.try_into().ok()?;
    let tactic = TACTICS.iter().find(|(known, _)| *known == kind);
    let recipe = tactic.map(|(_, tactic)| Recipe {
        tactic: *tactic,
        back,
        dead: matches!(tactic, Tactic::Short | Tactic::Padding).then_some((distance, dead)),
    });
    let place = Place {
        offset,
        nr,
        before,
        bytes,
        recipe,
    };
    place.is_sound().then_some(place)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
}

/// FNV-1a, against what a crash or a full disk leaves; not against people.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memo() -> Memo {
        let place = |offset, recipe| Place {
            offset,
            nr: Some(39),
            before: vec![5, 3],
            bytes: b"\x48\x89\xf8\xb8\x27\0\0\0\x0f\x05".to_vec(),
            recipe,
        };
        let padding = Recipe {
            tactic: Tactic::Padding,
            back: 2,
            dead: Some((-20, [0x90; JUMP])),
        };
        let jump = Recipe {
            tactic: Tactic::Jump,
            back: 1,
            dead: None,
        };
        let bare = Place {
            nr: None,
            before: vec![],
            bytes: vec![0x0f, 5],
            ..place(9, None)
        };
        Memo {
            doubts: 3,
            others: 1,
            places: vec![place(100, Some(padding)), place(200, Some(jump)), bare],
        }
    }

    #[test]
    fn what_was_kept_comes_back() {
        let memo = memo();
        assert_eq!(Memo::from_bytes(&memo.to_bytes()), Some(memo));
    }

    #[test]
    fn nothing_else_does() {
        let bytes = memo().to_bytes();
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert_eq!(Memo::from_bytes(&broken), None, "byte {at}");
            assert_eq!(Memo::from_bytes(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_whatever_the_sum_says() {
        let mut outside = memo();
        outside.places[0].offset = 3;
        let mut no_call = memo();
        no_call.places[1].bytes[9] = 0x90;
        let mut far = memo();
        far.places[0].recipe.as_mut().unwrap().dead = Some((2000, [0; JUMP]));
        let mut behind = memo();
        behind.places[0].recipe.as_mut().unwrap().back = 3;
        for memo in [outside, no_call, far, behind] {
            assert_eq!(Memo::from_bytes(&memo.to_bytes()), None, "{memo:?}");
        }
    }
}
