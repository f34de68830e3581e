//! The abstract machine state at one point of one path: registers, stack
//! frames and held references. It knows no instructions.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use uapi::insn::{BPF_ADD, MAX_BPF_STACK, MAX_CALL_FRAMES};

use super::alu::alu64;
use super::lock::Lock;
use super::precision::Sources;
use super::progress::Budget;
use super::range::Scalar;
use crate::helper::kfunc::IterType;

/// Bytes of a stack slot.
pub(super) const SLOT: u32 = 8;
/// Slots of one frame.
pub(super) const SLOTS: usize = (MAX_BPF_STACK / SLOT) as usize;

/// What a register or spilled register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nothing that may be read.
    NotInit,
    /// A number.
    Scalar,
    /// The program's ctx.
    Ctx,
    /// An address in the stack frame with this depth.
    Stack { frame: u8 },
    /// An address in a value of the map with this index, or NULL.
    MapValue { map: u32, or_null: bool },
    /// A map itself.
    Map { map: u32 },
    /// A map that was looked up in a map of maps, or NULL.
    MapOrNull { map: u32 },
    /// An address in a key that a map hands to a callback.
    MapKey { map: u32 },
    /// A function of the program, to be called back.
    Func { subprogram: u32 },
    /// An address in a ring buffer record that must be given back, or NULL.
    Record { size: u32, or_null: bool },
    /// An address in so many bytes of something else, or NULL.
    Mem {
        size: u32,
        read_only: bool,
        or_null: bool,
    },
    /// A dynptr that may be used, but not changed.
    ConstDynPtr,
    /// In stack slots only: one half of a dynptr. Its `id` is the dynptr's,
    /// its `owner` the reference of the record that it stands for.
    DynPtr { to: DynPtrType, first: bool },
    /// In stack slots only: a part of an iterator. The first part's `owner`
    /// is its reference, its `delta` how often it gave an element.
    Iter { of: IterType, drained: bool },
    /// An address in a packet, or in what precedes its data. `range` bytes
    /// from the register's base on are known to be there; see `packet`.
    Packet { meta: bool, range: i32 },
    /// The address behind a packet's last byte.
    PacketEnd,
    /// An address in what a writable raw tracepoint hands over.
    TpBuffer,
    /// A socket, or NULL.
    Sock { sock: Sock, or_null: bool },
    /// An address that was read in a structure of the kernel: anything may be
    /// read there, for a read that faults gives 0.
    UntrustedMem,
    /// A structure of the kernel, or NULL.
    Object {
        of: Structure,
        trust: Trust,
        or_null: bool,
    },
}

/// Which structure of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Structure {
    /// By type id, where the kernel's types are known.
    Type(u32),
    /// By name, where they are not: nothing can be read through it.
    Named(&'static str),
}

/// What is known of a pointer to a structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    /// A helper gave it: it is valid.
    Given,
    /// It was read in another structure, and may be NULL or stale; a read
    /// through it that faults gives 0.
    Read,
    /// It was read in a union: it may be anything, and no helper takes it.
    Guessed,
}

/// How much of a socket a pointer shows (kernel: `PTR_TO_SOCK_COMMON` …).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sock {
    Common,
    Full,
    Tcp,
    /// `struct bpf_xdp_sock`.
    Xdp,
}

/// What a dynptr points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DynPtrType {
    Local,
    Ringbuf,
    Skb,
    Xdp,
}

impl Kind {
    pub(super) const fn is_pointer(self) -> bool {
        !matches!(self, Kind::NotInit | Kind::Scalar)
    }

    pub(super) const fn or_null(self) -> bool {
        matches!(
            self,
            Kind::MapOrNull { .. }
                | Kind::MapValue { or_null: true, .. }
                | Kind::Record { or_null: true, .. }
                | Kind::Mem { or_null: true, .. }
                | Kind::Sock { or_null: true, .. }
                | Kind::Object { or_null: true, .. }
        )
    }

    /// The kind after a check that found it not to be NULL.
    pub(super) const fn not_null(self) -> Kind {
        match self {
            Kind::MapOrNull { map } => Kind::Map { map },
            Kind::MapValue { map, .. } => Kind::MapValue {
                map,
                or_null: false,
            },
            Kind::Record { size, .. } => Kind::Record {
                size,
                or_null: false,
            },
            Kind::Mem {
                size, read_only, ..
            } => Kind::Mem {
                size,
                read_only,
                or_null: false,
            },
            Kind::Sock { sock, .. } => Kind::Sock {
                sock,
                or_null: false,
            },
            Kind::Object { of, trust, .. } => Kind::Object {
                of,
                trust,
                or_null: false,
            },
            other => other,
        }
    }

