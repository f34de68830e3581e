//! The code that a borrowed thread runs, and what it is told. It needs nobody:
//! wherever the tracer dies, the thread does the rest and goes on as it was.
//!
//! A copy lies where no code of the target is, after its [`Orders`]. They are
//! constants for it: whatever the thread had in its registers is in them, so
//! the way back needs no memory that could be gone, and not the thread's stack.

use std::arch::global_asm;
use std::mem::offset_of;

use super::{Interruptible, Registers};

/// Value of [`Orders::mark`] in a copy that a thread may be in; its low half
/// is the thread's id.
const MARK: u64 = 0xb9f7_13e0 << 32;

/// Where things are in the thread's own mapping, which starts with the vector
/// state; its end is the stack's.
pub const ANSWERS: u64 = 16 * 1024;
/// Where in a copy the mapping is noted.
pub const MAPPING: u64 = offset_of!(Orders, mapping) as u64;
const PATH: u64 = ANSWERS + size_of::<Answers>() as u64;
const SESSIONS: u64 = PATH + STRING;
/// Room for each string, with its zero.
pub const STRING: u64 = 4096 + 256;
/// Where a guest's message is.
pub const MESSAGE: u64 = SESSIONS + STRING;
/// Size of the mapping; its pages cost when touched.
pub const LENGTH: u64 = 512 * 1024;

/// What became of the errand: in the mapping, at [`ANSWERS`].
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Answers {
    /// What dlopen(3) returned.
    pub handle: u64,
    /// What dlerror(3) returned, if that was null.
    pub error: u64,
    /// What the agent's start returned.
    pub status: i64,
}

impl Answers {
    /// As they lie in the mapping.
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: every bit pattern is a value of all three fields.
        unsafe { std::mem::transmute(bytes) }
    }
}

/// What a thread of a guest receives its fds by, and the fds.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Message {
    name: [u64; 2],
    /// None: the message is its fds.
    vectors: [u64; 2],
    control: u64,
    control_length: u64,
    flags: u64,
    length: u64,
    level: i32,
    kind: i32,
    /// What was received.
    pub fds: [i32; HANDED],
    /// A pair; what is sent to the second arrives at the first.
    pub sockets: [i32; 2],
}

/// Number of fds that are handed over.
pub const HANDED: usize = 4;

impl Message {
    /// Before anything has arrived, for this mapping.
    pub fn empty(mapping: u64) -> Self {
        let control = size_of::<libc::cmsghdr>() + size_of::<[i32; HANDED]>();
        Self {
            name: [0; 2],
            vectors: [0; 2],
            control: mapping + MESSAGE + offset_of!(Self, length) as u64,
            control_length: control as u64,
            flags: 0,
            length: 0,
            level: 0,
            kind: 0,
            fds: [-1; HANDED],
            sockets: [-1; 2],
        }
    }

    /// As it lies in the mapping.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        // SAFETY: no padding.
        unsafe { std::mem::transmute(*self) }
    }

    /// As [`Answers::from_bytes`].
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: every bit pattern is a value of all fields.
        unsafe { std::mem::transmute(bytes) }
    }
}

/// What a copy of the code is told.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Orders {
    mark: u64,
    /// The mapping, for those who ask where the thread is.
    mapping: u64,
    length: u64,
    mxcsr: u64,
    /// What the thread blocks meanwhile, and what it blocked before.
    pub blocks: u64,
    pub blocked: u64,
    pub errno_location: u64,
    pub dlopen: u64,
    pub dlopen_flags: u64,
    pub dlerror: u64,
    /// The agent's function, from its load address.
    pub start: u64,
    /// Which signals end the system call that is to be made again: see
    /// [`super::Interruptible`].
    interruptible: u64,
    interrupted_rip: u64,
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    rsp: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    flags: u64,
    rip: u64,
}

/// Trap flag.
const TRAP: u64 = 1 << 8;
/// What the x87 and SSE control words are when a program starts.
const MXCSR: u64 = 0x1f80;
/// Bytes of the instruction that enters the kernel.
const SYSCALL: u64 = super::SYSCALL.len() as u64;

