//! What happens at a system call: run the probes, say where to go on.
//! Reachable from trampolines: no allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use uapi::PtRegs;

use super::light::Light;
use super::{SyscallEvent, SyscallProbe, When};
use crate::arch::syscalls::pool::Exit;
use crate::arch::syscalls::thunk;
use crate::arch::thread::{self, Thread};
use crate::guard::{self, Admission, Mark};

/// System call numbers that have a list of their own.
pub(crate) const NUMBERS: usize = 512;
/// The list of all other numbers.
const OTHERS: usize = NUMBERS;

/// System calls that a child comes back from on another stack, or on its
/// parent's, so that nothing may be on it.
pub(crate) const CHILDREN: [i64; 4] = [
    libc::SYS_clone,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone3,
];

/// One `syscall` instruction as its trampoline sees it. Never freed.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Entry {
    /// Behind the instruction; the thunk reads it.
    pub(crate) continuation: AtomicU64,
    /// The stub that makes the call; of a constant number, the one that knows
    /// it.
    pub(crate) plain: u64,
    /// Where the number is not known: the stub that keeps it on the stack, and
    /// those for `CHILDREN`; zeros for a constant number.
    pub(crate) deep: u64,
    /// See `deep`.
    pub(crate) children: [u64; 4],
}

/// The probes of one number and side. Never changed and never freed.
#[repr(C)]
pub(crate) struct List {
    /// Trampolines read it.
    pub(crate) light: Light,
    probes: Box<[SyscallProbe]>,
}

impl List {
    pub(crate) fn new(probes: &[SyscallProbe]) -> List {
        List {
            light: Light::of(probes),
            probes: probes.into(),
        }
    }
}

/// The lists of one side, by number; null for none.
#[repr(transparent)]
pub(crate) struct Lists([AtomicPtr<List>; NUMBERS + 1]);

pub(crate) static ENTER: Lists =
    Lists([const { AtomicPtr::new(core::ptr::null_mut()) }; NUMBERS + 1]);
pub(crate) static EXIT: Lists =
    Lists([const { AtomicPtr::new(core::ptr::null_mut()) }; NUMBERS + 1]);

/// Whether a number whose low 16 bits these are may have probes: read by
/// trampolines where the number is not known.
pub(crate) static WATCHED: [AtomicU8; 1 << 16] = [const { AtomicU8::new(0) }; 1 << 16];

/// The stack of the agent's own thread, from before it runs.
static OWN_STACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

impl Lists {
    pub(crate) fn of(when: When) -> &'static Lists {
        match when {
            When::Enter => &ENTER,
            When::Exit => &EXIT,
        }
    }

    /// Where the list of a number is kept.
    pub(crate) fn place(&self, nr: i64) -> Option<&AtomicPtr<List>> {
        let index = usize::try_from(nr).unwrap_or(OTHERS).min(OTHERS);
        self.0.get(index)
    }

    /// The probes of a number.
    pub(crate) fn probes(&self, nr: i64) -> &[SyscallProbe] {
        self.get(nr).map_or(&[], |list| &list.probes)
    }

    #[inline]
    fn get(&self, nr: i64) -> Option<&List> {
        // SAFETY: null or a leaked list, never freed.
        unsafe { self.place(nr)?.load(Ordering::Acquire).as_ref() }
    }
}

