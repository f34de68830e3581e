//! What is used of frida-gum's C interface; the one file that knows it. It
//! knows no probe.
//!
//! Not the crate `frida_gum`: its listeners get `&mut self` on every thread at
//! once, and have nowhere to keep what an entry and its return share.

use core::ffi::c_void;
use std::sync::Once;

use frida_gum_sys as gum;
use uapi::PtRegs;

use crate::error::Refusal;

/// User code and data segments of 64-bit Linux programs, as the kernel shows
/// them in `pt_regs`.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;
/// `orig_ax` outside of system calls.
const NO_SYSTEM_CALL: u64 = u64::MAX;

/// Gum's one interceptor.
#[derive(Clone, Copy)]
pub(super) struct Interceptor(*mut gum::GumInterceptor);

impl Interceptor {
    /// Starts gum, once. It is never ended: threads may be in its code.
    pub(super) fn obtain() -> Interceptor {
        static START: Once = Once::new();
        // SAFETY: called once, before all else.
        START.call_once(|| unsafe { gum::gum_init_embedded() });
        // SAFETY: gum is started. It gives its one interceptor to everybody.
        Interceptor(unsafe { gum::gum_interceptor_obtain() })
    }

    /// Text is changed when `changes` is done, each page once.
    pub(super) fn transaction<T>(self, changes: impl FnOnce() -> T) -> T {
        // SAFETY: the interceptor lives for ever; begin and end are paired.
        unsafe { gum::gum_interceptor_begin_transaction(self.0) };
        let done = changes();
        // SAFETY: as above.
        unsafe { gum::gum_interceptor_end_transaction(self.0) };
        done
    }

    /// Lets `listener` hear of the function at `addr`.
    ///
    /// # Safety
    /// A function starts at `addr`, and nothing in it jumps back to the
    /// instructions that gum moves.
    pub(super) unsafe fn attach(self, addr: u64, listener: Listener) -> Result<(), Refusal> {
        let flags = gum::GumAttachFlags_GUM_ATTACH_FLAGS_NONE;
        let (target, data) = (addr as *mut c_void, core::ptr::null_mut());
        // SAFETY: interceptor and listener live for ever; the rest is the
        // caller's contract.
        let answer =
            unsafe { gum::gum_interceptor_attach(self.0, target, listener.0, data, flags) };
        Err(Refusal::Frida(match answer {
            gum::GumAttachReturn_GUM_ATTACH_OK => return Ok(()),
            gum::GumAttachReturn_GUM_ATTACH_WRONG_SIGNATURE => "it cannot move the first bytes",
            gum::GumAttachReturn_GUM_ATTACH_ALREADY_ATTACHED => "it listens there already",
            gum::GumAttachReturn_GUM_ATTACH_POLICY_VIOLATION => "text may not be changed here",
            gum::GumAttachReturn_GUM_ATTACH_WRONG_TYPE => "the function is replaced",
            _ => "it refused",
        }))
    }

    /// `listener` hears nothing any more; a function without one gets its
    /// bytes back.
    pub(super) fn detach(self, listener: Listener) {
        // SAFETY: interceptor and listener live for ever.
        unsafe { gum::gum_interceptor_detach(self.0, listener.0) };
    }
}

/// What gum calls; never freed.
#[derive(Clone, Copy)]
pub(super) struct Listener(*mut gum::GumInvocationListener);

// SAFETY: gum's objects are for all threads, which its own lock sees to.
unsafe impl Send for Listener {}

/// A function that gum calls with what a listener was made with.
pub(super) type Heard = unsafe extern "C" fn(*mut gum::GumInvocationContext, *mut c_void);

impl Listener {
    /// Hears of entries; return addresses stay as they are.
    pub(super) fn of_entries(heard: Heard, data: *const ()) -> Listener {
        // SAFETY: gum is started by whoever has an interceptor; `heard` can be
        // called on any thread.
        Listener(unsafe { gum::gum_make_probe_listener(Some(heard), data as *mut c_void, None) })
    }

    /// Hears of entries and of the returns of the same calls.
    pub(super) fn of_calls(entered: Heard, left: Heard, data: *const ()) -> Listener {
        let data = data as *mut c_void;
        // SAFETY: as above.
        Listener(unsafe { gum::gum_make_call_listener(Some(entered), Some(left), data, None) })
    }
}

/// One call of a hooked function, seen from inside a listener.
pub(super) struct Invocation(*mut gum::GumInvocationContext);

impl Invocation {
    /// # Safety
    /// `context` is what gum gave the listener that now runs.
    pub(super) unsafe fn new(context: *mut gum::GumInvocationContext) -> Invocation {
        Invocation(context)
    }

    fn cpu(&self) -> &gum::GumCpuContext {
        // SAFETY: by `new`, valid as long as the listener runs.
        unsafe { &*(*self.0).cpu_context }
    }

    /// Where the return address of this call is, at entry and at return.
    pub(super) fn slot(&self) -> u64 {
        self.cpu().rsp
    }

    /// Registers before the first instruction.
    pub(super) fn at_entry(&self) -> PtRegs {
        registers(self.cpu())
    }

    /// Registers after the return.
    pub(super) fn at_return(&self) -> PtRegs {
        // SAFETY: by `new`.
        let ip = unsafe { gum::gum_invocation_context_get_return_address(self.0) } as u64;
        let sp = self.slot() + 8;
        PtRegs {
            ip,
            sp,
            ..registers(self.cpu())
        }
    }

    /// Memory that this listener's entry and return of one call share. Not
    /// initialised, and at return another call's if the listener came in
    /// between; it moves when the thread's calls nest deeper.
    pub(super) fn kept<T>(&self) -> *mut T {
        const { assert!(size_of::<T>() <= 1024 && align_of::<T>() <= 8) };
        // SAFETY: by `new`; gum has GUM_MAX_LISTENER_DATA, 1024 bytes.
        let kept = unsafe {
            gum::gum_invocation_context_get_listener_invocation_data(self.0, size_of::<T>() as _)
        };
        kept.cast()
    }
}

/// What gum saves, in the kernel's order. It does not save the flags: 0.
fn registers(cpu: &gum::GumCpuContext) -> PtRegs {
    PtRegs {
        r15: cpu.r15,
        r14: cpu.r14,
        r13: cpu.r13,
        r12: cpu.r12,
        bp: cpu.rbp,
        bx: cpu.rbx,
        r11: cpu.r11,
        r10: cpu.r10,
        r9: cpu.r9,
        r8: cpu.r8,
        ax: cpu.rax,
        cx: cpu.rcx,
        dx: cpu.rdx,
        si: cpu.rsi,
        di: cpu.rdi,
        orig_ax: NO_SYSTEM_CALL,
        ip: cpu.rip,
        cs: USER_CS,
        flags: 0,
        sp: cpu.rsp,
        ss: USER_SS,
    }
}