    /// The kernel's name of the type, as its log prints it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::NotInit => "?",
            Kind::Scalar => "scalar",
            Kind::Ctx => "ctx",
            Kind::Stack { .. } => "fp",
            Kind::MapValue { or_null: false, .. } => "map_value",
            Kind::MapOrNull { .. } | Kind::MapValue { or_null: true, .. } => "map_value_or_null",
            Kind::Map { .. } => "map_ptr",
            Kind::MapKey { .. } => "map_key",
            Kind::Func { .. } => "func",
            Kind::Record { or_null: false, .. } => "ringbuf_mem",
            Kind::Record { or_null: true, .. } => "ringbuf_mem_or_null",
            Kind::Mem {
                read_only, or_null, ..
            } => match (read_only, or_null) {
                (false, false) => "mem",
                (false, true) => "mem_or_null",
                (true, false) => "rdonly_mem",
                (true, true) => "rdonly_mem_or_null",
            },
            Kind::ConstDynPtr => "dynptr_ptr",
            Kind::DynPtr { .. } => "dynptr",
            Kind::Iter { .. } => "iter",
            Kind::Packet { meta: false, .. } => "pkt",
            Kind::Packet { meta: true, .. } => "pkt_meta",
            Kind::PacketEnd => "pkt_end",
            Kind::TpBuffer => "tp_buffer",
            Kind::Sock { sock, or_null } => match (sock, or_null) {
                (Sock::Common, false) => "sock_common",
                (Sock::Common, true) => "sock_common_or_null",
                (Sock::Full, false) => "sock",
                (Sock::Full, true) => "sock_or_null",
                (Sock::Tcp, false) => "tcp_sock",
                (Sock::Tcp, true) => "tcp_sock_or_null",
                (Sock::Xdp, false) => "xdp_sock",
                (Sock::Xdp, true) => "xdp_sock_or_null",
            },
            Kind::UntrustedMem => "rdonly_untrusted_mem",
            Kind::Object { or_null: false, .. } => "ptr_",
            Kind::Object { or_null: true, .. } => "ptr_or_null_",
        }
    }
}

/// A register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reg {
    pub(super) kind: Kind,
    /// The number, or a pointer's distance from the start of what it points to
    /// (in packets: the part of it that is not constant).
    pub(super) val: Scalar,
    /// Scalars with the same id (not 0) are one unknown number plus each its
    /// own `delta`. A pointer that may be NULL is NULL together with all that
    /// share its id; a record's id is its reference. Pointers into a packet
    /// with the same id have the same base.
    pub(super) id: u32,
    /// See `id`. In packets the distance from the base, else 0 for pointers.
    pub(super) delta: i64,
    /// What a scalar's `val` derives from; empty for pointers.
    pub(super) from: Sources,
    /// The dynptr or reference that memory or a socket belongs to: it ends with
    /// it. For a map value with a lock: which value it is. 0 if it is none of these.
    pub(super) owner: u32,
}

impl Reg {
    pub(super) const NOT_INIT: Reg = Reg {
        kind: Kind::NotInit,
        val: Scalar::UNKNOWN,
        id: 0,
        delta: 0,
        from: Sources::NONE,
        owner: 0,
    };
    pub(super) const UNKNOWN: Reg = Reg::scalar(Scalar::UNKNOWN);

    pub(super) const fn scalar(val: Scalar) -> Reg {
        Reg {
            kind: Kind::Scalar,
            val,
            id: 0,
            delta: 0,
            from: Sources::NONE,
            owner: 0,
        }
    }

    pub(super) const fn pointer(kind: Kind, offset: u64, id: u32) -> Reg {
        Reg {
            kind,
            val: Scalar::known(offset),
            id,
            delta: 0,
            from: Sources::NONE,
            owner: 0,
        }
    }

    /// A scalar that derives from `from`.
    pub(super) const fn derived(val: Scalar, from: Sources) -> Reg {
        Reg {
            from,
            ..Reg::scalar(val)
        }
    }

    /// Whether it is the number 0, NULL included.
    pub(super) fn is_null(&self) -> bool {
        self.kind == Kind::Scalar && self.val.as_const() == Some(0)
    }
}

/// What one byte of the stack holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Byte {
    /// Anything, written or not: the kernel lets privileged programs read both.
    Misc,
    /// The number 0.
    Zero,
    /// The byte of the slot's spilled register with the same number.
    Spill,
    /// Of a slot that the slot's register describes as part of a dynptr.
    DynPtr,
    /// Of a slot that the slot's register describes as part of an iterator.
    Iter,
}

