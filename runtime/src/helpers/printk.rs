//! Lines for people: `bpf_trace_printk` and `bpf_trace_vprintk` write them,
//! in the words of the kernel's trace_pipe, to a ring that the tool reads. It
//! knows no reader.

use shm::sys;
use uapi::Errno;
use uapi::helper::{BPF_FUNC_TRACE_PRINTK, BPF_FUNC_TRACE_VPRINTK};
use vm::helper::{Arg, Proto, Ret};

use super::read;
use super::row::Helper;
use crate::maps::bytes;
use crate::run::RunState;
use crate::sample::{COMM, Sample};
use crate::thread;

/// Bytes of a message (`MAX_BPRINTF_BUF`) and of what stands before it.
const ROOM: usize = 1024 + 96;
/// Most arguments (`MAX_BPRINTF_VARARGS`).
const MOST: usize = 12;

const PRINTK: Proto = Proto {
    id: BPF_FUNC_TRACE_PRINTK,
    name: "trace_printk",
    args: &[Arg::Mem, Arg::Size],
    ret: Ret::Scalar,
    gpl_only: true,
};

const VPRINTK: Proto = Proto {
    id: BPF_FUNC_TRACE_VPRINTK,
    name: "trace_vprintk",
    args: &[Arg::Mem, Arg::Size, Arg::MemOrNull, Arg::SizeOrZero],
    ret: Ret::Scalar,
    gpl_only: true,
};

pub(super) static TRACE_PRINTK: Helper = Helper {
    proto: PRINTK,
    call: trace_printk::<false>,
};

pub(super) static TRACE_VPRINTK: Helper = Helper {
    proto: VPRINTK,
    call: trace_vprintk::<false>,
};

/// The same in runs for samples.
pub(super) static SAMPLED_PRINTK: Helper = Helper {
    proto: PRINTK,
    call: trace_printk::<true>,
};

/// The same.
pub(super) static SAMPLED_VPRINTK: Helper = Helper {
    proto: VPRINTK,
    call: trace_vprintk::<true>,
};

/// Who is said to print a line, where and when.
struct Author {
    comm: [u8; COMM],
    tid: i32,
    cpu: u32,
    /// `CLOCK_MONOTONIC`.
    time: u64,
}

impl Author {
    /// The thread that was sampled, or the calling one.
    ///
    /// # Safety
    /// Runs of `SAMPLED` helpers are for a sample.
    unsafe fn of<const SAMPLED: bool>(run: &RunState) -> Author {
        if SAMPLED {
            // SAFETY: the caller's contract.
            let sample = unsafe { Sample::of(run) };
            return Author {
                comm: sample.comm,
                tid: sample.ids.tid,
                cpu: sample.cpu,
                time: sample.time,
            };
        }
        let mut comm = [0u8; COMM];
        let to = comm.as_mut_ptr() as usize;
        let name = libc::PR_GET_NAME as usize;
        // SAFETY: PR_GET_NAME writes 16 bytes.
        unsafe { sys::syscall6(libc::SYS_prctl as usize, name, to, 0, 0, 0, 0) };
        Author {
            comm,
            tid: thread::ids().tid,
            cpu: run.cpu(),
            time: sys::clock_ns(libc::CLOCK_MONOTONIC),
        }
    }
}

/// bpf_trace_printk: the arguments follow format and size, whatever is in
/// their registers. Errors: EINVAL for a format that the kernel refuses.
unsafe extern "C" fn trace_printk<const SAMPLED: bool>(
    format: u64,
    size: u64,
    a: u64,
    b: u64,
    c: u64,
    run: *mut vm::Run,
) -> u64 {
    // SAFETY: engines pass the run they were entered with; the verifier proved
    // that `format` has `size` bytes.
    unsafe { print::<SAMPLED>(RunState::of(run), format, size, &[a, b, c]) as u64 }
}