/// Before a system call. Leaves in `regs.cx` where to jump, in `regs.ax` what
/// is in rax then.
///
/// # Safety
/// Called by the enter thunk only: `regs` describes the calling thread.
pub(crate) unsafe extern "C" fn on_enter(regs: &mut PtRegs, entry: &Entry) {
    // The kernel looks at eax only.
    let nr = i64::from(regs.orig_ax as i32);
    let thread = thread::current();
    let mut mark = Mark::new();
    let admission = admit(thread, &mut mark, regs.sp);
    if let Admission::Exempt = admission {
        note_own_child(regs, nr);
    }
    let answer = ENTER
        .get(nr)
        .and_then(|list| run(list, &admission, regs, nr));
    match answer {
        Some(answer) => {
            regs.ax = answer as u64;
            if let Some(list) = EXIT.get(nr) {
                run(list, &admission, regs, nr);
            }
            regs.cx = entry.continuation.load(Ordering::Relaxed);
        }
        None => {
            if nr == libc::SYS_rt_sigreturn {
                // SAFETY: the thunk's contract: the kernel is about to read
                // the frame at the stack pointer.
                unsafe { on_sigreturn(regs, &admission) };
            }
            regs.ax = regs.orig_ax;
            regs.cx = entry.plain;
            if EXIT.get(nr).is_some() {
                entry.choose_stub(regs, nr);
            }
        }
    }
    if let Admission::Run(block) = admission {
        guard::leave(block, &mut mark);
    }
}

/// Behind a system call; the thread goes on at `regs.cx`.
///
/// # Safety
/// Called by the exit thunks only: `regs` describes the calling thread.
pub(crate) unsafe extern "C" fn on_exit(regs: &mut PtRegs, _exit: &Exit) {
    let nr = i64::from(regs.orig_ax as i32);
    let thread = thread::current();
    let mut mark = Mark::new();
    // Before the look at the list: what it leads to stays while a guard is set.
    let admission = admit(thread, &mut mark, regs.sp);
    if let Some(list) = EXIT.get(nr) {
        run(list, &admission, regs, nr);
    }
    if let Admission::Run(block) = admission {
        guard::leave(block, &mut mark);
    }
}

impl Entry {
    /// The stub for a number that has exit probes, where the stub does not
    /// know the number by itself.
    fn choose_stub(&self, regs: &mut PtRegs, nr: i64) {
        if self.deep == 0 || nr == libc::SYS_rt_sigreturn {
            return;
        }
        let child = CHILDREN.iter().position(|child| *child == nr);
        match child.and_then(|index| self.children.get(index)) {
            Some(stub) => regs.cx = *stub,
            None => {
                regs.cx = thunk::descend_address();
                regs.r11 = self.deep;
            }
        }
    }
}

/// The exit of rt_sigreturn(2), which does not come back here: as in the
/// kernel, with number -1 and the result that is restored.
///
/// # Safety
/// A signal frame lies at `regs.sp`.
#[cold]
unsafe fn on_sigreturn(regs: &PtRegs, admission: &Admission) {
    let Some(list) = EXIT.get(-1) else {
        return;
    };
    let context = regs.sp as *const libc::ucontext_t;
    let mut restored = *regs;
    restored.orig_ax = !0;
    // SAFETY: the caller's contract; rax is saved at a fixed place of it.
    restored.ax = unsafe {
        (&raw const (*context).uc_mcontext.gregs)
            .cast::<u64>()
            .add(libc::REG_RAX as usize)
            .read()
    };
    run(list, admission, &mut restored, -1);
}

/// Whether a hit on this thread may run probes.
#[inline]
fn admit(thread: &Thread, mark: &mut Mark, sp: u64) -> Admission {
    match is_own_stack(sp) {
        true => Admission::Exempt,
        false => guard::enter(thread, mark),
    }
}

/// Whether it is the stack of the agent's thread, before that says so itself.
#[inline]
fn is_own_stack(sp: u64) -> bool {
    let [start, bytes] = &OWN_STACK;
    // It starts with nothing on its stack.
    let above = sp.wrapping_sub(start.load(Ordering::Relaxed).wrapping_add(1));
    above < bytes.load(Ordering::Relaxed)
}

/// The exit probes of a call that this thread has returned from elsewhere.
pub(crate) fn returned(nr: i64, result: i64) {
    let regs = PtRegs {
        ax: result as u64,
        ..PtRegs::default()
    };
    elsewhere(&EXIT, regs, nr);
}