/// Eight bytes of stack. Spilled bytes are a prefix: a register is spilled at
/// the slot's start, with 1, 2, 4 or (pointers: always) 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) bytes: [Byte; SLOT as usize],
    pub(super) reg: Reg,
}

impl Slot {
    pub(super) const MISC: Slot = Slot {
        bytes: [Byte::Misc; SLOT as usize],
        reg: Reg::NOT_INIT,
    };

    /// Number of leading bytes that are the spilled register.
    pub(super) fn spilled(&self) -> usize {
        self.bytes.iter().take_while(|&&b| b == Byte::Spill).count()
    }

    /// Whether it is part of a dynptr or an iterator, which only their own
    /// functions may look into.
    pub(super) fn is_object(&self) -> bool {
        matches!(self.bytes[0], Byte::DynPtr | Byte::Iter)
    }

    /// Forgets the register in it: its remaining bytes hold anything.
    pub(super) fn scrub(&mut self) {
        for byte in &mut self.bytes {
            if *byte != Byte::Zero {
                *byte = Byte::Misc;
            }
        }
        self.reg = Reg::NOT_INIT;
    }
}

/// The slots of a frame. States share them until one changes a slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stack(Rc<Vec<Slot>>);

impl Stack {
    /// The slot with this index, made if it was not touched yet.
    fn slot(&mut self, index: usize) -> &mut Slot {
        debug_assert!(index < SLOTS);
        let slots = Rc::make_mut(&mut self.0);
        if slots.len() <= index {
            slots.resize(index + 1, Slot::MISC);
        }
        &mut slots[index]
    }

    /// Calls `f` on the spilled registers that are `wanted`.
    fn each_spilled(&mut self, wanted: impl Fn(&Reg) -> bool, mut f: impl FnMut(&mut Reg)) {
        let is = |slot: &Slot| slot.bytes[0] == Byte::Spill && wanted(&slot.reg);
        if let Some(first) = self.iter().position(is) {
            for slot in &mut self[first..] {
                if is(slot) {
                    f(&mut slot.reg);
                }
            }
        }
    }
}

impl Deref for Stack {
    type Target = [Slot];

    fn deref(&self) -> &[Slot] {
        &self.0
    }
}

impl DerefMut for Stack {
    fn deref_mut(&mut self) -> &mut [Slot] {
        let slots: &mut Vec<Slot> = Rc::make_mut(&mut self.0);
        slots
    }
}

/// One subprogram's registers and stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) regs: [Reg; 11],
    /// Slot 0 is bytes -8..0 of the frame pointer; slots beyond are [`Slot::MISC`].
    pub(super) stack: Stack,
    /// Slots of which nothing is left that the last checkpoint knew.
    pub(super) written: u64,
    /// Turns that `may_goto` took in this call of the function.
    pub(super) budget: Budget,
    /// The instruction whose helper is calling back, and its turns.
    pub(super) calls: Option<(usize, Budget)>,
    /// References that were held when a helper called this function back;
    /// `None` for a function that the program calls.
    pub(super) callback: Option<usize>,
    /// Instruction of the call that made this frame.
    pub(super) call_site: usize,
    /// Index of the subprogram.
    pub(super) subprogram: usize,
}

impl Frame {
    /// A frame at depth `depth` whose r1…r5 are for the caller to set.
    pub(super) fn new(depth: u8, call_site: usize, subprogram: usize) -> Frame {
        let mut regs = [Reg::NOT_INIT; 11];
        regs[10] = Reg::pointer(Kind::Stack { frame: depth }, 0, 0);
        Frame {
            regs,
            stack: Stack::default(),
            written: u64::MAX,
            budget: Budget::default(),
            calls: None,
            callback: None,
            call_site,
            subprogram,
        }
    }

    /// The slot with this index, made if it was not touched yet.
    pub(super) fn slot(&mut self, index: usize) -> &mut Slot {
        self.stack.slot(index)
    }
}

/// All frames of the call chain, and the references the program holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) frames: Vec<Frame>,
    /// What must be given back, in the order it was taken.
    pub(super) refs: Vec<Ref>,
    /// The spin lock that is held.
    pub(super) lock: Option<Lock>,
}

/// Something that the program took and must give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ref {
    pub(super) id: u32,
    /// The instruction that took it.
    pub(super) insn: usize,
    pub(super) kind: RefKind,
}

/// What a reference is to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RefKind {
    /// A ring buffer record.
    Record,
    /// A ring buffer record behind dynptrs.
    DynPtr,
    /// An iterator.
    Iter,
    /// A socket.
    Sock,
}

