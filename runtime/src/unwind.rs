//! Stacks, of the calling thread or of any other whose stack was copied: frame
//! by frame through the unwind tables of the modules it runs in, over frame
//! pointers where there are none. It knows
//! no helper. [`walk`] is callable from trampolines: no allocation, no lock,
//! no libc call, no panic, and every read is one that cannot fault.
//!
//! Tables are plain rows that somebody else made and published; they are
//! copies, so a module that goes away takes nothing from under a walk.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::Ordering::{Release, SeqCst};
use core::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::Arc;

use object::unwind::{Cfa, Row, Saved, register};
use uapi::PtRegs;

use crate::helpers::read;
use crate::run::ReturnAddress;
use crate::{own_stack, thread};

/// Bytes of a build id.
pub const BUILD_ID: usize = 20;

/// One executable mapping of a file.
#[derive(Clone, Debug)]
pub struct Module {
    /// Addresses.
    pub text: Range<u64>,
    /// File offset of the first byte.
    pub offset: u64,
    /// What has to be added to the file's addresses.
    pub bias: u64,
    /// The file's unwind table.
    pub rows: Arc<[Row]>,
    /// The file's build id.
    pub build_id: Option<[u8; BUILD_ID]>,
}

/// The modules of this process at one time.
#[derive(Debug, Default)]
pub struct Tables {
    /// By address.
    modules: Box<[Module]>,
}

static TABLES: AtomicPtr<Tables> = AtomicPtr::new(ptr::null_mut());

/// Walks under way, by thread.
static WALKS: [Walks; 16] = [const { Walks(AtomicUsize::new(0)) }; 16];

/// On a line of its own.
#[repr(align(64))]
struct Walks(AtomicUsize);

/// Whether no walk is under way that began before the last tables were
/// published. A walk that a signal's longjmp(3) left is under way for ever.
pub fn nobody_walks() -> bool {
    WALKS.iter().all(|walks| walks.0.load(SeqCst) == 0)
}

/// A look at the published tables, which stay as long as this.
struct Look {
    tables: Option<&'static Tables>,
    walks: &'static AtomicUsize,
}

impl Look {
    fn new() -> Look {
        let walks = &WALKS[thread::spread() % WALKS.len()].0;
        // Before the load, as `publish` comes before `nobody_walks`, all in
        // one order: either we see the new tables, or are seen.
        walks.fetch_add(1, SeqCst);
        Look {
            // SAFETY: those that are replaced are kept while we are seen.
            tables: unsafe { TABLES.load(SeqCst).as_ref() },
            walks,
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.walks.fetch_sub(1, Release);
    }
}

impl Tables {
    /// The tables of these modules.
    pub fn new(mut modules: Vec<Module>) -> Tables {
        modules.sort_by_key(|module| module.text.start);
        Tables {
            modules: modules.into(),
        }
    }

    /// From now on walks use these. Returns those before: they are to be kept
    /// until [`nobody_walks`].
    pub fn publish(self) -> Option<Box<Tables>> {
        let new = Box::into_raw(Box::new(self));
        let old = TABLES.swap(new, SeqCst);
        // SAFETY: came from `Box::into_raw` here and is published no more.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    }

    fn module(&self, address: u64) -> Option<&Module> {
        let after = self
            .modules
            .partition_point(|module| module.text.start <= address);
        let module = self.modules.get(after.checked_sub(1)?)?;
        module.text.contains(&address).then_some(module)
    }

    /// As the function [`place_in_file`], by these tables.
    pub fn place_in_file(&self, address: u64) -> Option<([u8; BUILD_ID], u64)> {
        let module = self.module(address)?;
        let offset = module.offset + (address - module.text.start);
        Some((module.build_id?, offset))
    }

    fn row(&self, address: u64) -> Option<Row> {
        let module = self.module(address)?;
        let address = u32::try_from(address.wrapping_sub(module.bias)).ok()?;
        let after = module.rows.partition_point(|row| row.start <= address);
        module.rows.get(after.checked_sub(1)?).copied()
    }
}

/// The build id of the file that an address is mapped from, and the offset in
/// that file.
pub fn place_in_file(address: u64) -> Option<([u8; BUILD_ID], u64)> {
    Look::new().tables?.place_in_file(address)
}

/// `struct bpf_stack_build_id`: a frame as a place in a file. No padding.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct StackBuildId {
    status: i32,
    build_id: [u8; BUILD_ID],
    /// In the file; the address without a build id.
    offset: u64,
}

/// How a frame is found from an address of the process that it is in.
pub(crate) type FrameOf<'a> = &'a dyn Fn(u64) -> StackBuildId;

impl StackBuildId {
    /// A frame in this process.
    pub(crate) fn of(ip: u64) -> StackBuildId {
        StackBuildId::at(ip, place_in_file(ip))
    }

