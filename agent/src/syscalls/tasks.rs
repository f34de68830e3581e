//! Programs at tracepoints in a task's life, which it goes through by system
//! calls: the record that each has there (include/trace/events/sched.h, 6.18).
//! It knows no link and no hook.
//!
//! What a task does not do by a call of its own is not seen: its end by a
//! signal, or because another thread ends the process.

use core::mem::size_of;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::ffi::c_char;

use attach::{Hits, SyscallCallback, SyscallEvent, SyscallProbe, When};
use runtime::session::LinkKind;
use runtime::{tasks, thread};
use shm::sys;

use super::{Traced, run};

/// `TASK_COMM_LEN`.
const COMM: usize = 16;
/// Longest name of an executed file, with its zero (`PATH_MAX`).
const NAME: usize = 4096;
/// A record's first word, where the kernel has an address of registers.
type Header = u64;

/// The name that this program was executed by.
static EXECUTED: AtomicPtr<c_char> = AtomicPtr::new(core::ptr::null_mut());

/// What the engine is told of a link at a task's tracepoint; `None` for others.
pub(super) fn probes(traced: &'static Traced) -> Option<Vec<SyscallProbe>> {
    let (when, numbers, callback): (When, &[i64], SyscallCallback) = match traced.kind {
        LinkKind::TaskExec => {
            // SAFETY: asks for a word that the kernel gave the program.
            let name = unsafe { libc::getauxval(libc::AT_EXECFN) };
            EXECUTED.store(name as *mut c_char, Ordering::Relaxed);
            (When::Exit, &[libc::SYS_execve], on_exec)
        }
        LinkKind::TaskFork => (
            When::Exit,
            &[
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_fork,
                libc::SYS_vfork,
            ],
            on_fork,
        ),
        LinkKind::TaskExit => (
            When::Enter,
            &[libc::SYS_exit, libc::SYS_exit_group],
            on_exit,
        ),
        _ => return None,
    };
    let probe = |nr: &i64| SyscallProbe {
        when,
        nr: Some(*nr as u32),
        callback,
        data: core::ptr::from_ref(traced).cast(),
        // Not every call is one.
        hits: Hits::UNCOUNTED,
        missed: traced.hit.missed(),
        observes: false,
        light: None,
    };
    Some(numbers.iter().map(probe).collect())
}

/// The caller's name, with zeros behind it.
fn own_name() -> [u8; COMM] {
    let mut name = [0u8; COMM];
    let at = name.as_mut_ptr() as usize;
    let get = libc::PR_GET_NAME as usize;
    // SAFETY: writes 16 bytes, which there are.
    unsafe { sys::syscall6(libc::SYS_prctl as usize, get, at, 0, 0, 0, 0) };
    name
}

/// Where a string of so many bytes is, as `__data_loc` says it.
const fn location(at: usize, len: usize) -> u32 {
    (len << 16 | at) as u32
}

/// Runs the program with a record.
///
/// # Safety
/// As for [`run`].
unsafe fn run_with<T>(traced: &Traced, event: *mut SyscallEvent, record: &mut T) {
    traced.hit.counts_one();
    // SAFETY: the caller's; the record begins with all that the tracepoint's
    // programs may load.
    unsafe { run(traced, event, core::ptr::from_mut(record).cast()) };
}

#[repr(C)]
struct Exec {
    header: Header,
    filename: u32,
    pid: i32,
    old_pid: i32,
    name: [u8; NAME],
}

unsafe extern "C" fn on_exec(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: the engine's event and registers, valid during the call.
    if unsafe { (*(*event).regs).ax } != 0 {
        // The program goes on as it was.
        return;
    }
    // SAFETY: `data` is what `probes` gave: never freed.
    unsafe { executed(&*data.cast::<Traced>(), event) };
}

