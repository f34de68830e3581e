//! Registers for instructions to start with: by chance, but memory operands
//! lead to memory that is there.

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, OpKind,
    Register,
};

use super::cpu::{SCRATCH, SCRATCH_BYTES};

/// What a group starts with.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) regs: libc::user_regs_struct,
    /// Seed of what vector registers and memory hold; 0 if none is looked at.
    pub(super) vectors: u64,
}

/// Pseudo-random numbers (splitmix64).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An aligned address with room on both sides.
    pub(super) fn pointer(&mut self) -> u64 {
        let quarter = SCRATCH_BYTES as u64 / 4;
        SCRATCH + quarter + self.next() % (2 * quarter) / 64 * 64
    }
}

const STATUS: u64 = 0x8d5;
const DIRECTION: u64 = 0x400;
const ALWAYS: u64 = 0x202;

impl State {
    /// For the instructions of a group; later attempts use smaller numbers.
    pub(super) fn for_group(group: &[Instruction], attempt: u64) -> State {
        let seed = group.first().map_or(0, Instruction::ip);
        let mut chance = Chance(seed.wrapping_mul(31).wrapping_add(attempt));
        // SAFETY: plain words, for which zeros are valid.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        for register in GENERAL {
            let value = match attempt {
                0 => chance.next(),
                1 => chance.pointer(),
                _ => chance.next() % 8,
            };
            *general(&mut regs, register) = value;
        }
        regs.rsp = chance.pointer();
        regs.rbp = if attempt == 0 {
            chance.next()
        } else {
            chance.pointer()
        };
        regs.fs_base = chance.pointer();
        regs.gs_base = chance.pointer();
        regs.eflags = ALWAYS | chance.next() & (STATUS | DIRECTION);
        regs.cs = 0x33;
        regs.ss = 0x2b;
        regs.orig_rax = u64::MAX;
        for instruction in group {
            point(&mut regs, instruction, &mut chance);
        }
        let vectors = if group.iter().any(uses_vectors) {
            seed | 1
        } else {
            0
        };
        State { regs, vectors }
    }
}

/// Whether registers matter that are not general ones.
fn uses_vectors(instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut registers = info.used_registers().iter().map(|used| used.register());
    registers.any(|r| r.is_vector_register() || r.is_st() || r.is_mm() || r.is_k())
}

/// Lets memory operands lead to memory, and calls to addresses.
fn point(regs: &mut libc::user_regs_struct, instruction: &Instruction, chance: &mut Chance) {
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        regs.rcx = chance.next() % 9;
    }
    if instruction.code() == Code::Leaveq {
        regs.rbp = chance.pointer();
    }
    let leads_on = matches!(
        instruction.flow_control(),
        FlowControl::IndirectCall | FlowControl::IndirectBranch
    );
    if leads_on && instruction.op0_kind() == OpKind::Register {
        let register = instruction.op0_register();
        if register != Register::RSP {
            *general(regs, register) = chance.pointer();
        }
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(instruction, InstructionInfoOptions::NO_REGISTER_USAGE);
    for memory in info.used_memory() {
        let (base, index) = (
            memory.base().full_register(),
            memory.index().full_register(),
        );
        let is_vector = index.is_vector_register();
        let scale = u64::from(memory.scale());
        let mut target = chance.pointer();
        if matches!(memory.segment(), Register::FS | Register::GS) {
            let own = if memory.segment() == Register::FS {
                regs.fs_base
            } else {
                regs.gs_base
            };
            target = target.wrapping_sub(own);
        }
        target = target.wrapping_sub(memory.displacement());
        match (base, index) {
            (Register::RIP | Register::None, Register::None) => {}
            (Register::None, index) if !is_vector => *general(regs, index) = target / scale,
            (base, Register::None) if base != Register::RSP => *general(regs, base) = target,
            (base, index) if base == index => *general(regs, base) = target / (scale + 1),
            (Register::RSP, index) if !is_vector && index != Register::None => {
                *general(regs, index) = chance.next() % 8;
            }
            (Register::RSP, _) => {}
            (base, _) if is_vector => *general(regs, base) = target,
            (base, index) => {
                // An address of one byte in a table that is indexed by xlat.
                let index_value = if memory.index() == Register::AL {
                    *general(regs, Register::RAX) & 0xff
                } else {
                    let small = chance.next() % 8;
                    *general(regs, index) = small;
                    small
                };
                *general(regs, base) = target.wrapping_sub(index_value.wrapping_mul(scale));
            }
        }
    }
    // `bt [m], r` and the like go as far as the register says.
    let is_bit = matches!(
        instruction.mnemonic(),
        iced_x86::Mnemonic::Bt
            | iced_x86::Mnemonic::Bts
            | iced_x86::Mnemonic::Btr
            | iced_x86::Mnemonic::Btc
    );
    if is_bit
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
    {
        let register = instruction.op1_register().full_register();
        if register != instruction.memory_base() && register != instruction.memory_index() {
            *general(regs, register) &= 0xff;
        }
    }
}

const GENERAL: [Register; 14] = [
    Register::RAX,
    Register::RBX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// A general register's place.
pub(super) fn general(regs: &mut libc::user_regs_struct, register: Register) -> &mut u64 {
    match register.full_register() {
        Register::RAX => &mut regs.rax,
        Register::RBX => &mut regs.rbx,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::RBP => &mut regs.rbp,
        Register::RSP => &mut regs.rsp,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        other => panic!("{other:?} is no general register"),
    }
}
