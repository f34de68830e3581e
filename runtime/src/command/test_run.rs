//! `BPF_PROG_TEST_RUN`: runs a program once, here and now. It knows no hook.

use std::sync::Arc;

use uapi::Errno;
use uapi::prog::BPF_PROG_TYPE_RAW_TRACEPOINT;

use super::{Bpf, ProgObject};
use crate::program::LoadedProgram;

/// Words of ctx that a raw tracepoint program may read.
pub const RAW_TRACEPOINT_ARGS: usize = 12;

impl Bpf {
    /// `BPF_PROG_TEST_RUN` of a raw tracepoint program on `ctx`, at most
    /// [`RAW_TRACEPOINT_ARGS`] words. Returns its result.
    ///
    /// # Errors
    /// ENOTSUPP for other program types, EINVAL for a ctx that is too large
    /// or smaller than what the program reads, ENOMEM when the program cannot
    /// be compiled, EBUSY when all vCPUs stay taken.
    pub fn prog_test_run(&self, prog: &Arc<ProgObject>, ctx: &[u8]) -> Result<u32, Errno> {
        if prog.spec().prog_type != BPF_PROG_TYPE_RAW_TRACEPOINT {
            return Err(Errno::ENOTSUPP);
        }
        let mut args = [0u64; RAW_TRACEPOINT_ARGS];
        if ctx.len() > size_of_val(&args) {
            return Err(Errno::EINVAL);
        }
        let loaded =
            LoadedProgram::load(self.session()?, prog.id()).map_err(|e| Errno::from(&e))?;
        let read = 64 - loaded.facts().ctx_words_read.leading_zeros() as usize;
        if ctx.len() < read * 8 {
            return Err(Errno::EINVAL);
        }
        let (words, _) = ctx.as_chunks::<8>();
        for (arg, word) in args.iter_mut().zip(words) {
            *arg = u64::from_ne_bytes(*word);
        }
        let result = self.home.here()?.run(&loaded, &mut args, 0)?;
        Ok(result as u32)
    }
}