    /// A frame, and where that is in which file.
    pub(crate) fn at(ip: u64, place: Option<([u8; BUILD_ID], u64)>) -> StackBuildId {
        /// `BPF_STACK_BUILD_ID_VALID` and `BPF_STACK_BUILD_ID_IP`.
        const VALID: i32 = 1;
        const IP: i32 = 2;
        match place {
            Some((build_id, offset)) => StackBuildId {
                status: VALID,
                build_id,
                offset,
            },
            None => StackBuildId {
                status: IP,
                build_id: [0; BUILD_ID],
                offset: ip,
            },
        }
    }
}

/// Where user addresses end (`TASK_SIZE_MAX`).
const USER_END: u64 = (1 << 47) - 4096;
/// Words read at a time where loads might fault.
const WINDOW: usize = 32;
/// Offsets in the `struct ucontext` that the kernel leaves on the stack for a
/// signal (arch/x86/include/uapi/asm/sigcontext.h).
mod saved {
    pub const BP: u64 = 120;
    pub const SP: u64 = 160;
    pub const IP: u64 = 168;
}

/// The stack that is walked.
pub(crate) trait Words {
    /// The word at an address.
    fn word(&mut self, address: u64) -> Option<u64>;
    /// Where the stack ends that `sp` points into, as far as that is known.
    fn end(&self, sp: u64) -> Option<u64>;
}

/// The calling thread's stack words, some of them read ahead.
struct OwnWords {
    start: u64,
    words: [u64; WINDOW],
}

impl Words for OwnWords {
    fn word(&mut self, address: u64) -> Option<u64> {
        if !address.is_multiple_of(8) || address >= USER_END {
            return None;
        }
        if own_stack::holds(address, 8) {
            let mut word = 0u64;
            // SAFETY: `word` has 8 bytes.
            unsafe { read(ptr::from_mut(&mut word).cast(), address, 8) }.ok()?;
            return Some(word);
        }
        let index = |start: u64| address.wrapping_sub(start) as usize / 8;
        if index(self.start) >= WINDOW {
            self.fill(address)?;
        }
        self.words.get(index(self.start)).copied()
    }

    fn end(&self, sp: u64) -> Option<u64> {
        own_stack::end().filter(|&end| sp < end)
    }
}

impl OwnWords {
    /// Reads the words from `address` on, within its page.
    #[cold]
    fn fill(&mut self, address: u64) -> Option<()> {
        let bytes = size_of_val(&self.words) as u64;
        let page = address & !(shm::PAGE - 1);
        // Not beyond the page: the next one may not be there.
        let start = address.min(page + shm::PAGE - bytes);
        // What the words are until all are read.
        self.start = u64::MAX;
        let to: *mut u8 = self.words.as_mut_ptr().cast();
        // SAFETY: `words` has that many bytes.
        unsafe { read(to, start, bytes as usize) }.ok()?;
        self.start = start;
        Some(())
    }
}

/// Registers of one frame.
struct Frame<'r> {
    ip: u64,
    sp: u64,
    bp: u64,
    /// `ip` is an instruction that was interrupted, not one after a call.
    exact: bool,
    /// All registers, in the innermost frame.
    all: Option<&'r PtRegs>,
    /// The caller is where `sp` points, as far as anyone knows.
    at_entry: bool,
}

