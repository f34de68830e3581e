//! Output to ring buffers, and input from those of the other direction.

use uapi::Errno;

use super::dynptr::DynPtr;
use super::row::{
    AllocLen, Any, Bytes, Callback, CallbackCtx, LenOrZero, Record, RecordOrNull, helper,
};
use crate::maps::Map;
use crate::run::RunState;

pub(super) fn commit(run: &RunState, record: Record, flags: u64, discard: bool) {
    if let Some(ring) = run.ring_of(record.0)
        && ring.commit(record.0, flags, discard)
    {
        run.env().doorbell.ring();
    }
}

helper! {
    /// bpf_ringbuf_output: a record with a copy of `data`. Errors: EINVAL
    /// unknown flags or no ring buffer, EAGAIN full.
    fn ringbuf_output(run, map: &'static Map, data: Bytes, len: LenOrZero, flags: Any) -> i64 = BPF_FUNC_RINGBUF_OUTPUT {
        let Some(ring) = map.ring() else {
            return Errno::EINVAL.ret();
        };
        // SAFETY: the verifier proved `data`.
        match unsafe { ring.output(data.0, len.0 as u64, flags.0) } {
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

helper! {
    /// bpf_ringbuf_reserve: room for a record of `size` bytes, or NULL when
    /// full or when flags are not 0.
    fn ringbuf_reserve(run, map: &'static Map, size: AllocLen, flags: Any) -> RecordOrNull = BPF_FUNC_RINGBUF_RESERVE {
        match map.ring() {
            Some(ring) if flags.0 == 0 && run.uses_ring(ring) => RecordOrNull(ring.reserve(size.0)),
            _ => RecordOrNull(core::ptr::null_mut()),
        }
    }
}

helper! {
    /// bpf_ringbuf_submit: hands a reserved record to the reader.
    fn ringbuf_submit(run, record: Record, flags: Any) -> () = BPF_FUNC_RINGBUF_SUBMIT {
        commit(run, record, flags.0, false);
    }
}

helper! {
    /// bpf_ringbuf_discard: gives a reserved record up.
    fn ringbuf_discard(run, record: Record, flags: Any) -> () = BPF_FUNC_RINGBUF_DISCARD {
        commit(run, record, flags.0, true);
    }
}

helper! {
    /// bpf_ringbuf_query: bytes unread (0), size (1), consumer (2) or
    /// producer position (3); 0 for other flags.
    fn ringbuf_query(run, map: &'static Map, flags: Any) -> u64 = BPF_FUNC_RINGBUF_QUERY {
        map.ring().map_or(0, |ring| ring.query(flags.0))
    }
}

helper! {
    /// bpf_user_ringbuf_drain: calls back with a dynptr of each sample that the
    /// tool has written until the callback returns 1; returns how many. Errors:
    /// EINVAL for flags or a malformed sample, E2BIG for one that is too large,
    /// EBUSY while another program drains.
    fn user_ringbuf_drain(run, map: &'static Map, callback: Callback, ctx: CallbackCtx, flags: Any) -> i64 = BPF_FUNC_USER_RINGBUF_DRAIN {
        let Some(ring) = map.user_ring() else {
            return Errno::EINVAL.ret();
        };
        let id = core::ptr::from_ref(run) as u64;
        let drained = ring.drain(id, flags.0, &mut |sample, len| {
            let dynptr = DynPtr::local(sample, len);
            let args = [&raw const dynptr as u64, ctx.0, 0, 0];
            // SAFETY: a dynptr that lives until the callback returns, and the
            // program's own address.
            unsafe { callback.call(args, run) }
        });
        if drained.wakes {
            run.env().doorbell.ring();
        }
        drained.ret
    }
}
