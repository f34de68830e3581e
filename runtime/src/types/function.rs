//! Functions by their prototypes (kernel: `check_btf_func_early`,
//! `btf_prepare_func_args`).

use object::btf::{Btf, Modifier, Shape};
use uapi::Errno;
use uapi::prog::*;
use vm::program::{FuncArg, FuncRet, FunctionInfo, Linkage};

use super::{Records, TypeError};

/// Functions in the order of their records.
pub(super) fn functions(
    btf: &Btf,
    prog_type: u32,
    records: &Records,
) -> Result<Vec<FunctionInfo>, TypeError> {
    let mut functions: Vec<FunctionInfo> = Vec::new();
    let mut exception_cb = None;
    for [insn, id] in records.words::<2>("func info")? {
        match functions.last() {
            None if insn != 0 => {
                let text = format!("nonzero insn_off {insn} for the first func info record");
                return Err(TypeError::invalid(text));
            }
            Some(before) if insn <= before.insn => {
                return Err(TypeError::invalid(format!(
                    "same or smaller insn offset ({insn}) than previous func info record ({})",
                    before.insn
                )));
            }
            _ => {}
        }
        let Some(&Shape::Func { proto, global }) = btf.get(id).map(|ty| &ty.shape) else {
            let text = format!("invalid type id {id} in func info");
            return Err(TypeError::invalid(text));
        };
        let Some(Shape::FuncProto { ret, params }) = btf.get(proto).map(|ty| &ty.shape) else {
            return Err(TypeError::invalid(""));
        };
        if functions.is_empty() {
            let tags = btf.tags(id, -1);
            exception_cb = tags
                .filter_map(|tag| tag.strip_prefix("exception_callback:"))
                .next();
        }
        let name = btf.name(id);
        let args = params.iter().enumerate();
        functions.push(FunctionInfo {
            insn,
            name: name.to_owned(),
            linkage: if global {
                Linkage::Global
            } else {
                Linkage::Static
            },
            args: args
                .map(|(number, param)| {
                    let parameter = Parameter {
                        btf,
                        prog_type,
                        number,
                    };
                    let tags: Vec<&str> = btf.tags(id, number as i32).collect();
                    parameter.arg(param.ty, &tags, name)
                })
                .collect(),
            ret: match btf.resolved(*ret).1 {
                Shape::Int { .. } | Shape::Enum { .. } => FuncRet::Scalar,
                Shape::Void => FuncRet::Void,
                _ => FuncRet::Other,
            },
            exception_cb: exception_cb == Some(name),
        });
    }
    Ok(functions)
}

/// A parameter of a function of a program of some type.
struct Parameter<'a> {
    btf: &'a Btf,
    prog_type: u32,
    number: usize,
}

/// Tags of a parameter (`arg:…`).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Tags {
    ctx: bool,
    trusted: bool,
    nonnull: bool,
    nullable: bool,
    arena: bool,
}

impl Tags {
    const NONE: Tags = Tags {
        ctx: false,
        trusted: false,
        nonnull: false,
        nullable: false,
        arena: false,
    };

    fn read(tags: &[&str]) -> Option<Tags> {
        let mut known = Tags::NONE;
        for tag in tags.iter().filter_map(|tag| tag.strip_prefix("arg:")) {
            match tag {
                "ctx" => known.ctx = true,
                "trusted" => known.trusted = true,
                "nonnull" => known.nonnull = true,
                "nullable" => known.nullable = true,
                "arena" => known.arena = true,
                _ => return None,
            }
        }
        Some(known)
    }
}

