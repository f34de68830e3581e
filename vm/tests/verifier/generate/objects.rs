//! Statements with iterators and dynptrs, on stack that other statements
//! rarely touch.

use uapi::helper::*;
use uapi::insn::*;
use vm::helper::kfunc;

use super::{Builder, DATA, RING};

/// Where they may be, from the frame pointer: some overlap.
const PLACES: [i16; 6] = [-64, -72, -80, -88, -96, -112];

impl Builder<'_> {
    fn kfunc(&mut self, name: &str) {
        let number = kfunc::by_name(name).map_or(0, |row| row.number);
        self.push(
            BPF_JMP | BPF_CALL,
            0,
            BPF_PSEUDO_KFUNC_CALL,
            0,
            number as i32,
        );
    }

    fn set(&mut self, register: u8, n: i32) {
        self.push(BPF_ALU64 | BPF_MOV, register, 0, 0, n);
    }

    /// `register` = the place, now and then another.
    fn at(&mut self, register: u8, place: i16) {
        let wrong = self.one_in(40);
        let place = if wrong {
            self.stream.pick(&[-64, -68, -72, -8, 0, -520])
        } else {
            place
        };
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, register, 10, 0, 0);
        self.push(BPF_ALU64 | BPF_ADD, register, 0, 0, place.into());
    }

    /// A statement between, that may do harm.
    fn between(&mut self, depth: u32) {
        if depth < 2 && self.one_in(2) {
            self.set(0, 0);
            self.statement(depth + 2);
        }
    }

    pub(super) fn iterator(&mut self, a: u8, depth: u32) {
        let a = if a == 0 { 7 } else { a };
        let place = self.stream.pick(&PLACES);
        let bits = self.one_in(4);
        let name = if bits { "bits" } else { "num" };
        self.at(1, place);
        self.set(2, 0);
        self.set(3, 1);
        if !self.one_in(40) {
            self.kfunc(&format!("bpf_iter_{name}_new"));
        }
        let top = self.insns.len();
        self.at(1, place);
        self.kfunc(&format!("bpf_iter_{name}_next"));
        let end = self.insns.len();
        if !self.one_in(40) {
            self.push(BPF_JMP | BPF_JEQ, 0, 0, 0, 0);
        }
        let size = self
            .stream
            .pick(&[BPF_W, BPF_H, BPF_B, BPF_W, BPF_H, BPF_B, BPF_W, BPF_DW]);
        self.push(BPF_LDX | BPF_MEM | size, a, 0, 0, 0);
        if self.one_in(40) {
            self.push(BPF_STX | BPF_MEM | BPF_W, 0, a, 0, 0);
        }
        self.between(depth);
        if self.one_in(2) {
            let back = top as i64 - self.insns.len() as i64 - 1;
            self.push(BPF_JMP | BPF_JA, 0, 0, back as i16, 0);
        }
        if self.insns.get(end).is_some_and(|i| i.class() == BPF_JMP) {
            self.land(end);
        }
        self.at(1, place);
        if !self.one_in(40) {
            self.kfunc(&format!("bpf_iter_{name}_destroy"));
        }
        self.set(0, 3);
    }

    pub(super) fn dynptr(&mut self, a: u8, depth: u32) {
        let place = self.stream.pick(&PLACES);
        let record = self.one_in(2);
        if record {
            self.ld_map(1, BPF_PSEUDO_MAP_FD, RING, 0);
            self.push(BPF_ALU64 | BPF_MOV | BPF_X, 2, a, 0, 0);
            self.set(3, 0);
            self.at(4, place);
            self.call(BPF_FUNC_RINGBUF_RESERVE_DYNPTR);
        } else {
            self.ld_map(1, BPF_PSEUDO_MAP_VALUE, DATA, 8);
            let size = self.stream.pick(&[56, 57, 8, 0]);
            self.set(2, size);
            self.set(3, 0);
            self.at(4, place);
            self.call(BPF_FUNC_DYNPTR_FROM_MEM);
        }
        let other = self.stream.pick(&PLACES);
        for _ in 0..self.stream.below(4) {
            self.use_dynptr(a, if self.one_in(15) { other } else { place }, other);
        }
        self.between(depth);
        if record && !self.one_in(30) {
            self.end_dynptr(if self.one_in(30) { other } else { place });
        }
        if self.one_in(30) {
            // Memory that belongs to it may be gone.
            self.access(8, 7, 16);
        }
        self.set(0, 4);
        self.set(8, 1);
    }

    fn end_dynptr(&mut self, place: i16) {
        self.at(1, place);
        self.set(2, 0);
        let end = [
            BPF_FUNC_RINGBUF_SUBMIT_DYNPTR,
            BPF_FUNC_RINGBUF_DISCARD_DYNPTR,
        ];
        let end = self.stream.pick(&end);
        self.call(end);
    }

    fn use_dynptr(&mut self, a: u8, place: i16, other: i16) {
        match self.stream.below(7) {
            0 | 1 => {
                self.at(1, place);
                self.push(BPF_ALU64 | BPF_MOV | BPF_X, 2, a, 0, 0);
                if self.one_in(2) {
                    let size = self.stream.pick(&[16, 16, 16, 16, 8, 0]);
                    self.set(3, size);
                    self.call(BPF_FUNC_DYNPTR_DATA);
                } else {
                    self.set(3, 0);
                    self.set(4, 16);
                    self.kfunc("bpf_dynptr_slice");
                }
                // r8 is an address from here on, or was one.
                self.push(BPF_ALU64 | BPF_MOV | BPF_X, 8, 0, 0, 0);
                let at = self.insns.len();
                if !self.one_in(20) {
                    self.push(BPF_JMP | BPF_JEQ, 8, 0, 0, 0);
                }
                self.push(BPF_LDX | BPF_MEM | BPF_DW, 9, 8, 0, 0);
                if self.one_in(4) {
                    self.between(1);
                    self.push(BPF_LDX | BPF_MEM | BPF_DW, 9, 8, 8, 0);
                }
                if self.insns[at].class() == BPF_JMP {
                    self.land(at);
                }
                self.set(0, 0);
            }
            2 => {
                self.at(1, -32);
                self.set(2, 16);
                self.at(3, place);
                self.set(4, 0);
                self.set(5, 0);
                self.call(BPF_FUNC_DYNPTR_READ);
            }
            3 => {
                self.at(1, place);
                self.set(2, 0);
                self.at(3, -32);
                self.set(4, 16);
                self.set(5, 0);
                self.call(BPF_FUNC_DYNPTR_WRITE);
            }
            4 => {
                self.at(1, place);
                self.at(2, other);
                self.kfunc("bpf_dynptr_clone");
            }
            5 => {
                self.at(1, place);
                self.set(2, 1);
                self.push(BPF_ALU64 | BPF_MOV | BPF_X, 3, a, 0, 0);
                self.kfunc("bpf_dynptr_adjust");
            }
            _ if self.one_in(8) => {
                // Over a part of it.
                self.push(BPF_ST | BPF_MEM | BPF_DW, 10, 0, place, 0);
            }
            _ => {
                self.at(1, place);
                self.kfunc("bpf_dynptr_size");
            }
        }
    }
}