/// In its own frame, which a call that fails does not have.
///
/// # Safety
/// As for [`run`].
#[inline(never)]
unsafe fn executed(traced: &Traced, event: *mut SyscallEvent) {
    let pid = thread::ids().tid;
    let mut record = Exec {
        // SAFETY: the engine's event, valid during the call.
        header: unsafe { (*event).regs } as u64,
        filename: 0,
        pid,
        old_pid: pid,
        name: [0; NAME],
    };
    let name = EXECUTED.load(Ordering::Relaxed).cast::<u8>();
    let mut len = 0;
    if !name.is_null() {
        for (index, to) in record.name.iter_mut().enumerate().take(NAME - 1) {
            // SAFETY: the kernel's string on the initial stack; the end of it
            // was not passed.
            let byte = unsafe { name.add(index).read() };
            if byte == 0 {
                break;
            }
            *to = byte;
            len = index + 1;
        }
    }
    record.filename = location(core::mem::offset_of!(Exec, name), len + 1);
    // SAFETY: the caller's.
    unsafe { run_with(traced, event, &mut record) };
}

#[repr(C)]
struct Fork {
    header: Header,
    parent_comm: u32,
    parent_pid: i32,
    child_comm: u32,
    child_pid: i32,
    names: [u8; 2 * COMM],
}

unsafe extern "C" fn on_fork(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: the engine's event and registers, valid during the call.
    let (regs, result) = unsafe { ((*event).regs, (*(*event).regs).ax as i64) };
    if result <= 0 {
        // In the child, or there is none.
        return;
    }
    let name = own_name();
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(COMM - 1) + 1;
    let at = core::mem::offset_of!(Fork, names);
    let mut record = Fork {
        header: regs as u64,
        parent_comm: location(at, len),
        parent_pid: thread::ids().tid,
        child_comm: location(at + len, len),
        child_pid: result as i32,
        names: [0; 2 * COMM],
    };
    for (index, byte) in name.iter().enumerate().take(len) {
        for at in [index, len + index] {
            if let Some(to) = record.names.get_mut(at) {
                *to = *byte;
            }
        }
    }
    // SAFETY: `data` is what `probes` gave: never freed; the rest as above.
    unsafe { run_with(&*data.cast::<Traced>(), event, &mut record) };
}

#[repr(C)]
struct Exit {
    header: Header,
    comm: [u8; COMM],
    pid: i32,
    prio: i32,
    group_dead: u8,
}

const _: () = assert!(size_of::<Exit>() == 40);

unsafe extern "C" fn on_exit(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: the engine's event and registers, valid during the call.
    let (regs, status) = unsafe { ((*event).regs, (*(*event).regs).di) };
    thread::ends((status as u32 & 0xff) << 8);
    // The agent's thread is none of the program's.
    let others = tasks::threads().map_or(0, |threads| threads.saturating_sub(2));
    let mut record = Exit {
        header: regs as u64,
        comm: own_name(),
        pid: thread::ids().tid,
        prio: priority(),
        group_dead: u8::from(others == 0),
    };
    // SAFETY: `data` is what `probes` gave: never freed; the rest as above.
    unsafe { run_with(&*data.cast::<Traced>(), event, &mut record) };
}

/// The caller's priority as the scheduler has it.
fn priority() -> i32 {
    /// The kernel's word for a nice value of 0 and no answer.
    const NICE_0: isize = 20;
    let ask = |number: i64| {
        // SAFETY: takes numbers only.
        unsafe { sys::syscall6(number as usize, 0, 0, 0, 0, 0, 0) }
    };
    let policy = ask(libc::SYS_sched_getscheduler);
    if policy == libc::SCHED_FIFO as isize || policy == libc::SCHED_RR as isize {
        let mut parameter = 0i32;
        let at = (&raw mut parameter) as usize;
        // SAFETY: writes one number.
        unsafe { sys::syscall6(libc::SYS_sched_getparam as usize, 0, at, 0, 0, 0, 0) };
        return 99 - parameter;
    }
    // 1 to 40 for a nice value of 19 to -20.
    let nice = match ask(libc::SYS_getpriority) {
        answer @ 1..=40 => NICE_0 - answer,
        _ => 0,
    };
    120 + nice as i32
}