impl Frame<'_> {
    fn register(&self, number: u8) -> Option<u64> {
        match number {
            register::FRAME_POINTER => Some(self.bp),
            register::STACK_POINTER => Some(self.sp),
            number => {
                let all = self.all?;
                // DWARF's order: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8…
                let registers = [
                    all.ax, all.dx, all.cx, all.bx, all.si, all.di, all.bp, all.sp, all.r8, all.r9,
                    all.r10, all.r11, all.r12, all.r13, all.r14, all.r15,
                ];
                registers.get(usize::from(number)).copied()
            }
        }
    }

    /// The frame that called this one; `None` at the end, or when the way is
    /// lost.
    fn caller(
        &self,
        tables: Option<&Tables>,
        words: &mut impl Words,
        returns_to: ReturnAddress,
    ) -> Option<Frame<'static>> {
        // After a call, the instruction that called is the one before.
        let address = self.ip.wrapping_sub(u64::from(!self.exact));
        let row = tables.and_then(|tables| tables.row(address));
        let (cfa, saved) = match row.map_or((Cfa::Unknown, Saved::Same), |row| (row.cfa, row.bp)) {
            (Cfa::Outermost, _) => return None,
            (Cfa::Signal, _) => return self.interrupted(words),
            (Cfa::Unknown, _) => self.by_frame_pointer(words)?,
            (cfa, saved) => (self.frame_address(cfa, words)?, saved),
        };
        let slot = cfa.wrapping_sub(8);
        // Stacks grow downwards.
        if slot < self.sp {
            return None;
        }
        let bp = match saved {
            Saved::Same => self.bp,
            Saved::AtCfa(offset) => words.word(cfa.wrapping_add_signed(offset.into()))?,
            Saved::AtFrame(offset) => words.word(self.bp.wrapping_add_signed(offset.into()))?,
        };
        Some(Frame {
            ip: returns_to(slot, words.word(slot)?),
            sp: cfa,
            bp,
            exact: false,
            all: None,
            at_entry: false,
        })
    }

    fn frame_address(&self, cfa: Cfa, words: &mut impl Words) -> Option<u64> {
        let at = |number, offset: i32| {
            let value: u64 = self.register(number)?;
            Some(value.wrapping_add_signed(offset.into()))
        };
        match cfa {
            Cfa::Register(number, offset) => at(number, offset),
            Cfa::Deref(number, offset) => words.word(at(number, offset)?),
            Cfa::Plt(pushed) => {
                let has_pushed = self.ip & 15 >= pushed.into();
                Some(self.sp.wrapping_add(if has_pushed { 16 } else { 8 }))
            }
            Cfa::Unknown | Cfa::Outermost | Cfa::Signal => None,
        }
    }

    /// Code without a description, as the kernel sees all code
    /// (arch/x86/events/core.c, `perf_callchain_user`, Linux 6.18).
    fn by_frame_pointer(&self, words: &impl Words) -> Option<(u64, Saved)> {
        if self.at_entry {
            return Some((self.sp.wrapping_add(8), Saved::Same));
        }
        // The register may be anything here.
        if words.end(self.sp).is_some_and(|end| self.bp >= end) {
            return None;
        }
        Some((self.bp.wrapping_add(16), Saved::AtCfa(-16)))
    }

    /// What a signal interrupted, possibly on another stack.
    fn interrupted(&self, words: &mut impl Words) -> Option<Frame<'static>> {
        let mut saved = |offset| words.word(self.sp.wrapping_add(offset));
        Some(Frame {
            ip: saved(saved::IP)?,
            sp: saved(saved::SP)?,
            bp: saved(saved::BP)?,
            exact: true,
            all: None,
            at_entry: false,
        })
    }
}

/// Walks from `regs`: calls `put` with each instruction pointer, the innermost
/// first, until it returns `false`. `at_entry` says that the first instruction
/// begins a function's frame.
pub fn walk(
    regs: &PtRegs,
    at_entry: bool,
    returns_to: ReturnAddress,
    put: impl FnMut(u64) -> bool,
) {
    let look = Look::new();
    let mut words = OwnWords {
        start: u64::MAX,
        words: [0; WINDOW],
    };
    walk_in(look.tables, &mut words, regs, at_entry, returns_to, put);
}

/// The same on another stack, by the tables of its process.
#[inline]
pub(crate) fn walk_in(
    tables: Option<&Tables>,
    words: &mut impl Words,
    regs: &PtRegs,
    at_entry: bool,
    returns_to: ReturnAddress,
    mut put: impl FnMut(u64) -> bool,
) {
    let mut frame = Frame {
        ip: regs.ip,
        sp: regs.sp,
        bp: regs.bp,
        exact: true,
        all: Some(regs),
        at_entry,
    };
    // Ends: a stack is finite, and `put` has room for so many.
    while put(frame.ip) {
        match frame.caller(tables, words, returns_to) {
            Some(caller) if caller.ip != 0 && caller.ip < USER_END => frame = caller,
            _ => return,
        }
    }
}