impl State {
    pub(super) fn entry() -> State {
        let mut state = State::entry_of(0);
        state.set(1, Reg::pointer(Kind::Ctx, 0, 0));
        state
    }

    /// Where a subprogram begins that nobody called; its arguments are for the
    /// caller to set.
    pub(super) fn entry_of(subprogram: usize) -> State {
        State {
            frames: vec![Frame::new(0, 0, subprogram)],
            refs: Vec::new(),
            lock: None,
        }
    }

    pub(super) fn can_call(&self) -> bool {
        self.frames.len() < MAX_CALL_FRAMES as usize
    }

    /// The frame that runs.
    pub(super) fn frame(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    pub(super) fn reg(&self, number: u8) -> &Reg {
        &self.frames[self.frames.len() - 1].regs[usize::from(number)]
    }

    pub(super) fn set(&mut self, number: u8, reg: Reg) {
        self.frame().regs[usize::from(number)] = reg;
    }

    /// Calls `f` on every register and every spilled register of all frames.
    pub(super) fn each_reg(&mut self, f: impl FnMut(&mut Reg)) {
        self.each_reg_if(|_| true, f);
    }

    /// As [`State::each_reg`], for those that are `wanted`.
    fn each_reg_if(&mut self, wanted: impl Fn(&Reg) -> bool, mut f: impl FnMut(&mut Reg)) {
        for frame in &mut self.frames {
            for reg in frame.regs.iter_mut().filter(|reg| wanted(reg)) {
                f(reg);
            }
            frame.stack.each_spilled(&wanted, &mut f);
        }
    }

    /// Starts the path below a new checkpoint: every scalar derives from
    /// itself alone, no slot is overwritten yet. The sources and overwritten
    /// slots so far, which are the checkpoint's to keep.
    pub(super) fn restart_sources(&mut self) -> (Vec<Sources>, Vec<u64>) {
        let mut before = Vec::new();
        let scalar = |reg: &Reg| reg.kind == Kind::Scalar;
        self.each_reg_if(scalar, |reg| {
            let own = Sources::one(before.len());
            before.push(std::mem::replace(&mut reg.from, own));
        });
        let written = self.frames.iter_mut();
        let written = written.map(|f| std::mem::take(&mut f.written)).collect();
        (before, written)
    }

    /// Gives every scalar that hangs together with `known` what a branch taught of it.
    pub(super) fn learn(&mut self, known: &Reg) {
        if known.id == 0 {
            return;
        }
        let linked = |reg: &Reg| reg.id == known.id && reg.kind == Kind::Scalar;
        self.each_reg_if(linked, |reg| {
            let distance = reg.delta.wrapping_sub(known.delta) as u64;
            let val = if distance == 0 {
                known.val
            } else {
                alu64(BPF_ADD, &known.val, &Scalar::known(distance))
            };
            // What was known of it before still holds.
            let val = reg.val.intersect(&val).unwrap_or(reg.val);
            if val != reg.val {
                reg.val = val;
                reg.from = reg.from.and(known.from);
            }
        });
    }

    /// Settles whether the pointers with `id` are NULL.
    pub(super) fn settle_null(&mut self, id: u32, null: bool) {
        let mut was_reference = false;
        let alike = |reg: &Reg| reg.id == id && reg.kind.or_null();
        self.each_reg_if(alike, |reg| {
            was_reference |= matches!(reg.kind, Kind::Record { .. }) || reg.owner == id;
            if null {
                *reg = Reg::scalar(Scalar::known(0));
            } else {
                reg.kind = reg.kind.not_null();
                if !matches!(reg.kind, Kind::Record { .. }) {
                    reg.id = 0;
                }
            }
        });
        if was_reference && null {
            self.refs.retain(|held| held.id != id);
        }
    }

    /// Ends a reference: pointers to what it was become numbers. False when
    /// it was not held.
    pub(super) fn release(&mut self, id: u32) -> bool {
        let held = self.refs.len();
        self.refs.retain(|r| r.id != id);
        if self.refs.len() == held {
            return false;
        }
        self.each_reg(|reg| {
            if reg.id == id && matches!(reg.kind, Kind::Record { .. }) {
                *reg = Reg::UNKNOWN;
            }
        });
        self.disown(id);
        true
    }

    /// Memory that belongs to what has this id ends: addresses become numbers.
    pub(super) fn disown(&mut self, id: u32) {
        self.each_reg(|reg| {
            if reg.owner == id {
                *reg = Reg::UNKNOWN;
            }
        });
    }
}
