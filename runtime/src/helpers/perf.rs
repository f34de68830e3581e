//! Output to perf event arrays.

use uapi::Errno;
use uapi::map::{BPF_F_CURRENT_CPU, BPF_F_INDEX_MASK};

use super::row::{Any, Bytes, Ctx, LenOrZero, helper};
use crate::maps::Map;
use crate::run::NO_VCPU;

helper! {
    /// bpf_perf_event_output: a record with `data` for the reader of this
    /// CPU's perf event. Errors: EINVAL unknown flags, E2BIG index outside,
    /// ENOENT no event there, EOPNOTSUPP another CPU's event, ENOSPC full.
    gpl fn perf_event_output(run, _ctx: Ctx, map: &'static Map, flags: Any, data: Bytes, len: LenOrZero) -> i64 = BPF_FUNC_PERF_EVENT_OUTPUT {
        // kernel/trace/bpf_trace.c, ____bpf_perf_event_output.
        if flags.0 & !BPF_F_INDEX_MASK != 0 {
            return Errno::EINVAL.ret();
        }
        // Whoever runs a program that calls this helper claims a vCPU: it is
        // what makes us the only writer of the ring.
        if run.vcpu == NO_VCPU {
            return Errno::EOPNOTSUPP.ret();
        }
        let index = match flags.0 & BPF_F_INDEX_MASK {
            BPF_F_CURRENT_CPU => run.vcpu,
            index => index as u32,
        };
        if index >= map.spec().max_entries {
            return Errno::E2BIG.ret();
        }
        let Some(ring) = map.slot(index).and_then(|id| run.env().perf_ring(id)) else {
            return Errno::ENOENT.ret();
        };
        if index != run.vcpu {
            return Errno::EOPNOTSUPP.ret();
        }
        // SAFETY: the verifier proved `data`; the vCPU claim makes this the
        // only writer.
        match unsafe { ring.output(&[(data.0, len.0)]) } {
            Ok(wake) => {
                if wake {
                    run.env().doorbell.ring();
                }
                0
            }
            Err(errno) => errno.ret(),
        }
    }
}