impl Orders {
    /// Orders for the thread `tid` to come back to `before`, and there make the
    /// system call `again` that it was about to make. Everything else that is
    /// public is still to be filled in.
    pub fn back_to(tid: i32, before: &Registers, again: Option<Interruptible>) -> Self {
        let (rax, rip, interruptible) = match again {
            Some(rule) => (before.orig_rax, before.rip - SYSCALL, rule),
            None => (before.rax, before.rip, Interruptible::Never),
        };
        Self {
            mark: MARK | u64::from(tid.cast_unsigned()),
            length: LENGTH,
            mxcsr: MXCSR,
            interruptible: interruptible as u64,
            interrupted_rip: before.rip,
            rax,
            rip,
            rbx: before.rbx,
            rcx: before.rcx,
            rdx: before.rdx,
            rsi: before.rsi,
            rdi: before.rdi,
            rbp: before.rbp,
            rsp: before.rsp,
            r8: before.r8,
            r9: before.r9,
            r10: before.r10,
            r11: before.r11,
            r12: before.r12,
            r13: before.r13,
            r14: before.r14,
            r15: before.r15,
            flags: before.eflags & !TRAP,
            ..Self::default()
        }
    }

    /// The thread that this copy belongs to, if it is one, and its mapping.
    pub fn owner(copy: &[u8]) -> Option<(i32, u64)> {
        let word = |at: usize| Some(u64::from_le_bytes(copy.get(at..at + 8)?.try_into().ok()?));
        let mark = word(offset_of!(Self, mark))?;
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let tid = mark as i32;
        (mark & !0xffff_ffff == MARK).then_some((tid, word(offset_of!(Self, mapping))?))
    }

    /// Orders and code, as they lie in the target.
    pub fn copy(&self) -> Vec<u8> {
        let mut copy = code().to_vec();
        // SAFETY: all fields are u64, so there is no padding; the size is that of the type.
        let orders = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(self).cast::<u8>(), size_of::<Self>())
        };
        copy[..orders.len()].copy_from_slice(orders);
        copy
    }
}

/// Registers that send a thread from its own code to the copy at `at`.
pub fn set_out(before: &Registers, at: u64) -> Registers {
    let mut registers = *before;
    registers.rip = at + offset(Place::Start);
    registers
}

/// Registers that send a thread to the copy at `at` from the start of a system
/// call: in place of that the kernel blocks its signals, before any of its code
/// runs again.
pub fn set_out_from_call(before: &Registers, at: u64) -> Registers {
    let mut registers = *before;
    registers.rip = at + offset(Place::Blocked);
    registers.orig_rax = libc::SYS_rt_sigprocmask.cast_unsigned();
    registers.rdi = libc::SIG_SETMASK as u64;
    registers.rsi = at + offset_of!(Orders, blocks) as u64;
    registers.rdx = 0;
    registers.r10 = size_of::<u64>() as u64;
    registers
}

/// Registers for receiving fds, when the mapping is there.
pub fn receive(before: &Registers, at: u64, mapping: u64) -> Registers {
    let mut registers = work(before, at, mapping);
    registers.rip = at + offset(Place::Receive);
    registers
}

/// Registers for the work, when the mapping is there.
pub fn work(before: &Registers, at: u64, mapping: u64) -> Registers {
    let mut registers = *before;
    registers.rip = at + offset(Place::Work);
    registers.rbx = mapping;
    registers.orig_rax = u64::MAX;
    registers
}

/// Addresses of strings in the mapping.
pub fn strings(mapping: u64) -> [u64; 2] {
    [mapping + PATH, mapping + SESSIONS]
}

/// Points of the code that a tracer waits for, at the system calls there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where it begins.
    Start,
    /// After the call that blocks signals.
    Blocked,
    /// After the call that makes the mapping.
    Mapped,
    /// Where the thread of a guest is sent with a mapping.
    Receive,
    /// After the call that makes the sockets.
    Paired,
    /// After the call that receives.
    Received,
    /// Where the thread is sent with a mapping that is filled in.
    Work,
    /// After the call that removes the mapping.
    Unmapped,
    /// After the last call, which unblocks signals, on either way out.
    Last,
    LastInterrupted,
}

/// Where a place is in a copy.
pub fn offset(place: Place) -> u64 {
    let label = match place {
        Place::Start => &raw const bpftime_errand_start,
        Place::Blocked => &raw const bpftime_errand_blocked,
        Place::Mapped => &raw const bpftime_errand_mapped,
        Place::Receive => &raw const bpftime_errand_receive,
        Place::Paired => &raw const bpftime_errand_paired,
        Place::Received => &raw const bpftime_errand_received,
        Place::Work => &raw const bpftime_errand_work,
        Place::Unmapped => &raw const bpftime_errand_unmapped,
        Place::Last => &raw const bpftime_errand_last,
        Place::LastInterrupted => &raw const bpftime_errand_last_interrupted,
    };
    label.addr() as u64 - (&raw const bpftime_errand).addr() as u64
}