impl Parameter<'_> {
    fn refuse(&self, reason: impl std::fmt::Display) -> FuncArg {
        FuncArg::Unsupported {
            errno: Errno::EINVAL,
            text: format!("arg#{} {reason}", self.number),
        }
    }

    fn arg(&self, id: u32, tags: &[&str], function: &str) -> FuncArg {
        let Some(tags) = Tags::read(tags) else {
            return FuncArg::Unsupported {
                errno: Errno::EOPNOTSUPP,
                text: format!("arg#{} has unsupported set of tags", self.number),
            };
        };
        match self.btf.resolved(id).1 {
            &Shape::Ptr(to) => self.pointer(to, tags),
            _ if tags != Tags::NONE => self.refuse("has pointer tag, but is not a pointer type"),
            Shape::Int { .. } | Shape::Enum { .. } => FuncArg::Scalar,
            shape => FuncArg::Unsupported {
                errno: Errno::EINVAL,
                text: format!(
                    "Arg#{} type {} in {function}() is not supported yet.",
                    self.number,
                    shape.kind_name()
                ),
            },
        }
    }

    fn pointer(&self, to: u32, tags: Tags) -> FuncArg {
        let combination = "has invalid combination of tags";
        let only = |wanted: Tags| tags == wanted;
        if tags.ctx || self.is_ctx(to) {
            let ctx = Tags {
                ctx: true,
                ..Tags::NONE
            };
            if !only(ctx) && !only(Tags::NONE) {
                return self.refuse(combination);
            }
            return match self.check_ctx(to) {
                Err(reason) if tags.ctx => self.refuse(reason),
                _ => FuncArg::Ctx,
            };
        }
        let (target, shape) = self.btf.resolved(to);
        let is_struct = matches!(shape, Shape::Struct { .. } | Shape::Fwd { union: false });
        if is_struct && self.btf.name(target) == "bpf_dynptr" {
            if !only(Tags::NONE) {
                return self.refuse(combination);
            }
            return FuncArg::DynPtr;
        }
        if tags.trusted {
            if tags.nonnull {
                return self.refuse(combination);
            }
            // No object of the kernel can be passed here.
            return FuncArg::Unsupported {
                errno: Errno::ENOENT,
                text: format!(
                    "arg#{} reference type('{} {}') has no matches",
                    self.number,
                    shape.kind_name(),
                    self.btf.name(target)
                ),
            };
        }
        if tags.arena {
            return self.refuse("arenas are not supported");
        }
        if tags.nullable {
            return self.refuse(combination);
        }
        match self.btf.size(target) {
            Some(size) => FuncArg::Mem {
                size,
                or_null: !tags.nonnull,
            },
            None => self.refuse(format!(
                "reference type('{} {}') size cannot be determined: -22",
                shape.kind_name(),
                self.btf.name(target)
            )),
        }
    }

    /// The first typedef before a type, after qualifiers.
    fn typedef(&self, mut id: u32) -> Option<&str> {
        while let Some(&Shape::Modifier { kind, to }) = self.btf.get(id).map(|ty| &ty.shape) {
            if kind == Modifier::Typedef {
                return Some(self.btf.name(id));
            }
            id = to;
        }
        None
    }

    fn is_pt_regs(&self, to: u32) -> bool {
        self.typedef(to) == Some("bpf_user_pt_regs_t")
    }

    /// Whether a pointer to the type is the ctx without a tag saying so
    /// (kernel: `btf_is_prog_ctx_type`).
    fn is_ctx(&self, to: u32) -> bool {
        if self.prog_type == BPF_PROG_TYPE_KPROBE && self.is_pt_regs(to) {
            return true;
        }
        let (target, shape) = self.btf.resolved(to);
        if !matches!(shape, Shape::Struct { .. } | Shape::Union { .. }) {
            return false;
        }
        match (ctx_name(self.prog_type), self.btf.name(target)) {
            (Some("__sk_buff"), "sk_buff") | (Some("xdp_md"), "xdp_buff") => true,
            // The typedef's name, used for a structure by old headers.
            (Some("pt_regs"), "bpf_user_pt_regs_t") => true,
            (Some(ctx), name) => ctx == name,
            (None, _) => false,
        }
    }

    /// Whether a pointer to the type may be tagged as the ctx (kernel:
    /// `btf_validate_prog_ctx_type`).
    fn check_ctx(&self, to: u32) -> Result<(), String> {
        let regs = [BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_PERF_EVENT].contains(&self.prog_type);
        if regs && self.is_pt_regs(to) {
            return Ok(());
        }
        let (target, shape) = self.btf.resolved(to);
        let name = self.btf.name(target);
        let is_struct = matches!(shape, Shape::Struct { .. });
        let word = matches!(shape, Shape::Int { size: 8, .. });
        let fits = match self.prog_type {
            _ if *shape == Shape::Void => return Ok(()),
            _ if name.is_empty() => return Err("type doesn't have a name".to_owned()),
            BPF_PROG_TYPE_PERF_EVENT => is_struct && name == "pt_regs",
            BPF_PROG_TYPE_RAW_TRACEPOINT | BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE => word,
            BPF_PROG_TYPE_TRACEPOINT | BPF_PROG_TYPE_SYSCALL => true,
            _ => false,
        };
        match ctx_name(self.prog_type) {
            _ if fits => Ok(()),
            None => Err("should be void pointer".to_owned()),
            Some(ctx) if is_struct && ctx == name => Ok(()),
            Some(ctx) => Err(format!("should be `struct {ctx} *`")),
        }
    }
}

/// The structure that a program type's ctx is (include/linux/bpf_types.h),
/// for the types that are loaded here.
fn ctx_name(prog_type: u32) -> Option<&'static str> {
    match prog_type {
        BPF_PROG_TYPE_SOCKET_FILTER | BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT => {
            Some("__sk_buff")
        }
        BPF_PROG_TYPE_KPROBE => Some("pt_regs"),
        BPF_PROG_TYPE_XDP => Some("xdp_md"),
        BPF_PROG_TYPE_PERF_EVENT => Some("bpf_perf_event_data"),
        BPF_PROG_TYPE_RAW_TRACEPOINT | BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE => {
            Some("bpf_raw_tracepoint_args")
        }
        _ => None,
    }
}
