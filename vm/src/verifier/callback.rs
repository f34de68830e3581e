//! Helpers that call a function of the program back: the function is walked
//! with what the helper passes, for one more turn and for none. It knows no
//! helper's code; when the turns may stop is `progress`'s to say.

use uapi::Errno;
use uapi::helper::{BPF_FUNC_FOR_EACH_MAP_ELEM, BPF_FUNC_LOOP, BPF_FUNC_USER_RINGBUF_DRAIN};
use uapi::insn::MAX_CALL_FRAMES;

use super::Fail;
use super::argument::Call;
use super::state::{Frame, Kind, Ref, Reg};
use super::walk::Walk;
use crate::program::Linkage;

impl Walk<'_> {
    /// `ld_imm64` of a function of the program.
    pub(super) fn function_address(&self, imm: i32) -> Result<Reg, Fail> {
        let target = (self.at as i64 + 1 + i64::from(imm)) as usize;
        let subprogram = self.cfg.subprogram_at(target);
        let subprogram = subprogram.ok_or_else(|| Fail::einval("call to invalid destination"))?;
        self.check_exception_callback(subprogram)?;
        let Some(function) = self.spec.info.functions.get(subprogram) else {
            return Err(Fail::einval("missing btf func_info")
                .hint("callbacks need BTF: compile with -g and load with func_info"));
        };
        if function.linkage != Linkage::Static {
            let text = "callback function not static";
            return Err(Fail::einval(text).hint("declare the callback static"));
        }
        let subprogram = subprogram as u32;
        Ok(Reg::pointer(Kind::Func { subprogram }, 0, 0))
    }

    /// The helper in hand may call its callback once more: a path into it
    /// waits, the one in hand goes on after the last turn.
    pub(super) fn call_back(&mut self, helper: u32, call: &Call) -> Result<(), Fail> {
        let Some(subprogram) = call.callback else {
            return Ok(());
        };
        let caller = self.state.frame().subprogram;
        self.calls.insert((caller, subprogram));
        self.callbacks.insert(subprogram);
        if self.may_call_back(helper)? {
            if !self.state.can_call() {
                let text = format!("the call stack of {MAX_CALL_FRAMES} frames is too deep");
                return Err(Fail::new(Errno::E2BIG, text));
            }
            let mut inside = self.state.clone();
            let depth = inside.frames.len() as u8;
            let mut frame = Frame::new(depth, self.at, subprogram);
            frame.callback = Some(inside.refs.len());
            frame.budget.id = self.fresh_id();
            self.pass_arguments(helper, call, &mut frame)?;
            inside.frames.push(frame);
            let start = self.cfg.subprograms[subprogram] as usize;
            self.push(start, inside)?;
        }
        self.state.end_calls();
        Ok(())
    }

    /// Whether the helper's arguments allow one more turn than it took.
    fn may_call_back(&mut self, helper: u32) -> Result<bool, Fail> {
        if helper != BPF_FUNC_LOOP {
            return Ok(true);
        }
        let limit = self.read(1)?;
        // A pointer is as good as any number.
        let most = match limit.kind {
            Kind::Scalar => limit.val.umax,
            _ => u64::MAX,
        };
        let turns = self.state.frame().calls.map_or(0, |(_, calls)| calls.turns);
        self.need_precise(limit.from);
        Ok(u64::from(turns) < most)
    }

    fn pass_arguments(&mut self, helper: u32, call: &Call, frame: &mut Frame) -> Result<(), Fail> {
        let context = self.read(3)?;
        match (helper, call.map) {
            (BPF_FUNC_LOOP, _) => {
                frame.regs[1] = Reg::UNKNOWN;
                frame.regs[2] = context;
            }
            (BPF_FUNC_FOR_EACH_MAP_ELEM, Some(map)) => {
                let value = Kind::MapValue {
                    map,
                    or_null: false,
                };
                frame.regs[1] = self.read(1)?;
                frame.regs[2] = Reg::pointer(Kind::MapKey { map }, 0, 0);
                frame.regs[3] = Reg::pointer(value, 0, 0);
                frame.regs[4] = context;
            }
            (BPF_FUNC_USER_RINGBUF_DRAIN, _) => {
                frame.regs[1] = Reg::pointer(Kind::ConstDynPtr, 0, self.fresh_id());
                frame.regs[2] = context;
            }
            _ => {
                let text = format!("callbacks of helper {helper} cannot be verified here");
                return Err(Fail::einval(text));
            }
        }
        Ok(())
    }

    /// A callback returns `result`: back to the helper that called it.
    pub(super) fn return_from_callback(&mut self, result: &Reg) -> Result<usize, Fail> {
        if result.kind != Kind::Scalar {
            return Err(Fail::eacces("R0 not a scalar value"));
        }
        self.need_precise(result.from);
        if result.val.smin < 0 || result.val.smax > 1 {
            let text = format!(
                "At callback return the register R0 has {} should have been in [0, 1]",
                spelled(result)
            );
            return Err(Fail::einval(text).hint("return 0 to go on and 1 to stop"));
        }
        let Some(frame) = self.state.frames.pop() else {
            return Ok(self.at + 1);
        };
        let held = frame.callback.unwrap_or(0);
        if let Some(&Ref { id, insn, .. }) = self.state.refs.get(held) {
            let text = format!(
                "Unreleased reference id={id} alloc_insn={insn}\nBPF_EXIT instruction in callback would lead to reference leak"
            );
            let hint = "give back in the callback what it took";
            return Err(Fail::einval(text).hint(hint));
        }
        self.drop_dynptrs(&frame);
        let at = frame.call_site;
        self.state.turn_calls();
        let mut state = self.state.clone();
        self.widen(at, &mut state);
        self.state = state;
        Ok(at)
    }

    /// No callback, nor what it calls, replaces the program by another: the
    /// helper's frame is still in between.
    pub(super) fn check_callbacks(&self) -> Result<(), Fail> {
        let mut reached = self.callbacks.clone();
        let mut todo: Vec<usize> = reached.iter().copied().collect();
        while let Some(subprogram) = todo.pop() {
            if self.tail_calls[subprogram] {
                let text = "tail_call is not allowed in a callback";
                return Err(Fail::einval(text));
            }
            let calls = self.calls.iter().filter(|call| call.0 == subprogram);
            todo.extend(
                calls
                    .map(|call| call.1)
                    .filter(|&callee| reached.insert(callee)),
            );
        }
        Ok(())
    }
}

/// A number outside the range that a result must have, as the kernel's log
/// has it (`verbose_invalid_scalar`).
fn spelled(result: &Reg) -> String {
    let (smin, smax) = (result.val.smin, result.val.smax);
    let bounds = [
        (smin != i64::MIN).then(|| format!("smin={smin}")),
        (smax != i64::MAX).then(|| format!("smax={smax}")),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    if bounds.is_empty() {
        "unknown scalar value".to_owned()
    } else {
        bounds.join(" ")
    }
}
