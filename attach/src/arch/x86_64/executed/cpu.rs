//! A child that executes what it is told, a step at a time. Text, data and
//! stack are shared with it. It knows no displaced code.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use iced_x86::{Instruction, InstructionInfoFactory, Register};
use object::ElfFile;

use super::state::{Chance, State};

/// Where a file's text is, and where displaced code may be.
const BIAS: u64 = 0x3f12_3400_0000;
pub(super) const FAR: [u64; 2] = [BIAS - 0x6000_0000, BIAS + 0x6000_0000];
const FAR_BYTES: usize = 8192;
/// Memory that registers lead to: also 32 bits do.
pub(super) const SCRATCH: u64 = 0x5000_0000;
pub(super) const SCRATCH_BYTES: usize = 8192;
/// What is looked at around an operand in the file's own data.
const AROUND: Range<i64> = -64..192;
/// Enough for a repeated string instruction and what is around it.
const MOST_STEPS: usize = 64;

/// Memory at a fixed address, the same in the child.
struct Shared {
    start: u64,
    len: usize,
}

impl Shared {
    fn at(start: u64, len: usize) -> Shared {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: where nothing is mapped.
        let mapped = unsafe { libc::mmap(start as *mut _, len, protection, flags, -1, 0) };
        assert_eq!(mapped as u64, start, "{}", std::io::Error::last_os_error());
        Shared { start, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped as long as we are; the child stands still while we look.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: ours, and no reference outlives us.
        unsafe { libc::munmap(self.start as *mut _, self.len) };
    }
}

/// The segments of a file, mapped.
pub(super) struct Image(Shared);

impl Image {
    fn of(elf: &ElfFile<'_>) -> Image {
        let end = elf.segments().map(|s| s.vaddr + s.memory_len).max();
        let mut memory = Shared::at(BIAS, end.expect("segments").next_multiple_of(4096) as usize);
        for segment in elf.segments() {
            let bytes = elf.file_bytes(segment.file.clone());
            let at = segment.vaddr as usize;
            memory.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Image(memory)
    }

    /// Where an address of the file is.
    pub(super) fn address(&self, vaddr: u64) -> u64 {
        self.0.start + vaddr
    }

    pub(super) fn bytes(&self, addr: u64, len: usize) -> &[u8] {
        let at = (addr - self.0.start) as usize;
        let bytes = self.0.bytes();
        &bytes[at..(at + len).min(bytes.len())]
    }

    fn bytes_mut(&mut self, addr: u64, len: usize) -> &mut [u8] {
        let at = (addr - self.0.start) as usize;
        &mut self.0.bytes_mut()[at..at + len]
    }

    /// What is around the operands that the instructions have in here.
    fn windows(&self, group: &[Instruction]) -> Vec<(u64, Vec<u8>)> {
        let mut factory = InstructionInfoFactory::new();
        let mut windows = Vec::new();
        let end = self.0.start + self.0.len as u64;
        for instruction in group {
            for memory in factory.info(instruction).used_memory() {
                let is_here = (self.0.start..end).contains(&memory.displacement());
                if !is_here || memory.base() != Register::None {
                    continue;
                }
                let at = |by| {
                    memory
                        .displacement()
                        .saturating_add_signed(by)
                        .clamp(self.0.start, end)
                };
                let (from, to) = (at(AROUND.start), at(AROUND.end));
                windows.push((from, self.bytes(from, (to - from) as usize).to_vec()));
            }
        }
        windows
    }
}

/// How it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Execution goes on here.
    At(u64),
    /// The child got a signal.
    Fault(i32),
}

/// All that can be seen afterwards.
#[derive(PartialEq)]
pub(super) struct Result {
    pub(super) outcome: Outcome,
    /// Without the instruction pointer, which `outcome` has.
    registers: [u64; 24],
    memory: Vec<u8>,
    windows: Vec<(u64, Vec<u8>)>,
    vectors: Vec<u8>,
}

impl Result {
    pub(super) fn fault(&self) -> Option<i32> {
        match self.outcome {
            Outcome::Fault(signal) => Some(signal),
            Outcome::At(_) => None,
        }
    }

