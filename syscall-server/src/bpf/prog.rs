//! `BPF_PROG_LOAD`, `BPF_PROG_TEST_RUN` and `BPF_PROG_BIND_MAP`, and the log
//! buffer that loading commands share.

use std::os::fd::IntoRawFd;

use runtime::command::prog::{
    ProgBtf, ProgLoad, can_host, is_gpl_compatible, name_maps, prog_name,
};
use runtime::command::{Object, test_run};
use runtime::types::Records;
use uapi::attr::{self, out};
use uapi::cmd::{self, BPF_LOG_FIXED, BPF_LOG_MASK};
use uapi::insn::BPF_COMPLEXITY_LIMIT_INSNS;
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::program::ProgramInfo;
use vm::verifier::{Keep, Log};

use super::call::{self, Call};
use crate::kernel::given::Named;
use crate::kernel::placement::Obstacle;
use crate::kernel::program::Loaded;
use crate::{kernel, log, trace_pipe, user};

/// Most bytes of a licence, with its terminating zero (`bpf_prog_load`).
const MAX_LICENSE: usize = 128;

/// The program that `bpftool gen skeleton -L` has made of what libbpf does.
const LIGHT_SKELETON: &str = "__loader.prog";

pub fn load(call: &Call) -> Result<i64, Errno> {
    let attr = attr::ProgLoad::decode(&call.bytes);
    if attr.insn_cnt == 0 || attr.insn_cnt > BPF_COMPLEXITY_LIMIT_INSNS {
        // Whoever asks so wants to know whether the type may be loaded.
        let asks_kernel = !can_host(attr.prog_type) && call.server.kernel.may_load();
        return match asks_kernel {
            true => kernel::bpf(cmd::BPF_PROG_LOAD, call.attr, call.size as u32),
            false => Err(Errno::E2BIG),
        };
    }
    let license = user::read_string(attr.license, MAX_LICENSE).or_else(|errno| match errno {
        // Cut there, as the kernel does.
        Errno::E2BIG => user::read_vec(attr.license, MAX_LICENSE - 1),
        other => Err(other),
    })?;
    let log = Text {
        level: attr.log_level,
        address: attr.log_buf,
        size: attr.log_size,
        true_size_at: out::PROG_LOAD_LOG_TRUE_SIZE,
    };
    log.check()?;
    let name = prog_name(&attr.prog_name)?;
    let mut insns = read_insns(attr.insns, attr.insn_cnt)?;
    // Types are looked at only when something refers to them (`check_btf_info`).
    let btf = if attr.func_info_cnt != 0 || attr.line_info_cnt != 0 {
        let records = |address, count, size, known| {
            // More than one per instruction cannot be in order.
            if count > attr.insn_cnt || count != 0 && !Records::is_size(size, known) {
                return Err(Errno::EINVAL);
            }
            let bytes = user::read_vec(address, count as usize * size as usize)?;
            Ok(Records { bytes, size })
        };
        let (functions, lines) = (attr.func_info_cnt, attr.line_info_cnt);
        Some(ProgBtf {
            object: call::btf(attr.prog_btf_fd)?,
            functions: records(attr.func_info, functions, attr.func_info_rec_size, 8)?,
            lines: records(attr.line_info, lines, attr.line_info_rec_size, 16)?,
        })
    } else {
        None
    };
    let indexed = |index: u32| {
        if attr.fd_array == 0 {
            return Err(Errno::EPROTO);
        }
        let fd = user::read_u32(attr.fd_array.wrapping_add(u64::from(index) * 4))?;
        Ok(fd as i32)
    };
    let by_index = |index: u32| call::own_map(indexed(index)?);
    let theirs = match call.server.kernel.is_used() {
        true => Named::take(&mut insns, indexed)?,
        false => Named::default(),
    };
    let maps = match name_maps(&mut insns, call::own_map, by_index) {
        Ok(maps) => maps,
        Err(errno) => {
            let text = "fd is not pointing to valid bpf_map\n";
            put_log(call, &log, text, text.len())?;
            return Err(errno);
        }
    };
    let (prog_type, insn_cnt) = (attr.prog_type, attr.insn_cnt);
    let mut text = Log::new(log.level, log.keep());
    let load = ProgLoad {
        spec: ProgramSpec {
            name: name.clone(),
            prog_type,
            expected_attach_type: attr.expected_attach_type,
            prog_flags: attr.prog_flags,
            gpl: is_gpl_compatible(&license),
            insns,
            info: ProgramInfo::default(),
        },
        maps,
        btf,
    };
    let wanted = (log.level != 0).then_some(&mut text);
    let insns = load.spec.insns.clone();
    let of_theirs = !theirs.is_empty();
    let kept = Loaded::new(call.bytes, &insns, theirs, &license, load.btf.as_ref());
    let maps = load.maps.clone();
    let result = match of_theirs {
        false => call.server.bpf.prog_load(load, wanted),
        true => Err(Errno::EINVAL),
    };
    if let Err(errno) = result {
        log::debug(format_args!(
            "program \"{name}\" of type {prog_type} with {insn_cnt} instructions: {errno}"
        ));
        let obstacle = match can_host(prog_type) {
            _ if of_theirs => Obstacle::Map,
            true => Obstacle::Verdict(errno),
            false => Obstacle::Type(prog_type),
        };
        if call.server.kernel.hosts(&name, &obstacle) {
            match kept.load(call.server, &maps) {
                Ok(fd) => {
                    call.server.kernel.note_use();
                    return Ok(i64::from(fd.into_raw_fd()));
                }
                // Of what only the kernel knows, it has the last word.
                Err(errno) if of_theirs || !can_host(prog_type) => {
                    let kernel = &call.server.kernel;
                    let said = kernel
                        .not_shared(&obstacle, errno, maps.len())
                        .unwrap_or_else(|| kept.refusal(&maps));
                    put_log(call, &log, &said, said.len())?;
                    return Err(errno);
                }
                Err(_) => {}
            }
        }
        // Whose loader asks for no log.
        if name == LIGHT_SKELETON && log.level == 0 {
            log::problem(format_args!(
                "light skeletons are loaded by a program that only the kernel runs; \
                 make the skeleton by `bpftool gen skeleton` without -L"
            ));
        }
    }
    put_log(call, &log, &text.text, text.true_len())?;
    let prog = result?;
    // It has none yet.
    let _ = prog.extra.set(Box::new(kept));
    trace_pipe::serve(call.server);
    call.new_fd(Object::Prog(prog))
}

