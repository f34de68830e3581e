//! Runs a program slowly, with every access looked up in a table of what
//! exists, and says when it leaves it. Memory contents, helper results and
//! NULLs are random: a judge of accepted programs that shares no code with
//! the verifier or the engines.

mod objects;
mod packet;

use std::collections::BTreeMap;

use uapi::Insn;
use uapi::helper::*;
use uapi::insn::*;
use uapi::map::*;
use uapi::prog::*;
use vm::helper::{Arg, Ret, kernel};

pub use packet::packet_fields;

use super::mutate::Stream;
use super::pack::Pack;

/// Addresses are `BASE + (region << 32) + offset`: whatever leaves a region
/// by less than 2 GiB lies in none.
const BASE: u64 = 0x1000_0000_8000_0000;
const MAP_HANDLE: u64 = 0x7fff_0000_0000_0000;
const STEPS: u32 = 2_000_000;

struct Region {
    bytes: Vec<u8>,
    writable: bool,
    alive: bool,
}

struct Frame {
    saved: [u64; 4],
    back: usize,
    stack: usize,
}

pub struct Machine<'a> {
    pack: &'a Pack,
    stream: &'a Stream,
    regions: Vec<Region>,
    values: BTreeMap<(u32, u64), usize>,
    records: Vec<usize>,
    /// Dynptrs and iterators by address.
    objects: BTreeMap<u64, objects::Object>,
    regs: [u64; 11],
    frames: Vec<Frame>,
    ctx: usize,
    /// The packet, and how many bytes before its data it has.
    packet: (usize, u64),
}

type Done<T = ()> = Result<T, String>;