/// bpf_trace_vprintk: the arguments are an array. Errors: EINVAL for a format
/// that the kernel refuses, and an array that is none.
unsafe extern "C" fn trace_vprintk<const SAMPLED: bool>(
    format: u64,
    size: u64,
    data: u64,
    len: u64,
    _: u64,
    run: *mut vm::Run,
) -> u64 {
    let count = (len / 8) as usize;
    if !len.is_multiple_of(8) || count > MOST || (len != 0 && data == 0) {
        return Errno::EINVAL.ret() as u64;
    }
    let mut arguments = [0; MOST];
    // SAFETY: the verifier proved `len` bytes of `data`, which fit.
    unsafe {
        bytes::copy_unaligned(
            arguments.as_mut_ptr().cast(),
            data as *const u8,
            len as usize,
        )
    };
    let arguments = arguments.get(..count).unwrap_or(&[]);
    // SAFETY: as above.
    unsafe { print::<SAMPLED>(RunState::of(run), format, size, arguments) as u64 }
}

/// Formats a message and hands the line to the tool; bytes of the message with
/// its zero, or a negative errno.
///
/// # Safety
/// `format` is readable for `size` bytes; the run is for a sample if `SAMPLED`.
unsafe fn print<const SAMPLED: bool>(
    run: &RunState,
    format: u64,
    size: u64,
    arguments: &[u64],
) -> i64 {
    // SAFETY: the caller's contract.
    let format = unsafe { core::slice::from_raw_parts(format as *const u8, size as usize) };
    let Some(end) = format.iter().position(|&byte| byte == 0) else {
        return Errno::EINVAL.ret();
    };
    let mut line = Line::new();
    // SAFETY: the caller's contract.
    line.head(&unsafe { Author::of::<SAMPLED>(run) });
    let before = line.len;
    let format = format.get(..end).unwrap_or(&[]);
    if let Err(errno) = line.message(format, arguments) {
        return errno.ret();
    }
    let printed = line.len - before;
    line.push(b'\n');
    if let Some(ring) = run.env().trace_ring() {
        // SAFETY: the line's own bytes.
        let written = unsafe { ring.output(line.text.as_ptr(), line.len as u64, 0) };
        if written == Ok(true) {
            run.env().doorbell.ring();
        }
    }
    // `bstr_printf` counts without the zero.
    printed as i64
}

/// A line under way; what does not fit is cut.
struct Line {
    text: [u8; ROOM],
    len: usize,
}

/// How a number is shown.
#[derive(Clone, Copy, Default)]
struct Style {
    zeros: bool,
    plus: bool,
    left: bool,
    space: bool,
    width: usize,
}

impl Line {
    fn new() -> Line {
        Line {
            text: [0; ROOM],
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) {
        // Room for the newline is kept.
        if let Some(at) = self.text.get_mut(self.len) {
            *at = byte;
            self.len += 1;
        }
    }

    fn push_all(&mut self, text: &[u8]) {
        text.iter().for_each(|&byte| self.push(byte));
    }

    fn pad(&mut self, width: usize, len: usize, with: u8) {
        (len..width.min(ROOM)).for_each(|_| self.push(with));
    }

    /// `trace_print_context`: who, where and when. What interrupts and
    /// preemption do user space cannot tell.
    fn head(&mut self, author: &Author) {
        let comm = &author.comm;
        let len = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM);
        self.pad(COMM, len, b' ');
        self.push_all(comm.get(..len).unwrap_or(&[]));
        self.push(b'-');
        let width = |width| Style {
            left: true,
            width,
            ..Style::default()
        };
        self.number(author.tid as u64, 10, false, b'a', width(7));
        self.push_all(b" [");
        let zeros = |width| Style {
            zeros: true,
            width,
            ..Style::default()
        };
        self.number(author.cpu.into(), 10, false, b'a', zeros(3));
        self.push_all(b"] ..... ");
        let now = author.time / 1000;
        self.number(
            now / 1_000_000,
            10,
            false,
            b'a',
            Style {
                width: 5,
                ..Style::default()
            },
        );
        self.push(b'.');
        self.number(now % 1_000_000, 10, false, b'a', zeros(6));
        self.push_all(b": bpf_trace_printk: ");
    }