fn read_insns(address: u64, count: u32) -> Result<Vec<Insn>, Errno> {
    let bytes = user::read_vec(address, count as usize * size_of::<Insn>())?;
    let (insns, _) = bytes.as_chunks::<8>();
    Ok(insns.iter().map(|insn| Insn::from_bytes(*insn)).collect())
}

pub fn bind_map(call: &Call) -> Result<i64, Errno> {
    let attr = attr::ProgBindMap::decode(&call.bytes);
    if attr.flags != 0 {
        return Err(Errno::EINVAL);
    }
    if kernel::is_program(attr.prog_fd) {
        // Programs there have maps of their own in place of ours.
        return match call::own_map(attr.map_fd) {
            Ok(_) => Ok(0),
            Err(_) => kernel::bpf(cmd::BPF_PROG_BIND_MAP, call.attr, call.size as u32),
        };
    }
    let prog = call::own_prog(attr.prog_fd)?;
    let map = call::own_map(attr.map_fd)?;
    call.server.bpf.prog_bind_map(&prog, &map)?;
    Ok(0)
}

/// `BPF_F_TEST_RUN_ON_CPU`.
const ON_CPU: u32 = 1;

pub fn test_run(call: &Call) -> Result<i64, Errno> {
    let attr = attr::ProgTestRun::decode(&call.bytes);
    let prog = call::own_prog(attr.prog_fd)?;
    // What raw tracepoints do not have (`bpf_prog_test_run_raw_tp`).
    let foreign = [
        attr.data_in,
        attr.data_out,
        attr.ctx_out,
        attr.duration.into(),
        attr.repeat.into(),
        attr.batch_size.into(),
    ];
    if foreign.iter().any(|&field| field != 0)
        || attr.flags & !ON_CPU != 0
        || (attr.flags & ON_CPU == 0 && attr.cpu != 0)
        || attr.ctx_size_in as usize > test_run::RAW_TRACEPOINT_ARGS * 8
    {
        return Err(Errno::EINVAL);
    }
    let ctx = user::read_vec(attr.ctx_in, attr.ctx_size_in as usize)?;
    let result = call.server.bpf.prog_test_run(&prog, &ctx)?;
    call.put_u32(out::TEST_RUN_RETVAL, result)?;
    Ok(0)
}

/// A log buffer of the tool.
pub struct Text {
    /// Bits of `BPF_LOG_MASK`.
    pub level: u32,
    /// The buffer.
    pub address: u64,
    /// Its bytes.
    pub size: u32,
    /// Where in the attribute the size that would have sufficed goes.
    pub true_size_at: usize,
}

impl Text {
    /// The part of a long log that fits: its end, or its start.
    fn keep(&self) -> Keep {
        let room = self.size as usize;
        if self.level & BPF_LOG_FIXED != 0 {
            Keep::Start(room)
        } else {
            Keep::End(room)
        }
    }

    /// `bpf_verifier_log_attr_valid`.
    ///
    /// # Errors
    /// EINVAL for a buffer without size or level and the other way round.
    pub fn check(&self) -> Result<(), Errno> {
        let valid = (self.address != 0) == (self.size != 0)
            && (self.address == 0 || self.level != 0)
            && self.level & !BPF_LOG_MASK == 0
            && self.size <= u32::MAX >> 2;
        valid.then_some(()).ok_or(Errno::EINVAL)
    }
}

/// Gives the tool the log: all of it, or its end (its start with
/// `BPF_LOG_FIXED`) when it is longer than the buffer.
///
/// # Errors
/// ENOSPC when it was longer; EFAULT.
pub fn put_log(call: &Call, log: &Text, text: &str, true_len: usize) -> Result<(), Errno> {
    if log.level == 0 {
        return Ok(());
    }
    let text = text.as_bytes();
    // With the terminating zero.
    let true_size = true_len + 1;
    call.put_u32(
        log.true_size_at,
        u32::try_from(true_size).unwrap_or(u32::MAX),
    )?;
    let size = log.size as usize;
    if size == 0 {
        return Ok(());
    }
    let room = text.len().min(size - 1);
    let part = if log.level & BPF_LOG_FIXED != 0 {
        &text[..room]
    } else {
        &text[text.len() - room..]
    };
    user::write(log.address, &[part, &[0]].concat())?;
    if true_size > size {
        return Err(Errno::ENOSPC);
    }
    Ok(())
}