/// Bytes that a copy takes.
pub fn size() -> usize {
    (&raw const bpftime_errand_end).addr() - (&raw const bpftime_errand).addr()
}

fn code() -> &'static [u8] {
    // SAFETY: both labels are of one piece of read-only data, in this order.
    unsafe { std::slice::from_raw_parts(&raw const bpftime_errand, size()) }
}

unsafe extern "C" {
    static bpftime_errand: u8;
    static bpftime_errand_start: u8;
    static bpftime_errand_blocked: u8;
    static bpftime_errand_mapped: u8;
    static bpftime_errand_receive: u8;
    static bpftime_errand_paired: u8;
    static bpftime_errand_received: u8;
    static bpftime_errand_work: u8;
    static bpftime_errand_unmapped: u8;
    static bpftime_errand_last: u8;
    static bpftime_errand_last_interrupted: u8;
    static bpftime_errand_end: u8;
}

// Up to `work` and after the popfq no instruction touches the flags.
global_asm!(
    ".macro bpftime_errand_block mask",
    "mov eax, {SIGPROCMASK}",
    "mov edi, {SIG_SETMASK}",
    "lea rsi, [rip + bpftime_errand + \\mask]",
    "mov edx, 0",
    "mov r10d, 8",
    "syscall",
    ".endm",
    // Everything as it was but rax and rip.
    ".macro bpftime_errand_back label",
    "mov rbx, [rip + bpftime_errand + {RBX}]",
    "mov rbp, [rip + bpftime_errand + {RBP}]",
    "mov rsp, [rip + bpftime_errand + {RSP}]",
    "mov r8, [rip + bpftime_errand + {R8}]",
    "mov r9, [rip + bpftime_errand + {R9}]",
    "mov r12, [rip + bpftime_errand + {R12}]",
    "mov r13, [rip + bpftime_errand + {R13}]",
    "mov r14, [rip + bpftime_errand + {R14}]",
    "mov r15, [rip + bpftime_errand + {R15}]",
    "bpftime_errand_block {BLOCKED}",
    "\\label:",
    "mov rcx, [rip + bpftime_errand + {RCX}]",
    "mov rdx, [rip + bpftime_errand + {RDX}]",
    "mov rsi, [rip + bpftime_errand + {RSI}]",
    "mov rdi, [rip + bpftime_errand + {RDI}]",
    "mov r10, [rip + bpftime_errand + {R10}]",
    "mov r11, [rip + bpftime_errand + {R11}]",
    ".endm",
    // Whatever fds were received; a closed number is -1.
    ".macro bpftime_errand_close",
    "cmp qword ptr [rbx + {CONTROL}], 0",
    "je 33f",
    "xor r14d, r14d",
    "31:",
    "mov edi, [rbx + {FDS} + r14 * 4]",
    "test edi, edi",
    "js 32f",
    "mov eax, {CLOSE}",
    "syscall",
    "32:",
    "inc r14d",
    "cmp r14d, {FDS_COUNT}",
    "jb 31b",
    "33:",
    ".endm",
    ".pushsection .rodata.bpftime_errand, \"a\", @progbits",
    // Code elsewhere in this binary names them.
    ".hidden bpftime_errand",
    ".globl bpftime_errand",
    ".hidden bpftime_errand_start",
    ".globl bpftime_errand_start",
    ".hidden bpftime_errand_blocked",
    ".globl bpftime_errand_blocked",
    ".hidden bpftime_errand_mapped",
    ".globl bpftime_errand_mapped",
    ".hidden bpftime_errand_receive",
    ".globl bpftime_errand_receive",
    ".hidden bpftime_errand_paired",
    ".globl bpftime_errand_paired",
    ".hidden bpftime_errand_received",
    ".globl bpftime_errand_received",
    ".hidden bpftime_errand_work",
    ".globl bpftime_errand_work",
    ".hidden bpftime_errand_unmapped",
    ".globl bpftime_errand_unmapped",
    ".hidden bpftime_errand_last",
    ".globl bpftime_errand_last",
    ".hidden bpftime_errand_last_interrupted",
    ".globl bpftime_errand_last_interrupted",
    ".hidden bpftime_errand_end",
    ".globl bpftime_errand_end",
    ".balign 8",
    "bpftime_errand:",
    ".skip {ORDERS}",
    // No signal from here on.
    "bpftime_errand_start:",
    "bpftime_errand_block {BLOCKS}",
    "bpftime_errand_blocked:",
    "mov eax, {MMAP}",
    "mov edi, 0",
    "mov rsi, [rip + bpftime_errand + {LENGTH}]",
    "mov edx, {PROT}",
    "mov r10d, {FLAGS}",
    "mov r8, -1",
    "mov r9d, 0",
    "syscall",
    // Here the tracer sends the thread to the work. It did not: back.
    "bpftime_errand_mapped:",
    "mov rbx, rax",
    "mov ebp, 0",
    "jmp 8f",
    // rbx: the mapping, with a message to receive.
    "bpftime_errand_receive:",
    "mov eax, {SOCKETPAIR}",
    "mov edi, {AF_UNIX}",
    "mov esi, {SOCK}",
    "mov edx, 0",
    "lea r10, [rbx + {SOCKETS}]",
    "syscall",
    // Here the tracer sends it.
    "bpftime_errand_paired:",
    "mov eax, {RECVMSG}",
    "mov edi, [rbx + {SOCKETS}]",
    "lea rsi, [rbx + {MESSAGE}]",
    "mov edx, {RECEIVE}",
    "syscall",
    // Here the tracer sends the thread to the work. It did not: back.
    "bpftime_errand_received:",
    "lea rsp, [rbx + {STACK}]",
    "bpftime_errand_close",
    "push [rip + bpftime_errand + {RFLAGS}]",
    "popfq",
    "mov ebp, 0",
    "jmp 8f",
    // rbx: the mapping, filled in.
    "bpftime_errand_work:",
    "mov eax, -1",
    "mov edx, -1",
    "xsave64 [rbx]",
    "fninit",
    "ldmxcsr [rip + bpftime_errand + {MXCSR}]",
    "lea rsp, [rbx + {STACK}]",
    "push 2",
    "popfq",
    "xor ebp, ebp",
    "call [rip + bpftime_errand + {ERRNO}]",
    "mov r12, rax",
    "mov r13d, [rax]",
    "lea rdi, [rbx + {PATH}]",
    "mov rsi, [rip + bpftime_errand + {DLOPEN_FLAGS}]",
    "call [rip + bpftime_errand + {DLOPEN}]",
    "mov [rbx + {HANDLE}], rax",
    "test rax, rax",
    "jnz 7f",
    "mov rax, [rip + bpftime_errand + {DLERROR}]",
    "test rax, rax",
    "jz 2f",
    "call rax",
    "mov [rbx + {ERROR}], rax",
    "jmp 2f",
    // A handle is a struct link_map: first is where the library is.
    "7:",
    "mov rsi, rax",
    "mov rax, [rax]",
    "add rax, [rip + bpftime_errand + {START}]",
    "lea rdi, [rbx + {SESSIONS}]",
    "call rax",
    "movsxd rax, eax",
    "mov [rbx + {STATUS}], rax",
    "2:",
    "mov [r12], r13d",
    "bpftime_errand_close",
    // Does a signal that waits for us end the interrupted system call?
    "mov r14, [rip + bpftime_errand + {INTERRUPTIBLE}]",
    "test r14, r14",
    "jz 5f",
    "mov eax, {SIGPENDING}",
    "lea rdi, [rsp - 64]",
    "mov esi, 8",
    "syscall",
    "mov r15, [rip + bpftime_errand + {BLOCKED}]",
    "not r15",
    "and r15, [rsp - 64]",
    "3:",
    "bsf r12, r15",
    "jz 5f",
    "btr r15, r12",
    "mov eax, {SIGACTION}",
    "lea edi, [r12 + 1]",
    "xor esi, esi",
    "lea rdx, [rsp - 64]",
    "mov r10d, 8",
    "syscall",
    "cmp qword ptr [rsp - 64], {SIG_IGN}",
    "jbe 3b",
    "cmp r14, {ALWAYS}",
    "je 4f",
    "test dword ptr [rsp - 56], {SA_RESTART}",
    "jnz 3b",
    "4:",
    "mov ebp, 1",
    "5:",
    "mov eax, -1",
    "mov edx, -1",
    "xrstor64 [rbx]",
    "push [rip + bpftime_errand + {RFLAGS}]",
    "popfq",
    "8:",
    "mov rdi, rbx",
    "mov rsi, [rip + bpftime_errand + {LENGTH}]",
    "mov eax, {MUNMAP}",
    "syscall",
    "bpftime_errand_unmapped:",
    "mov rcx, rbp",
    "jrcxz 9f",
    "jmp 6f",
    "9:",
    "bpftime_errand_back bpftime_errand_last",
    "mov rax, [rip + bpftime_errand + {RAX}]",
    "jmp [rip + bpftime_errand + {RIP}]",
    "6:",
    "bpftime_errand_back bpftime_errand_last_interrupted",
    "mov rax, {EINTR}",
    "jmp [rip + bpftime_errand + {INTERRUPTED_RIP}]",
    "bpftime_errand_end:",
    ".popsection",
    ".purgem bpftime_errand_block",
    ".purgem bpftime_errand_back",
    ".purgem bpftime_errand_close",
    SOCKETPAIR = const libc::SYS_socketpair,
    RECVMSG = const libc::SYS_recvmsg,
    CLOSE = const libc::SYS_close,
    AF_UNIX = const libc::AF_UNIX,
    SOCK = const libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
    RECEIVE = const libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
    MESSAGE = const MESSAGE,
    CONTROL = const MESSAGE + offset_of!(Message, control) as u64,
    SOCKETS = const MESSAGE + offset_of!(Message, sockets) as u64,
    FDS = const MESSAGE + offset_of!(Message, fds) as u64,
    FDS_COUNT = const HANDED + 2,
    SIGPROCMASK = const libc::SYS_rt_sigprocmask,
    SIG_SETMASK = const libc::SIG_SETMASK,
    SIGPENDING = const libc::SYS_rt_sigpending,
    SIGACTION = const libc::SYS_rt_sigaction,
    SIG_IGN = const libc::SIG_IGN,
    SA_RESTART = const libc::SA_RESTART,
    MMAP = const libc::SYS_mmap,
    MUNMAP = const libc::SYS_munmap,
    PROT = const libc::PROT_READ | libc::PROT_WRITE,
    // Shared: nobody takes it for memory that only calls of the program give back.
    FLAGS = const libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_STACK,
    EINTR = const -(libc::EINTR as i64),
    ALWAYS = const Interruptible::Always as u64,
    STACK = const LENGTH,
    PATH = const PATH,
    SESSIONS = const SESSIONS,
    HANDLE = const ANSWERS + offset_of!(Answers, handle) as u64,
    ERROR = const ANSWERS + offset_of!(Answers, error) as u64,
    STATUS = const ANSWERS + offset_of!(Answers, status) as u64,
    ORDERS = const size_of::<Orders>(),
    LENGTH = const offset_of!(Orders, length),
    MXCSR = const offset_of!(Orders, mxcsr),
    BLOCKS = const offset_of!(Orders, blocks),
    BLOCKED = const offset_of!(Orders, blocked),
    ERRNO = const offset_of!(Orders, errno_location),
    DLOPEN = const offset_of!(Orders, dlopen),
    DLOPEN_FLAGS = const offset_of!(Orders, dlopen_flags),
    DLERROR = const offset_of!(Orders, dlerror),
    START = const offset_of!(Orders, start),
    INTERRUPTIBLE = const offset_of!(Orders, interruptible),
    INTERRUPTED_RIP = const offset_of!(Orders, interrupted_rip),
    RAX = const offset_of!(Orders, rax),
    RBX = const offset_of!(Orders, rbx),
    RCX = const offset_of!(Orders, rcx),
    RDX = const offset_of!(Orders, rdx),
    RSI = const offset_of!(Orders, rsi),
    RDI = const offset_of!(Orders, rdi),
    RBP = const offset_of!(Orders, rbp),
    RSP = const offset_of!(Orders, rsp),
    R8 = const offset_of!(Orders, r8),
    R9 = const offset_of!(Orders, r9),
    R10 = const offset_of!(Orders, r10),
    R11 = const offset_of!(Orders, r11),
    R12 = const offset_of!(Orders, r12),
    R13 = const offset_of!(Orders, r13),
    R14 = const offset_of!(Orders, r14),
    R15 = const offset_of!(Orders, r15),
    RFLAGS = const offset_of!(Orders, flags),
    RIP = const offset_of!(Orders, rip),
);