/// Runs once; what went wrong, if anything did.
pub fn run(pack: &Pack, stream: &Stream) -> Done {
    let mut machine = Machine {
        pack,
        stream,
        regions: Vec::new(),
        values: BTreeMap::new(),
        records: Vec::new(),
        objects: BTreeMap::new(),
        regs: std::array::from_fn(|_| stream.next()),
        frames: Vec::new(),
        ctx: 0,
        packet: (0, 0),
    };
    let bytes = match pack.spec.prog_type {
        BPF_PROG_TYPE_KPROBE => size_of::<uapi::PtRegs>(),
        BPF_PROG_TYPE_PERF_EVENT => size_of::<uapi::PtRegs>() + 16,
        BPF_PROG_TYPE_RAW_TRACEPOINT => 96,
        _ => 8192,
    };
    let ctx = machine.region(bytes, false);
    machine.ctx = ctx;
    machine.new_packet();
    machine.regs[1] = address(ctx);
    machine.enter(0);
    let mut at = 0;
    for _ in 0..STEPS {
        let insn = *pack.spec.insns.get(at).ok_or(format!("ran to {at}"))?;
        match machine.step(at, insn).map_err(|e| format!("{at}: {e}"))? {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
    Err("does not end".to_owned())
}

fn address(region: usize) -> u64 {
    BASE + ((region as u64) << 32)
}

impl Machine<'_> {
    fn region(&mut self, size: usize, writable: bool) -> usize {
        let style = self.stream.below(3);
        let fill = |_| match style {
            0 => self.stream.next() as u8,
            1 => self.stream.pick(&[0, 0, 0, 1, 8, 31, 32, 0x7f, 0x80, 0xff]),
            _ => self.stream.pick(&[0, 0xff]),
        };
        let bytes = (0..size).map(fill).collect();
        self.regions.push(Region {
            bytes,
            writable,
            alive: true,
        });
        self.regions.len() - 1
    }

    fn enter(&mut self, back: usize) {
        let stack = self.region(MAX_BPF_STACK as usize, true);
        let saved = [self.regs[6], self.regs[7], self.regs[8], self.regs[9]];
        self.frames.push(Frame { saved, back, stack });
        self.regs[10] = address(stack) + u64::from(MAX_BPF_STACK);
    }

    fn bytes(&mut self, at: u64, size: u64, write: bool) -> Done<&mut [u8]> {
        if size == 0 {
            return Ok(&mut []);
        }
        if write {
            self.overwrite(at, size)?;
        }
        // Offsets below 0 come out as huge.
        let distance = at.wrapping_sub(BASE);
        let (index, offset) = ((distance >> 32) as usize, distance & 0xffff_ffff);
        let Some(region) = self.regions.get_mut(index).filter(|r| r.alive) else {
            return Err(format!("{at:#x} is nowhere"));
        };
        let inside = offset + size <= region.bytes.len() as u64;
        if !inside || (write && !region.writable) {
            return Err(format!(
                "{size} bytes at {offset} of {}, write {write}",
                region.bytes.len()
            ));
        }
        Ok(&mut region.bytes[offset as usize..(offset + size) as usize])
    }

    fn read(&mut self, at: u64, size: u64) -> Done<u64> {
        let mut word = [0; 8];
        let bytes = self.bytes(at, size, false)?;
        word[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(word))
    }

    fn write(&mut self, at: u64, size: u64, n: u64) -> Done {
        let bytes = self.bytes(at, size, true)?;
        bytes.copy_from_slice(&n.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn step(&mut self, at: usize, insn: Insn) -> Done<Option<usize>> {
        let (d, s) = (usize::from(insn.dst()), usize::from(insn.src()).min(10));
        let off = i64::from(insn.off) as u64;
        let imm = i64::from(insn.imm) as u64;
        let size = match insn.code & BPF_DW {
            BPF_W => 4,
            BPF_H => 2,
            BPF_B => 1,
            _ => 8,
        };
        let src = if insn.code & BPF_X != 0 {
            self.regs[s]
        } else {
            imm
        };
        match insn.class() {
            BPF_ALU | BPF_ALU64 => self.regs[d] = alu(insn, self.regs[d], src),
            BPF_LD if insn.code != BPF_LD | BPF_IMM | BPF_DW => {
                for n in 1..6 {
                    self.regs[n] = self.stream.next();
                }
                self.regs[0] = self.stream.next();
                // Behind the packet's end the program is over.
                return Ok((self.stream.below(4) > 0).then_some(at + 1));
            }
            BPF_LD => {
                self.regs[d] = self.load_immediate(insn, self.pack.spec.insns[at + 1].imm);
                return Ok(Some(at + 2));
            }
            BPF_LDX => {
                let place = self.regs[s].wrapping_add(off);
                let n = match self.packet_address(place) {
                    Some(address) => address,
                    None => self.read(place, size)?,
                };
                let spare = 64 - 8 * size;
                let signed = insn.code & 0xe0 == BPF_MEMSX;
                self.regs[d] = if signed {
                    ((n << spare) as i64 >> spare) as u64
                } else {
                    n
                };
            }
            BPF_ST => self.write(self.regs[d].wrapping_add(off), size, imm)?,
            BPF_STX if insn.code & 0xe0 == BPF_ATOMIC => self.atomic(insn, size)?,
            BPF_STX => self.write(self.regs[d].wrapping_add(off), size, self.regs[s])?,
            _ => return self.jump(at, insn, src),
        }
        Ok(Some(at + 1))
    }

    fn load_immediate(&mut self, insn: Insn, high: i32) -> u64 {
        let id = insn.imm as u32;
        match insn.src() {
            0 => u64::from(id) | (u64::from(high as u32) << 32),
            BPF_PSEUDO_MAP_VALUE => {
                let region = self.value(id, 0);
                address(region) + u64::from(high as u32)
            }
            _ => MAP_HANDLE + u64::from(id),
        }
    }

    /// The region of one map value, made when it is first asked for.
    fn value(&mut self, id: u32, key: u64) -> usize {
        if let Some(&region) = self.values.get(&(id, key)) {
            return region;
        }
        let found = self.pack.maps.iter().find(|m| m.id == id);
        let info = found.expect("a verified program names known maps");
        let writable = info.map_flags & BPF_F_RDONLY_PROG == 0;
        let region = self.region(info.value_size as usize, writable);
        if let Some(rodata) = &info.rodata {
            self.regions[region].bytes.copy_from_slice(rodata);
        }
        self.values.insert((id, key), region);
        region
    }

    fn atomic(&mut self, insn: Insn, size: u64) -> Done {
        let (d, s) = (usize::from(insn.dst()), usize::from(insn.src()));
        let off = i64::from(insn.off) as u64;
        if insn.imm == BPF_LOAD_ACQ {
            self.regs[d] = self.read(self.regs[s].wrapping_add(off), size)?;
            return Ok(());
        }
        let at = self.regs[d].wrapping_add(off);
        if insn.imm == BPF_STORE_REL {
            return self.write(at, size, self.regs[s]);
        }
        if !at.is_multiple_of(size) {
            return Err(format!("atomic at {at:#x}"));
        }
        let old = self.read(at, size)?;
        let n = self.regs[s];
        let new = match insn.imm {
            BPF_XCHG => n,
            BPF_CMPXCHG => {
                let expected = if size == 4 {
                    u64::from(self.regs[0] as u32)
                } else {
                    self.regs[0]
                };
                self.regs[0] = old;
                if old == expected { n } else { old }
            }
            imm => match (imm & !BPF_FETCH) as u8 {
                BPF_ADD => old.wrapping_add(n),
                BPF_AND => old & n,
                BPF_OR => old | n,
                _ => old ^ n,
            },
        };
        self.write(at, size, new)?;
        if insn.imm & BPF_FETCH != 0 && insn.imm != BPF_CMPXCHG {
            self.regs[s] = old;
        }
        Ok(())
    }

    fn jump(&mut self, at: usize, insn: Insn, src: u64) -> Done<Option<usize>> {
        let wide = insn.class() == BPF_JMP;
        let target = |distance: i64| Some((at as i64 + 1 + distance) as usize);
        match insn.code & 0xf0 {
            BPF_JA => Ok(target(if wide {
                insn.off.into()
            } else {
                insn.imm.into()
            })),
            BPF_CALL if insn.src() == BPF_PSEUDO_CALL => {
                self.enter(at + 1);
                Ok(target(insn.imm.into()))
            }
            BPF_CALL if insn.src() == BPF_PSEUDO_KFUNC_CALL => {
                self.regs[0] = self.kfunc(insn.imm as u32)?;
                Ok(Some(at + 1))
            }
            BPF_JCOND => Ok(target(match self.stream.below(4) {
                0 => insn.off.into(),
                _ => 0,
            })),
            BPF_CALL => Ok(self.helper(insn.imm as u32)?.then_some(at + 1)),
            BPF_EXIT => {
                let Some(frame) = self.frames.pop() else {
                    return Err("no frame".to_owned());
                };
                self.drop_objects(frame.stack)?;
                self.regions[frame.stack].alive = false;
                self.regs[6..10].copy_from_slice(&frame.saved);
                match self.frames.last() {
                    Some(caller) => {
                        self.regs[10] = address(caller.stack) + u64::from(MAX_BPF_STACK);
                        Ok(Some(frame.back))
                    }
                    None if self.records.is_empty() => Ok(None),
                    None => Err("a record is kept".to_owned()),
                }
            }
            op => {
                let dst = self.regs[usize::from(insn.dst())];
                let taken = if wide {
                    holds(op, dst, src, dst as i64, src as i64)
                } else {
                    let (a, b) = (dst as u32, src as u32);
                    holds(op, a.into(), b.into(), (a as i32).into(), (b as i32).into())
                };
                Ok(target(if taken { insn.off.into() } else { 0 }))
            }
        }
    }

    /// False when the program ends here (tail call).
    fn helper(&mut self, id: u32) -> Done<bool> {
        let row = kernel::find(id, self.pack.spec.prog_type);
        let proto = &row.ok_or(format!("helper {id}"))?.proto;
        let args: Vec<u64> = self.regs[1..6].to_vec();
        let mut map = None;
        let (mut alloc, mut max, mut key) = (0, 0, 0);
        for (n, &arg) in proto.args.iter().enumerate() {
            let info = map.and_then(|id| self.pack.maps.iter().find(|m| m.id == id));
            let (key_size, value_size) = info.map_or((0, 0), |m| (m.key_size, m.value_size));
            match arg {
                Arg::Map => map = Some((args[n] - MAP_HANDLE) as u32),
                Arg::MapKey => key = self.read(args[n], u64::from(key_size.min(8)))?,
                Arg::MapValue => drop(self.bytes(args[n], value_size.into(), false)?),
                Arg::UninitMapValue => self.fill(args[n], value_size.into())?,
                Arg::MemOrNull if args[n] == 0 => {}
                Arg::Mem | Arg::MemOrNull => drop(self.bytes(args[n], args[n + 1], false)?),
                Arg::UninitMem => {
                    max = args[n + 1];
                    self.fill(args[n], max)?;
                }
                Arg::ConstAllocSize => alloc = args[n] as usize,
                Arg::RingbufRecord => self.give_back(args[n])?,
                _ => {}
            }
        }
        if row.is_some_and(|row| row.changes_packet) {
            self.new_packet();
        }
        let null = self.stream.below(3) == 0;
        // Arrays have all their elements, and no others.
        let info = map.and_then(|id| self.pack.maps.iter().find(|m| m.id == id));
        let array = info.filter(|m| m.map_type == BPF_MAP_TYPE_ARRAY);
        let null = array.map_or(null, |m| key >= u64::from(m.max_entries));
        let slice = self.dynptr_helper(id, &args)?;
        let result = match proto.ret {
            Ret::MapValueOrNull if null => 0,
            Ret::MapValueOrNull => {
                let region = self.value(map.unwrap_or(0), key);
                address(region)
            }
            Ret::SocketOrNull | Ret::SockCommonOrNull | Ret::TcpSockOrNull => self.socket(),
            Ret::DynPtrMemOrNull => slice.unwrap_or(0),
            // No ring has room for more than it holds.
            Ret::RingbufRecordOrNull if null || alloc > 4096 => 0,
            Ret::RingbufRecordOrNull => {
                let record = self.region(alloc, true);
                self.records.push(record);
                address(record)
            }
            _ if id == BPF_FUNC_TAIL_CALL && null => {
                return if self.records.is_empty() {
                    Ok(false)
                } else {
                    Err("a record is kept over a tail call".to_owned())
                };
            }
            _ if id == BPF_FUNC_PROBE_READ_USER_STR || id == BPF_FUNC_PROBE_READ_KERNEL_STR => {
                self.stream.pick(&[max, max.min(1), max / 2, -14i64 as u64])
            }
            _ => self.stream.pick(&[0, 1, self.stream.next(), -14i64 as u64]),
        };
        for n in 1..6 {
            self.regs[n] = self.stream.next();
        }
        self.regs[0] = result;
        Ok(true)
    }

    fn fill(&mut self, at: u64, size: u64) -> Done {
        let n = self.stream.next() as u8;
        self.bytes(at, size, true)?.fill(n);
        Ok(())
    }

    fn give_back(&mut self, at: u64) -> Done {
        let place = self.records.iter().position(|&r| address(r) == at);
        let place = place.ok_or(format!("{at:#x} is no record"))?;
        let region = self.records.remove(place);
        self.regions[region].alive = false;
        Ok(())
    }
}

fn holds(op: u8, a: u64, b: u64, sa: i64, sb: i64) -> bool {
    match op {
        BPF_JEQ => a == b,
        BPF_JNE => a != b,
        BPF_JGT => a > b,
        BPF_JGE => a >= b,
        BPF_JLT => a < b,
        BPF_JLE => a <= b,
        BPF_JSGT => sa > sb,
        BPF_JSGE => sa >= sb,
        BPF_JSLT => sa < sb,
        BPF_JSLE => sa <= sb,
        _ => a & b != 0,
    }
}

fn alu(insn: Insn, dst: u64, src: u64) -> u64 {
    let wide = insn.class() == BPF_ALU64;
    let op = insn.code & 0xf0;
    let signed = insn.off == 1;
    if op == BPF_END {
        let spare = 64 - insn.imm as u32;
        let low = (dst << spare) >> spare;
        let swap = wide || insn.code & BPF_X != 0;
        return if swap { low.swap_bytes() >> spare } else { low };
    }
    if op == BPF_MOV && insn.off != 0 {
        let spare = 64 - insn.off as u32;
        let n = ((src << spare) as i64 >> spare) as u64;
        return if wide { n } else { u64::from(n as u32) };
    }
    if wide {
        let (sd, ss) = (dst as i64, src as i64);
        return match op {
            BPF_ADD => dst.wrapping_add(src),
            BPF_SUB => dst.wrapping_sub(src),
            BPF_MUL => dst.wrapping_mul(src),
            BPF_DIV if src == 0 => 0,
            BPF_DIV if signed => sd.wrapping_div(ss) as u64,
            BPF_DIV => dst / src,
            BPF_MOD if src == 0 => dst,
            BPF_MOD if signed => sd.wrapping_rem(ss) as u64,
            BPF_MOD => dst % src,
            BPF_OR => dst | src,
            BPF_AND => dst & src,
            BPF_XOR => dst ^ src,
            BPF_LSH => dst << (src & 63),
            BPF_RSH => dst >> (src & 63),
            BPF_ARSH => (sd >> (src & 63)) as u64,
            BPF_NEG => dst.wrapping_neg(),
            _ => src,
        };
    }
    let (dst, src) = (dst as u32, src as u32);
    let (sd, ss) = (dst as i32, src as i32);
    u64::from(match op {
        BPF_ADD => dst.wrapping_add(src),
        BPF_SUB => dst.wrapping_sub(src),
        BPF_MUL => dst.wrapping_mul(src),
        BPF_DIV if src == 0 => 0,
        BPF_DIV if signed => sd.wrapping_div(ss) as u32,
        BPF_DIV => dst / src,
        BPF_MOD if src == 0 => dst,
        BPF_MOD if signed => sd.wrapping_rem(ss) as u32,
        BPF_MOD => dst % src,
        BPF_OR => dst | src,
        BPF_AND => dst & src,
        BPF_XOR => dst ^ src,
        BPF_LSH => dst << (src & 31),
        BPF_RSH => dst >> (src & 31),
        BPF_ARSH => (sd >> (src & 31)) as u32,
        BPF_NEG => dst.wrapping_neg(),
        _ => src,
    })
}