    /// What differs, in words.
    pub(super) fn differences(&self, other: &Result) -> String {
        let bytes = |what: &str, one: &[u8], other: &[u8]| {
            let differ = one
                .iter()
                .zip(other)
                .enumerate()
                .filter(|(_, (a, b))| a != b);
            let shown: Vec<_> = differ
                .take(16)
                .map(|(at, (a, b))| format!("{at:x}: {a:02x} {b:02x}"))
                .collect();
            format!("{what} {shown:?}\n")
        };
        let mut text = format!(
            "{:x?}\n{:x?}\n{:x?}\n{:x?}\n",
            self.outcome, other.outcome, self.registers, other.registers
        );
        text += &bytes("memory", &self.memory, &other.memory);
        text += &bytes("vectors", &self.vectors, &other.vectors);
        for ((at, one), (_, other)) in self.windows.iter().zip(&other.windows) {
            text += &bytes(&format!("data at {at:x}"), one, other);
        }
        text
    }
}

impl std::fmt::Debug for Result {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:x?}", self.outcome, self.registers)
    }
}

/// Addresses are fixed, so there is one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The child, and what it shares.
pub(super) struct Cpu {
    image: Image,
    far: [Shared; 2],
    scratch: Shared,
    /// What `scratch` holds before each run.
    fresh: Vec<u8>,
    /// The state of vector registers at the child's start.
    vectors: Vec<u8>,
    pid: libc::pid_t,
    /// Last, so that it goes when nothing is mapped any more.
    _only: MutexGuard<'static, ()>,
}

impl Cpu {
    pub(super) fn new(elf: &ElfFile<'_>) -> Cpu {
        let only = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut cpu = Cpu {
            image: Image::of(elf),
            _only: only,
            far: FAR.map(|start| Shared::at(start, FAR_BYTES)),
            scratch: Shared::at(SCRATCH, SCRATCH_BYTES),
            fresh: fresh(),
            vectors: vec![0; 1 << 14],
            pid: 0,
        };
        stay_on_one_cpu();
        // SAFETY: the child makes two system calls and stops for good.
        cpu.pid = unsafe { libc::fork() };
        assert!(cpu.pid >= 0);
        if cpu.pid == 0 {
            // SAFETY: asks to be traced, to die with the parent, and stops.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
                libc::_exit(1);
            }
        }
        assert_eq!(cpu.wait(), libc::SIGSTOP);
        let mut vectors = std::mem::take(&mut cpu.vectors);
        let len = cpu.vector_registers(libc::PTRACE_GETREGSET, &mut vectors);
        vectors.truncate(len);
        cpu.vectors = vectors;
        cpu
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Writes code.
    pub(super) fn place(&mut self, at: u64, code: &[u8]) {
        for far in &mut self.far {
            if (far.start..far.start + far.len as u64).contains(&at) {
                let from = (at - far.start) as usize;
                far.bytes_mut()[from..from + code.len()].copy_from_slice(code);
                return;
            }
        }
        self.image.bytes_mut(at, code.len()).copy_from_slice(code);
    }

    /// Executes each instruction of the group once, in its place.
    pub(super) fn run_group(&mut self, state: &State, group: &[Instruction]) -> Result {
        let entry = group.first().map_or(0, Instruction::ip);
        self.run(state, group, entry, |cpu| {
            for instruction in group {
                let outcome = cpu.step();
                let Outcome::At(mut ip) = outcome else {
                    return outcome;
                };
                let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
                for _ in 0..MOST_STEPS {
                    if !repeats || ip != instruction.ip() {
                        break;
                    }
                    match cpu.step() {
                        Outcome::At(next) => ip = next,
                        fault => return fault,
                    }
                }
                if ip != instruction.next_ip() {
                    return Outcome::At(ip);
                }
            }
            Outcome::At(group.last().map_or(0, Instruction::next_ip))
        })
    }

    /// Executes from `entry` on until that leads out of `within`.
    pub(super) fn run_within(
        &mut self,
        state: &State,
        group: &[Instruction],
        entry: u64,
        within: Range<u64>,
    ) -> Result {
        self.run(state, group, entry, |cpu| {
            for _ in 0..MOST_STEPS {
                match cpu.step() {
                    Outcome::At(ip) if within.contains(&ip) => {}
                    outcome => return outcome,
                }
            }
            panic!("stays in {within:x?}");
        })
    }