    fn number(&mut self, magnitude: u64, base: u64, negative: bool, ten: u8, style: Style) {
        let mut digits = [0u8; 20];
        let (mut rest, mut count) = (magnitude, 0);
        for digit in digits.iter_mut().rev() {
            let value = (rest % base) as u8;
            *digit = if value < 10 {
                b'0' + value
            } else {
                ten + value - 10
            };
            rest /= base;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        let sign = match (negative, style.plus, style.space) {
            (true, ..) => Some(b'-'),
            (_, true, _) => Some(b'+'),
            (_, _, true) => Some(b' '),
            _ => None,
        };
        let len = count + usize::from(sign.is_some());
        let zeros = style.zeros && !style.left;
        if !zeros && !style.left {
            self.pad(style.width, len, b' ');
        }
        sign.into_iter().for_each(|sign| self.push(sign));
        if zeros {
            self.pad(style.width, len, b'0');
        }
        self.push_all(digits.get(digits.len() - count..).unwrap_or(&[]));
        if style.left {
            self.pad(style.width, len, b' ');
        }
    }

    /// The string at an address; nothing for a bad one.
    fn string(&mut self, from: u64, style: Style) {
        let start = self.len;
        'all: loop {
            let address = from.wrapping_add((self.len - start) as u64);
            let mut part = [0u8; 64];
            let page = (shm::PAGE - address % shm::PAGE) as usize;
            let step = part.len().min(page);
            // SAFETY: `part` has the bytes.
            if unsafe { read::read(part.as_mut_ptr(), address, step) }.is_err() {
                self.len = start;
                break;
            }
            for &byte in part.get(..step).unwrap_or(&[]) {
                if byte == 0 || self.len == ROOM {
                    break 'all;
                }
                self.push(byte);
            }
        }
        let len = self.len - start;
        if style.width > len {
            let added = (style.width - len).min(ROOM - self.len);
            self.pad(style.width, len, b' ');
            if !style.left
                && let Some(field) = self.text.get_mut(start..self.len)
            {
                field.rotate_right(added);
            }
        }
    }

    /// `bpf_bprintf_prepare` and `bstr_printf` (kernel/bpf/helpers.c,
    /// lib/vsprintf.c, 6.12).
    fn message(&mut self, format: &[u8], arguments: &[u64]) -> Result<(), Errno> {
        let mut arguments = arguments.iter().copied();
        let mut at = 0;
        let byte = |at: usize| format.get(at).copied().unwrap_or(0);
        while at < format.len() {
            let this = byte(at);
            // Only what can be printed, and white space.
            if !this.is_ascii()
                || this.is_ascii_control() && !this.is_ascii_whitespace() && this != 0x0b
            {
                return Err(Errno::EINVAL);
            }
            at += 1;
            if this != b'%' {
                self.push(this);
                continue;
            }
            if byte(at) == b'%' {
                self.push(b'%');
                at += 1;
                continue;
            }
            let argument = arguments.next().ok_or(Errno::EINVAL)?;
            let mut style = Style::default();
            loop {
                match byte(at) {
                    b'0' => style.zeros = true,
                    b'+' => style.plus = true,
                    b'-' => style.left = true,
                    b' ' => style.space = true,
                    _ => break,
                }
                at += 1;
            }
            while byte(at).is_ascii_digit() {
                style.width = (style.width * 10 + usize::from(byte(at) - b'0')).min(ROOM);
                at += 1;
            }
            at += self.conversion([byte(at), byte(at + 1), byte(at + 2)], argument, style)?;
        }
        Ok(())
    }

