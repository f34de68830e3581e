//! Helpers of tracing programs only (kernel: kernel/trace/bpf_trace.c).

use super::super::Arg::*;
use super::{KernelHelper, ProgTypes, rows};

/// Helpers of all tracing programs.
pub(super) const ROWS: &[KernelHelper] = rows! { ProgTypes::TRACING;
    4 probe_read(UninitMem, SizeOrZero, Anything) -> Scalar [gpl];
    45 probe_read_str(UninitMem, SizeOrZero, Anything) -> Scalar [gpl];
    67 get_stack(Ctx, UninitMem, SizeOrZero, Anything) -> Scalar [gpl];
    173 get_func_ip(Ctx) -> Scalar [gpl];
    174 get_attach_cookie(Ctx) -> Scalar;
};

/// What is different for perf events.
pub(super) const PROBE_ROWS: &[KernelHelper] = rows! { ProgTypes::PROBES;
    27 get_stackid(Ctx, Map, Anything) -> Scalar [gpl];
};

/// Helpers of programs that a perf event runs.
pub(super) const PERF_EVENT_ROWS: &[KernelHelper] = rows! { ProgTypes::PERF_EVENT;
    27 get_stackid(Ctx, Map, Anything) -> Scalar;
    56 perf_prog_read_value(Ctx, UninitMem, Size) -> Scalar [gpl];
    119 read_branch_records(Ctx, UninitMemOrNull, SizeOrZero, Anything) -> Scalar [gpl];
};