    fn run(
        &mut self,
        state: &State,
        group: &[Instruction],
        entry: u64,
        go: impl FnOnce(&mut Cpu) -> Outcome,
    ) -> Result {
        let mut regs = state.regs;
        regs.rip = entry;
        self.scratch.bytes_mut().copy_from_slice(&self.fresh);
        let before = self.image.windows(group);
        self.ptrace(libc::PTRACE_SETREGS, 0, (&raw mut regs).cast());
        if state.vectors != 0 {
            let mut vectors = self.vectors.clone();
            fill(&mut vectors, state.vectors);
            self.vector_registers(libc::PTRACE_SETREGSET, &mut vectors);
        }
        let outcome = go(self);
        self.ptrace(libc::PTRACE_GETREGS, 0, (&raw mut regs).cast());
        let mut vectors = Vec::new();
        if state.vectors != 0 {
            vectors.resize(self.vectors.len(), 0);
            self.vector_registers(libc::PTRACE_GETREGSET, &mut vectors);
            // Where the last x87 instruction was, and what is not in use.
            vectors[8..24].fill(0);
            vectors[512..576].fill(0);
        }
        let windows = self.image.windows(group);
        for (at, bytes) in before {
            self.image
                .bytes_mut(at, bytes.len())
                .copy_from_slice(&bytes);
        }
        Result {
            outcome,
            registers: seen(&regs),
            memory: self.scratch.bytes().to_vec(),
            windows,
            vectors,
        }
    }

    fn step(&mut self) -> Outcome {
        self.ptrace(libc::PTRACE_SINGLESTEP, 0, std::ptr::null_mut());
        match self.wait() {
            libc::SIGTRAP => {
                let offset = std::mem::offset_of!(libc::user_regs_struct, rip);
                // SAFETY: reads a word of the stopped child.
                let ip = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, self.pid, offset, 0) };
                Outcome::At(ip.cast_unsigned())
            }
            signal => Outcome::Fault(signal),
        }
    }

    fn vector_registers(&self, request: libc::c_uint, bytes: &mut [u8]) -> usize {
        const NT_X86_XSTATE: usize = 0x202;
        let mut area = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        self.ptrace(request, NT_X86_XSTATE, (&raw mut area).cast());
        area.iov_len
    }

    fn ptrace(&self, request: libc::c_uint, addr: usize, data: *mut libc::c_void) {
        // SAFETY: callers give what the request reads or writes.
        let done = unsafe { libc::ptrace(request, self.pid, addr, data) };
        assert_eq!(done, 0, "{request}: {}", std::io::Error::last_os_error());
    }

    /// The signal with which the child stops.
    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: our child, and a place for its status.
        let pid = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(pid, self.pid);
        assert!(libc::WIFSTOPPED(status), "{status:x}");
        libc::WSTOPSIG(status)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: our child.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// Addresses at the start of each line, else chance.
fn fresh() -> Vec<u8> {
    let mut chance = Chance(1);
    let word = |at| {
        if at % 8 == 0 {
            chance.pointer()
        } else {
            chance.next()
        }
    };
    (0..SCRATCH_BYTES / 8)
        .map(word)
        .flat_map(u64::to_le_bytes)
        .collect()
}

/// Numbers by chance in x87, xmm and ymm registers.
fn fill(area: &mut [u8], seed: u64) {
    let mut chance = Chance(seed);
    for at in (160..416).step_by(8).chain((576..832).step_by(8)) {
        // Every other number is an ordinary one.
        let bits = chance.next();
        let ordinary = f64::to_bits((bits >> 40) as f64 / 16.0);
        let word = if bits & 1 == 0 { bits } else { ordinary };
        if let Some(place) = area.get_mut(at..at + 8) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
    // x87, SSE and AVX are in use.
    area[512] |= 7;
}

/// Steps of one and the other are on one processor: cheaper, and its number stays.
fn stay_on_one_cpu() {
    // SAFETY: a plain set of bits.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().cast_unsigned() as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// Every register; of the flags those that are the program's.
fn seen(regs: &libc::user_regs_struct) -> [u64; 24] {
    const TRAP_AND_RESUME: u64 = 0x1_0100;
    [
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rbp,
        regs.rsp,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.eflags & !TRAP_AND_RESUME,
        regs.fs_base,
        regs.gs_base,
        regs.cs,
        regs.ss,
        regs.ds,
        regs.es,
        regs.fs,
    ]
}
