//! Which kernel function a call means. A loader writes the function's id in
//! the BTF of the running kernel; programs here carry the numbers of
//! [`vm::helper::kfunc`]. It knows no function's code.

use std::collections::HashMap;

use object::btf::Shape;
use uapi::Insn;
use uapi::insn::{
    BPF_CALL, BPF_DW, BPF_IMM, BPF_JMP, BPF_LD, BPF_PSEUDO_BTF_ID, BPF_PSEUDO_KFUNC_CALL,
};
use vm::helper::kfunc;

use crate::kernel_types::KernelBtf;

/// The names of the running kernel's functions by BTF id. Empty where the
/// kernel does not tell them: then no loader can have found an id either.
#[derive(Debug, Default)]
pub(super) struct KernelFunctions(HashMap<u32, Box<str>>);

impl KernelFunctions {
    pub(super) fn read() -> KernelFunctions {
        let Some(btf) = KernelBtf::read() else {
            return KernelFunctions::default();
        };
        let btf = btf.types();
        let is_function = |id: &u32| {
            let shape = btf.get(*id).map(|ty| &ty.shape);
            matches!(shape, Some(Shape::Func { .. }))
        };
        let ids = (1..=btf.count()).filter(is_function);
        KernelFunctions(ids.map(|id| (id, btf.name(id).into())).collect())
    }

    fn name(&self, id: u32) -> Option<&str> {
        self.0.get(&id).map(|name| &**name)
    }
}

fn is_kfunc_call(insn: Insn) -> bool {
    insn.code == BPF_JMP | BPF_CALL && insn.src() == BPF_PSEUDO_KFUNC_CALL
}

/// `ld_imm64` of something of the kernel: its BTF id, and in the second half
/// the fd of a module's BTF, or 0.
fn is_kernel_address(insn: Insn) -> bool {
    insn.code == BPF_LD | BPF_IMM | BPF_DW && insn.src() == BPF_PSEUDO_BTF_ID
}

/// Whether any instruction names a kernel function.
pub(super) fn any(insns: &[Insn]) -> bool {
    let names = |&insn: &Insn| is_kfunc_call(insn) || is_kernel_address(insn);
    insns.iter().any(names)
}

/// Programs take a kernel function's address to ask whether there is one
/// (`bpf_ksym_exists`): 1 for one that they can call here, 0 for others.
/// Addresses of variables stay for the verifier to refuse.
pub(super) fn settle_addresses(insns: &mut [Insn], functions: &KernelFunctions) {
    for at in 1..insns.len() {
        let (first, second) = (insns[at - 1], insns[at]);
        if !is_kernel_address(first) || second.imm != 0 {
            continue;
        }
        if let Some(name) = functions.name(first.imm as u32) {
            let exists = i32::from(kfunc::by_name(name).is_some());
            insns[at - 1] = Insn::new(first.code, first.dst(), 0, first.off, exists);
        }
    }
}

/// Replaces BTF ids by numbers. Returns the names that have none, with their
/// instructions, whose number is [`kfunc::UNKNOWN`] now. An id of 0 stays: the
/// loader found no such function.
pub(super) fn number(insns: &mut [Insn], functions: &KernelFunctions) -> Vec<(u32, String)> {
    let mut unknown = Vec::new();
    for (at, insn) in insns.iter_mut().enumerate() {
        if !is_kfunc_call(*insn) || (insn.imm == 0 && insn.off == 0) {
            continue;
        }
        // Others are in the BTF of a module, which `off` names.
        let name = match insn.off {
            0 => functions.name(insn.imm as u32).unwrap_or("unknown"),
            _ => "of a module",
        };
        let row = kfunc::by_name(name);
        insn.imm = row.map_or(kfunc::UNKNOWN, |row| row.number) as i32;
        if row.is_none() {
            insn.off = 0;
            unknown.push((at as u32, name.to_owned()));
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(off: i16, imm: i32) -> Insn {
        Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, off, imm)
    }

    #[test]
    fn ids_become_numbers() {
        let names = [(70, "bpf_iter_num_next"), (71, "bpf_throw")];
        let names = names.map(|(id, name)| (id, name.into()));
        let functions = KernelFunctions(names.into());
        let helper = Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 70);
        let mut insns = [
            helper,
            call(0, 70),
            call(0, 71),
            call(0, 0),
            call(0, 99),
            call(1, 70),
        ];
        let unknown = number(&mut insns, &functions);
        let none = call(0, kfunc::UNKNOWN as i32);
        let next = kfunc::by_name("bpf_iter_num_next").map_or(0, |row| row.number);
        let expected = [helper, call(0, next as i32), none, call(0, 0), none, none];
        assert_eq!(insns, expected);
        let names = [(2, "bpf_throw"), (4, "unknown"), (5, "of a module")];
        assert_eq!(unknown, names.map(|(at, name)| (at, name.to_owned())));
    }

    #[test]
    fn addresses_say_whether_a_function_is_here() {
        let names = [(70, "bpf_iter_num_next"), (71, "bpf_throw")];
        let names = names.map(|(id, name)| (id, name.into()));
        let functions = KernelFunctions(names.into());
        let wide = BPF_LD | BPF_IMM | BPF_DW;
        let address = |src, id| Insn::new(wide, 3, src, 0, id);
        let half = |imm| Insn::new(0, 0, 0, 0, imm);
        let btf_id = BPF_PSEUDO_BTF_ID;
        let mut insns = [
            address(btf_id, 70),
            half(0),
            address(btf_id, 71),
            half(0),
            // A variable, and a function of a module.
            address(btf_id, 5),
            half(0),
            address(btf_id, 70),
            half(9),
        ];
        assert!(any(&insns));
        settle_addresses(&mut insns, &functions);
        let settled = [address(0, 1), half(0), address(0, 0), half(0)];
        assert_eq!(insns[..4], settled);
        let left = [address(btf_id, 5), half(0), address(btf_id, 70), half(9)];
        assert_eq!(insns[4..], left);
    }

    #[test]
    fn the_running_kernel_tells_its_functions() {
        let found = KernelFunctions::read();
        if found.0.is_empty() {
            assert!(KernelBtf::read().is_none());
            return;
        }
        for name in ["bpf_iter_num_new", "bpf_dynptr_clone", "bpf_throw"] {
            assert!(found.0.values().any(|n| **n == *name), "{name}");
        }
    }
}
