//! What the program believes the signal to do: its own action, beside ours, which
//! the kernel has. Reachable from a signal handler: no allocation, no lock, no
//! libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use uapi::Errno;

use super::trap;
use super::user;
use crate::arch::trap as signals;

/// `struct sigaction` of the kernel (arch/x86/include/uapi/asm/signal.h).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

pub(crate) const ACTION_BYTES: usize = size_of::<Action>();

/// The signal that is taken over, or was last: one at a time.
pub(super) static HELD: AtomicI32 = AtomicI32::new(libc::SIGTRAP);

/// The signal that is taken over.
pub(super) fn held() -> i32 {
    HELD.load(Ordering::Relaxed)
}

/// Its bit in a signal set.
pub(super) fn held_bit() -> u64 {
    1 << (held() - 1)
}

/// Signals that no set holds.
const UNBLOCKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
/// Flags that the kernel keeps (UAPI_SA_FLAGS, 6.18).
const KEPT_FLAGS: u64 = 0xdc00_0807;
const SA_RESTORER: u64 = 0x0400_0000;

impl Action {
    pub(crate) fn is_function(&self) -> bool {
        self.handler > 1
    }

    pub(super) fn to_bytes(self) -> [u8; ACTION_BYTES] {
        let mut bytes = [0; ACTION_BYTES];
        let words = [self.handler, self.flags, self.restorer, self.mask];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; ACTION_BYTES]) -> Action {
        let mut words = bytes
            .chunks_exact(8)
            .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or_default();
        Action {
            handler: next(),
            flags: next(),
            restorer: next(),
            mask: next(),
        }
    }
}

/// The program's actions for it, the last ones in a ring: who reads the
/// current one is not disturbed by who writes the next.
const RING: usize = 64;
static ACTIONS: [[AtomicU64; 4]; RING] = [const { [const { AtomicU64::new(0) }; 4] }; RING];
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// The program's action for it.
pub(crate) fn current() -> Action {
    let index = CURRENT.load(Ordering::Acquire) % RING;
    let words = ACTIONS.get(index);
    let word = |n: usize| {
        let word = words.and_then(|words| words.get(n));
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    };
    Action {
        handler: word(0),
        flags: word(1),
        restorer: word(2),
        mask: word(3),
    }
}

/// The program has another action for it from now on.
pub(crate) fn set(action: Action) {
    let index = WRITTEN.fetch_add(1, Ordering::Relaxed) % RING;
    let words = [action.handler, action.flags, action.restorer, action.mask];
    for (place, word) in ACTIONS.get(index).into_iter().flatten().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
    CURRENT.store(index, Ordering::Release);
}

/// What the kernel is told: our handler, which has the stack, the mask and the
/// effect on interrupted calls that the program's asks for.
pub(crate) fn ours() -> Action {
    let theirs = current();
    let alike = (libc::SA_ONSTACK | libc::SA_RESTART) as u64;
    let (alike, mask) = match theirs.is_function() {
        true => (theirs.flags & alike, theirs.mask & !held_bit()),
        // What the program did not ask to be interrupted is restarted.
        false => (libc::SA_RESTART as u64, 0),
    };
    let always = (libc::SA_SIGINFO | libc::SA_NODEFER) as u64 | SA_RESTORER;
    Action {
        handler: trap::handler_address(),
        flags: alike | always,
        restorer: signals::restorer_address(),
        mask,
    }
}

/// Tells the kernel of our handler; gives what it had.
pub(crate) fn install() -> Result<Action, Errno> {
    change(held(), Some(ours()))
}

/// The kernel's action for a signal, which becomes another if one is given.
pub(crate) fn change(signal: i32, new: Option<Action>) -> Result<Action, Errno> {
    let words = new.map(|new| [new.handler, new.flags, new.restorer, new.mask]);
    let [handler, flags, restorer, mask] = signals::action(signal, words.as_ref())?;
    Ok(Action {
        handler,
        flags,
        restorer,
        mask,
    })
}

/// rt_sigaction(2) for it, answered in the kernel's place. With
/// `is_child`, nothing changes: the child of a vfork(2) sees to its own.
pub(super) fn answer(new: u64, old: u64, set_bytes: u64, is_child: bool) -> Result<u64, Errno> {
    if set_bytes != 8 {
        return Err(Errno::EINVAL);
    }
    let before = current();
    if new != 0 {
        let mut bytes = [0; ACTION_BYTES];
        user::read(new, &mut bytes)?;
        let mut action = Action::from_bytes(&bytes);
        action.flags &= KEPT_FLAGS;
        action.mask &= !UNBLOCKABLE;
        if !is_child {
            set(action);
            install()?;
        }
    }
    if old != 0 {
        user::write(old, &before.to_bytes())?;
    }
    Ok(0)
}