/// The enter probes of a call that is made elsewhere.
pub(crate) fn made(nr: i64, argument: u64) {
    let regs = PtRegs {
        di: argument,
        ax: -i64::from(libc::ENOSYS) as u64,
        ..PtRegs::default()
    };
    elsewhere(&ENTER, regs, nr);
}

fn elsewhere(lists: &Lists, mut regs: PtRegs, nr: i64) {
    regs.orig_ax = nr as u64;
    regs.sp = &raw const regs as u64;
    let Some(list) = lists.get(nr) else {
        return;
    };
    let thread = thread::current();
    let mut mark = Mark::new();
    let admission = guard::enter(thread, &mut mark);
    run(list, &admission, &mut regs, nr);
    if let Admission::Run(block) = admission {
        guard::leave(block, &mut mark);
    }
}

/// The agent's own thread is exempt by its guard now: its stack may be a
/// program's thread's later.
pub(crate) fn own_thread_is_known() {
    let [_, bytes] = &OWN_STACK;
    bytes.store(0, Ordering::Relaxed);
}

/// An exempt thread makes another: the agent's own. Its stack tells it from
/// the program's threads before it can say so itself.
#[cold]
fn note_own_child(regs: &PtRegs, nr: i64) {
    const VM_AND_THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
    /// What libc gives a thread without a size to clone(2).
    const LIKELY_BYTES: u64 = 1 << 20;
    let [flags, stack, bytes] = match nr {
        libc::SYS_clone3 if regs.si >= CLONE_ARGS_WITH_STACK => {
            let arguments = regs.di as *const u64;
            // SAFETY: the caller is libc on behalf of the agent: the structure
            // is there, and as long as it says.
            unsafe {
                [
                    arguments.read(),
                    arguments.add(5).read(),
                    arguments.add(6).read(),
                ]
            }
        }
        libc::SYS_clone => [regs.di, regs.si.wrapping_sub(LIKELY_BYTES), LIKELY_BYTES],
        _ => return,
    };
    if flags & VM_AND_THREAD == VM_AND_THREAD {
        let [own_stack, own_bytes] = &OWN_STACK;
        own_bytes.store(0, Ordering::Relaxed);
        own_stack.store(stack, Ordering::Relaxed);
        own_bytes.store(bytes, Ordering::Release);
    }
}

/// `struct clone_args` up to its stack's size (uapi/linux/sched.h).
const CLONE_ARGS_WITH_STACK: u64 = 56;

/// Runs a list's probes in order; gives the answer of one that answers.
#[inline]
fn run(list: &List, admission: &Admission, regs: &mut PtRegs, nr: i64) -> Option<i64> {
    let Admission::Run(block) = admission else {
        return run_observers(list, admission, regs, nr);
    };
    let mut event = SyscallEvent::new(regs, nr);
    for probe in &list.probes {
        block.count(probe.hits.offset());
        // SAFETY: whoever attached the probe vouches for callback and data.
        unsafe { (probe.callback)(&raw mut event, probe.data) };
    }
    event.is_answered.then_some(event.answer)
}

/// What runs where others are skipped; counts those as missed that count.
#[cold]
fn run_observers(list: &List, admission: &Admission, regs: &mut PtRegs, nr: i64) -> Option<i64> {
    let is_exempt = matches!(admission, Admission::Exempt);
    // The other reason is that there is no memory for the thread's block.
    let is_own = is_exempt && (thread::current().is_exempt.get() || is_own_stack(regs.sp));
    let mut event = SyscallEvent::new(regs, nr);
    event.is_own = is_own;
    for probe in &list.probes {
        if probe.observes {
            // SAFETY: as in `run`. Lists and observers are never freed.
            unsafe { (probe.callback)(&raw mut event, probe.data) };
        } else if !is_exempt {
            // SAFETY: null or valid for ever (`SyscallProbe::missed`).
            if let Some(missed) = unsafe { probe.missed.as_ref() } {
                missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    event.is_answered.then_some(event.answer)
}