    /// One conversion; bytes of the format that it takes.
    fn conversion(&mut self, format: [u8; 3], argument: u64, style: Style) -> Result<usize, Errno> {
        let ends =
            |byte: u8| byte == 0 || byte.is_ascii_whitespace() || byte.is_ascii_punctuation();
        match format {
            [b'p', b'k' | b'u', b's'] => self.string(argument, style),
            [b's', next, _] if ends(next) => {
                self.string(argument, style);
                return Ok(1);
            }
            [b'c', ..] => {
                self.push(argument as u8);
                return Ok(1);
            }
            [b'p', b'x' | b'K' | b's' | b'S' | b'B', _] => {
                self.pointer(argument);
                return Ok(2);
            }
            [b'p', next, _] if ends(next) => {
                self.pointer(argument);
                return Ok(1);
            }
            [b'l', b'l', kind] => self.integer(kind, argument, 64, style)?,
            [b'l', kind, _] => {
                self.integer(kind, argument, 64, style)?;
                return Ok(2);
            }
            [kind, ..] => {
                self.integer(kind, argument, 32, style)?;
                return Ok(1);
            }
        }
        Ok(3)
    }

    fn pointer(&mut self, argument: u64) {
        let style = Style {
            zeros: true,
            width: 16,
            ..Style::default()
        };
        self.number(argument, 16, false, b'a', style);
    }

    fn integer(&mut self, kind: u8, argument: u64, bits: u32, style: Style) -> Result<(), Errno> {
        let unsigned = if bits == 64 {
            argument
        } else {
            u64::from(argument as u32)
        };
        let signed = if bits == 64 {
            argument as i64
        } else {
            i64::from(argument as i32)
        };
        // Signs are for signed numbers.
        let plain = Style {
            plus: false,
            space: false,
            ..style
        };
        match kind {
            b'd' | b'i' => self.number(signed.unsigned_abs(), 10, signed < 0, b'a', style),
            b'u' => self.number(unsigned, 10, false, b'a', plain),
            b'x' => self.number(unsigned, 16, false, b'a', plain),
            b'X' => self.number(unsigned, 16, false, b'A', plain),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(format: &str, arguments: &[u64]) -> Result<String, Errno> {
        let mut line = Line::new();
        line.message(format.as_bytes(), arguments)?;
        Ok(String::from_utf8_lossy(&line.text[..line.len]).into_owned())
    }

    #[test]
    fn formats() {
        let text = c"text".as_ptr() as u64;
        let minus = -7i64 as u64;
        for (format, arguments, expected) in [
            ("plain", &[][..], "plain"),
            ("%d %u %x", &[minus, minus, 255], "-7 4294967289 ff"),
            (
                "%ld %llu %lX",
                &[minus, 1 << 40, 0xabc],
                "-7 1099511627776 ABC",
            ),
            ("%5d|%-5d|%05d", &[7, 7, minus], "    7|7    |-0007"),
            ("%+d % d %%", &[7, 7], "+7  7 %"),
            ("%s|%6s|%-6s|", &[text, text, text], "text|  text|text  |"),
            ("%c%i", &[b'x'.into(), 3], "x3"),
            ("%px", &[0x1234], "0000000000001234"),
            ("bad %s", &[1], "bad "),
        ] {
            assert_eq!(
                message(format, arguments).as_deref(),
                Ok(expected),
                "{format}"
            );
        }
        for (format, arguments) in [
            ("%d", &[][..]),
            ("%f", &[1]),
            ("%sx", &[text]),
            ("\u{e9}", &[]),
            ("%", &[1]),
        ] {
            assert_eq!(message(format, arguments), Err(Errno::EINVAL), "{format}");
        }
    }

    #[test]
    fn long_messages_are_cut() {
        let long = std::ffi::CString::new("x".repeat(3000)).unwrap();
        let shown = message("%s|", &[long.as_ptr() as u64]).unwrap();
        assert_eq!(shown.len(), ROOM);
        assert_eq!(message("%900d%900d", &[1, 2]).unwrap().len(), ROOM);
    }
}
