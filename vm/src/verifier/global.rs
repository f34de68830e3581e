//! Global functions: each is verified once, with arguments of which only the
//! prototype is known; who calls one is checked against the prototype and
//! learns nothing of it (kernel: `do_check_subprogs`, `btf_check_func_arg_match`).
//! It knows no BTF: prototypes come with the program.

use uapi::Errno;

use super::Fail;
use super::mem::Access;
use super::state::{Kind, Reg, State};
use super::walk::Walk;
use crate::program::{FuncArg, FuncRet, FunctionInfo, Linkage};

/// Registers that carry arguments.
const MAX_ARGS: usize = 5;

impl<'a> Walk<'a> {
    /// The prototype of a subprogram that is verified by it.
    pub(super) fn global(&self, subprogram: usize) -> Option<&'a FunctionInfo> {
        let function = self.spec.info.functions.get(subprogram);
        function.filter(|function| function.linkage == Linkage::Global)
    }

    /// Walks the program, then every global function that was called on the way.
    pub(super) fn run_all(&mut self) -> Result<(), Fail> {
        self.run()?;
        self.trace.forget_paths();
        while let Some(subprogram) = self.unproven.pop_first() {
            self.proven.insert(subprogram);
            let Some(function) = self.global(subprogram) else {
                continue;
            };
            self.at = self.cfg.subprograms[subprogram] as usize;
            self.trace.restart();
            self.trace.say(&format!(
                "Validating {}() func#{subprogram}...\n",
                function.name
            ));
            self.state = self.state_by_prototype(subprogram, function)?;
            self.parent = None;
            self.run()?;
            self.trace.forget_paths();
            self.trace.say(&format!(
                "Func#{subprogram} ('{}') is safe for any args that match its prototype\n",
                function.name
            ));
        }
        Ok(())
    }

    /// Only `bpf_throw` ends in the exception callback.
    pub(super) fn check_exception_callback(&self, subprogram: usize) -> Result<(), Fail> {
        let function = self.spec.info.functions.get(subprogram);
        if function.is_none_or(|function| !function.exception_cb) {
            return Ok(());
        }
        let text = format!("insn {} cannot call exception cb directly", self.at);
        Err(Fail::einval(text))
    }

    fn state_by_prototype(
        &mut self,
        subprogram: usize,
        function: &FunctionInfo,
    ) -> Result<State, Fail> {
        check_prototype(function)?;
        let mut state = State::entry_of(subprogram);
        for (number, arg) in function.args.iter().enumerate() {
            let reg = match *arg {
                FuncArg::Scalar => Reg::UNKNOWN,
                FuncArg::Ctx => Reg::pointer(Kind::Ctx, 0, 0),
                FuncArg::Mem { size, or_null } => {
                    let kind = Kind::Mem {
                        size,
                        read_only: false,
                        or_null,
                    };
                    Reg::pointer(kind, 0, if or_null { self.fresh_id() } else { 0 })
                }
                FuncArg::DynPtr => Reg::pointer(Kind::ConstDynPtr, 0, self.fresh_id()),
                FuncArg::Unsupported { .. } => Reg::NOT_INIT,
            };
            state.set(number as u8 + 1, reg);
        }
        Ok(state)
    }

    /// A call of a global function: the arguments fit its prototype; what
    /// comes back is any number.
    pub(super) fn call_global(
        &mut self,
        subprogram: usize,
        function: &FunctionInfo,
    ) -> Result<usize, Fail> {
        if self.state.lock.is_some() {
            let text = "global function calls are not allowed while holding a lock,\nuse static function instead";
            return Err(Fail::einval(text));
        }
        if let Err(mut fail) = self.check_arguments(function) {
            fail.text.push_str(&format!(
                "\nCaller passes invalid args into func#{subprogram} ('{}')",
                function.name
            ));
            return Err(fail);
        }
        self.trace.say(&format!(
            "Func#{subprogram} ('{}') is global and assumed valid.\n",
            function.name
        ));
        if !self.proven.contains(&subprogram) {
            self.unproven.insert(subprogram);
        }
        if self.changes_packet(subprogram) {
            self.clear_packets();
        }
        let regs = &mut self.state.frame().regs;
        regs[..6].fill(Reg::NOT_INIT);
        regs[0] = Reg::UNKNOWN;
        Ok(self.at + 1)
    }

    fn check_arguments(&mut self, function: &FunctionInfo) -> Result<(), Fail> {
        check_prototype(function)?;
        for (index, arg) in function.args.iter().enumerate() {
            self.check_global_argument(index, arg)?;
        }
        Ok(())
    }

    fn check_global_argument(&mut self, index: usize, arg: &FuncArg) -> Result<(), Fail> {
        let number = index as u8 + 1;
        let reg = *self.state.reg(number);
        match *arg {
            FuncArg::Scalar if reg.kind == Kind::Scalar => Ok(()),
            FuncArg::Scalar => Err(Fail::einval(format!("R{number} is not a scalar"))),
            FuncArg::Ctx => match reg.kind {
                Kind::Ctx if reg.val.as_const() == Some(0) => Ok(()),
                Kind::Ctx => Err(Fail::eacces(format!(
                    "dereference of modified ctx ptr R{number} disallowed"
                ))),
                _ => Err(Fail::einval(format!("arg#{index} expects pointer to ctx"))),
            },
            FuncArg::Mem { size, or_null } => {
                if reg.is_null() {
                    self.need_precise(reg.from);
                } else {
                    self.lend(number, &reg, size)?;
                }
                if !or_null && (reg.is_null() || reg.kind.or_null()) {
                    let text = format!("arg#{index} is expected to be non-NULL");
                    return Err(Fail::einval(text).hint("compare the pointer with NULL first"));
                }
                Ok(())
            }
            FuncArg::DynPtr => self.dynptr_argument(number, None).map(|_| ()),
            FuncArg::Unsupported { errno, ref text } => Err(Fail::new(errno, text)),
        }
    }

    /// Memory that the callee may read and write if the pointer is not NULL.
    fn lend(&mut self, number: u8, reg: &Reg, size: u32) -> Result<(), Fail> {
        let reg = Reg {
            kind: reg.kind.not_null(),
            ..*reg
        };
        let fits = self.helper_memory(number, &reg, size, Access::Read);
        let fits = fits.and_then(|()| self.helper_memory(number, &reg, size, Access::Write));
        fits.map_err(|fail| Fail {
            errno: Errno::EINVAL,
            ..fail
        })
    }

    /// What a global function returns is a number.
    pub(super) fn check_global_result(&self, result: &Reg) -> Result<(), Fail> {
        if result.kind == Kind::Scalar {
            return Ok(());
        }
        Err(Fail::einval(format!(
            "At subprogram exit the register R0 is not a scalar value ({})",
            result.kind.name()
        )))
    }
}

/// Whether a prototype says enough to verify a function by it (kernel:
/// `btf_prepare_func_args`).
fn check_prototype(function: &FunctionInfo) -> Result<(), Fail> {
    let name = &function.name;
    if function.args.len() > MAX_ARGS {
        return Err(Fail::einval(format!(
            "Global function {name}() with {} > {MAX_ARGS} args. Buggy compiler.",
            function.args.len()
        )));
    }
    if function.ret != FuncRet::Scalar {
        let text =
            format!("Global function {name}() doesn't return scalar. Only those are supported.");
        return Err(Fail::einval(text).hint("make the function static, or let it return int"));
    }
    let refused = function.args.iter().find_map(|arg| match arg {
        FuncArg::Unsupported { errno, text } => Some(Fail::new(*errno, text)),
        _ => None,
    });
    refused.map_or(Ok(()), Err)
}
