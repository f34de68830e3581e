//! What a trace event of the user's records: `NAME=FETCHARG:TYPE`
//! (kernel/trace/trace_probe.c, 6.12). Nothing is ever fetched, for programs
//! are given registers; but what is written is refused as in the kernel, and
//! the event's `format` shows its fields. It knows no event.

use std::fmt::Write;

use uapi::Errno;

/// Longest body of an argument, and longest name.
const MAX_BODY: usize = 63;
const MAX_NAME: usize = 32;
/// Most elements of an array.
const MAX_ARRAY: u64 = 64;
/// Most bytes of a record.
const MAX_RECORD: usize = 3072;
/// Room for the steps of fetching a value (`FETCH_INSN_MAX`), less its end.
const MAX_STEPS: usize = 15;
/// Deepest word of the kernel's stack (`PARAM_MAX_STACK`).
const MAX_STACK: u64 = 2048;
/// Names that every record has.
const RESERVED: [&str; 8] = [
    "common_type",
    "common_flags",
    "common_preempt_count",
    "common_pid",
    "common_tgid",
    "__probe_ip",
    "__probe_ret_ip",
    "__probe_func",
];
/// Registers that have a name (`regs_query_register_offset`).
const REGISTERS: [&str; 21] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "bx", "cx", "dx", "si", "di", "bp", "ax",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
];

/// Whose arguments they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// A kprobe's; else an uprobe's.
    pub kernel: bool,
    /// At a function's entry, or its return.
    pub at_return: bool,
}

/// A type: its name, that of a field, bytes, sign, and how it is printed.
struct Type(&'static str, &'static str, usize, bool, &'static str);

const STRING: &str = "__data_loc char[]";
const QUOTED: &str = "\\\"%s\\\"";
const TYPES: [Type; 17] = [
    Type("string", STRING, 4, true, QUOTED),
    Type("ustring", STRING, 4, true, QUOTED),
    Type("symstr", STRING, 4, true, QUOTED),
    Type("u8", "u8", 1, false, "%u"),
    Type("u16", "u16", 2, false, "%u"),
    Type("u32", "u32", 4, false, "%u"),
    Type("u64", "u64", 8, false, "%Lu"),
    Type("s8", "s8", 1, true, "%d"),
    Type("s16", "s16", 2, true, "%d"),
    Type("s32", "s32", 4, true, "%d"),
    Type("s64", "s64", 8, true, "%Ld"),
    Type("x8", "u8", 1, false, "0x%x"),
    Type("x16", "u16", 2, false, "0x%x"),
    Type("x32", "u32", 4, false, "0x%x"),
    Type("x64", "u64", 8, false, "0x%Lx"),
    Type("char", "u8", 1, false, "'%c'"),
    Type("symbol", "u64", 8, false, "%pS"),
];

impl Type {
    fn is_string(&self) -> bool {
        self.1 == STRING
    }
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name, given or made.
    pub name: String,
    /// What was written behind the name.
    pub body: String,
    /// The type's index in the table.
    kind: usize,
    /// Elements, if it is an array.
    count: usize,
}

impl Argument {
    fn kind(&self) -> &'static Type {
        &TYPES[self.kind]
    }

    fn bytes(&self) -> usize {
        self.kind().2 * self.count.max(1)
    }

    /// Whether a record's field of this name and type could be both.
    pub fn is_like(&self, other: &Argument) -> bool {
        (&self.name, self.kind, self.count) == (&other.name, other.kind, other.count)
    }
}

/// What a step of fetching does, as far as the next one cares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Value,
    StackAddress,
    Immediate,
    Text,
    Memory,
    UserMemory,
}

/// All arguments of an event.
///
/// # Errors
/// EINVAL for one that does not parse; E2BIG for a long one, too many steps or
/// too large a record.
pub fn parse(words: &[&str], context: Context) -> Result<Vec<Argument>, Errno> {
    let mut arguments: Vec<Argument> = Vec::new();
    let mut bytes = 0;
    for (index, word) in words.iter().enumerate() {
        let (name, body) = match word.split_once('=') {
            Some((name, _)) if name.is_empty() || name.len() > MAX_NAME => {
                return Err(Errno::EINVAL);
            }
            Some((name, body)) => (name.to_owned(), body),
            None => (made_name(word, index), *word),
        };
        let is_used = RESERVED.contains(&name.as_str()) || arguments.iter().any(|a| a.name == name);
        if !is_good_name(&name) || is_used {
            return Err(Errno::EINVAL);
        }
        let argument = of_body(name, body, context, &mut bytes)?;
        arguments.push(argument);
    }
    Ok(arguments)
}

/// Whether a name can be one of the C language's.
pub fn is_good_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    bytes.next().is_some_and(is_letter) && bytes.all(|b| is_letter(b) || b.is_ascii_digit())
}

/// The name of one that was given none: a variable's own, or its place's.
fn made_name(word: &str, index: usize) -> String {
    let variable = word.split(':').next().unwrap_or_default();
    match is_good_name(variable) {
        true => variable.to_owned(),
        false => format!("arg{}", index + 1),
    }
}

fn of_body(
    name: String,
    body: &str,
    context: Context,
    bytes: &mut usize,
) -> Result<Argument, Errno> {
    match body.len() {
        0 => return Err(Errno::EINVAL),
        len if len > MAX_BODY => return Err(Errno::E2BIG),
        _ => {}
    }
    let (fetched, given, count) = split_type(body)?;
    let is_text = matches!(fetched, "$comm" | "$COMM") || fetched.starts_with("\\\"");
    let kind = match given {
        _ if is_text && (count != 0 || given.is_some_and(|given| given != "string")) => None,
        _ if is_text => find_type("string", context),
        Some(given) => find_type(given, context),
        None => find_type("x64", context),
    };
    let kind = kind.ok_or(Errno::EINVAL)?;
    let (last, steps) = fetch(fetched, 0, context)?;
    let argument = Argument {
        name,
        body: body.to_owned(),
        kind,
        count,
    };
    *bytes += argument.bytes();
    if *bytes > MAX_RECORD {
        return Err(Errno::E2BIG);
    }
    store(&argument, given, last, steps)?;
    Ok(argument)
}

/// A body's fetched part, its type, and how many elements that has.
fn split_type(body: &str) -> Result<(&str, Option<&str>, usize), Errno> {
    let Some((fetched, kind)) = body.split_once(':') else {
        return Ok((body, None, 0));
    };
    let Some((kind, count)) = kind.split_once('[') else {
        return Ok((fetched, Some(kind), 0));
    };
    let count = count.strip_suffix(']').filter(|count| !count.contains(']'));
    let count = count.and_then(number).ok_or(Errno::EINVAL)?;
    if !(1..=MAX_ARRAY).contains(&count) {
        return Err(Errno::EINVAL);
    }
    Ok((fetched, Some(kind), count as usize))
}

fn find_type(name: &str, context: Context) -> Option<usize> {
    if !context.kernel && matches!(name, "symbol" | "symstr") {
        return None;
    }
    let sized;
    let name = match name.strip_prefix('b') {
        Some(bits) => {
            let size = number(bits.split_once('/')?.1)?;
            sized = format!("u{size}");
            &sized
        }
        None => name,
    };
    TYPES.iter().position(|kind| kind.0 == name)
}

/// What is fetched: its last step, and the number of that one.
fn fetch(text: &str, at: usize, context: Context) -> Result<(Step, usize), Errno> {
    let next = |at: usize| match at + 1 {
        MAX_STEPS => Err(Errno::EINVAL),
        next => Ok(next),
    };
    let rest = text.get(1..).unwrap_or_default();
    match text.as_bytes().first() {
        Some(b'$') => variable(rest, context).map(|step| (step, at)),
        Some(b'%') if REGISTERS.contains(&rest) => Ok((Step::Value, at)),
        Some(b'@') => {
            let (mut at, is_known) = (
                at,
                match rest.strip_prefix('+') {
                    Some(offset) => !context.kernel && signed(offset).is_some(),
                    None => number(rest).is_some(),
                },
            );
            let starts_a_name = !rest.starts_with(|c: char| c.is_ascii_digit() || c == '+');
            if context.kernel && starts_a_name && !rest.is_empty() {
                // Symbols are found when the event is registered: we know none.
                at = next(at)?;
            } else if !is_known {
                return Err(Errno::EINVAL);
            }
            Ok((Step::Memory, next(at)?))
        }
        Some(b'+' | b'-') => {
            let is_user = rest.starts_with('u');
            let rest = if is_user { &rest[1..] } else { rest };
            let (offset, inner) = rest.split_once('(').ok_or(Errno::EINVAL)?;
            let (inner, _) = inner.rsplit_once(')').ok_or(Errno::EINVAL)?;
            let sign = if text.starts_with('-') { "-" } else { "" };
            signed(&format!("{sign}{offset}")).ok_or(Errno::EINVAL)?;
            let (step, at) = fetch(inner, at, context)?;
            if step == Step::Text {
                return Err(Errno::EINVAL);
            }
            let step = if is_user {
                Step::UserMemory
            } else {
                Step::Memory
            };
            Ok((step, next(at)?))
        }
        Some(b'\\') => match rest.strip_prefix('"') {
            Some(string) if string.ends_with('"') => Ok((Step::Text, at)),
            Some(_) => Err(Errno::EINVAL),
            None => {
                let known = rest.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
                let value = signed(rest.strip_prefix('+').unwrap_or(rest)).map(drop);
                let value = value.or_else(|| number(rest).map(drop));
                value.filter(|()| known).ok_or(Errno::EINVAL)?;
                Ok((Step::Immediate, at))
            }
        },
        _ => Err(Errno::EINVAL),
    }
}

/// `$retval`, `$stack`, `$stackN`, `$comm`, `$argN`.
fn variable(name: &str, context: Context) -> Result<Step, Errno> {
    let decimal = |digits: &str| match digits.starts_with(|c: char| c.is_ascii_digit()) {
        true => digits.parse::<u64>().ok(),
        false => None,
    };
    let found = if name.starts_with("retval") {
        context.at_return.then_some(Step::Value)
    } else if let Some(word) = name.strip_prefix("stack") {
        match word {
            "" => Some(Step::StackAddress),
            _ => decimal(word)
                .filter(|&word| !context.kernel || word <= MAX_STACK)
                .map(|_| Step::Value),
        }
    } else if matches!(name, "comm" | "COMM") {
        Some(Step::Text)
    } else {
        let number = name.strip_prefix("arg").and_then(decimal);
        number
            .filter(|number| context.kernel && (1..=MAX_STACK).contains(number))
            .map(|_| Step::Value)
    };
    found.ok_or(Errno::EINVAL)
}

/// Whether what is fetched can be stored as the type says.
fn store(
    argument: &Argument,
    given: Option<&str>,
    last: Step,
    mut steps: usize,
) -> Result<(), Errno> {
    let kind = argument.kind();
    let is_array = argument.count != 0;
    let mut into_memory = matches!(last, Step::Memory | Step::UserMemory);
    if kind.is_string() {
        let is_address = into_memory || matches!(last, Step::Immediate | Step::Text);
        let is_right = match kind.0 {
            "symstr" => matches!(last, Step::Value | Step::Memory),
            _ => is_address,
        };
        if !is_right {
            return Err(Errno::EINVAL);
        }
        if kind.0 == "symstr" || !into_memory || is_array {
            steps += 1;
        }
        if steps >= MAX_STEPS {
            return Err(Errno::EINVAL);
        }
        into_memory = kind.0 != "symstr";
    } else if !into_memory {
        steps += 1;
        if steps >= MAX_STEPS {
            return Err(Errno::E2BIG);
        }
    }
    if let Some(bits) = given.and_then(|given| given.strip_prefix('b')) {
        steps += 1;
        if steps >= MAX_STEPS || !is_bitfield(bits, kind.2 as u64 * 8) {
            return Err(Errno::EINVAL);
        }
    }
    if is_array {
        if !into_memory {
            return Err(Errno::EINVAL);
        }
        if steps + 1 >= MAX_STEPS {
            return Err(Errno::E2BIG);
        }
    }
    Ok(())
}

/// `WIDTH@OFFSET/SIZE`, in bits.
fn is_bitfield(text: &str, size: u64) -> bool {
    let parts = || {
        let (width, rest) = text.split_once('@')?;
        let (offset, _) = rest.split_once('/')?;
        Some((number(width)?, number(offset)?))
    };
    parts().is_some_and(|(width, offset)| width != 0 && width.saturating_add(offset) <= size)
}

/// A number as `kstrtoul(…, 0, …)` reads it.
pub fn number(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, base) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let is_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, base).ok().filter(|_| is_digits)
}

/// The same, for whom it matters what is wrong.
///
/// # Errors
/// ERANGE for a number that is too large, else EINVAL.
pub fn offset(text: &str) -> Result<u64, Errno> {
    let is_digits = |digits: &str| {
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    number(text).ok_or(match is_digits(text) && text.len() > 16 {
        true => Errno(libc::ERANGE),
        false => Errno::EINVAL,
    })
}

/// As `kstrtol(…, 0, …)` does.
pub fn signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(_) if text[1..].starts_with('+') => None,
        Some(digits) => number(digits).and_then(|value| 0i64.checked_sub_unsigned(value)),
        None => number(text).and_then(|value| i64::try_from(value).ok()),
    }
}

/// The lines of a `format` file about these arguments, which begin at an offset
/// of the record, and the end of its last line.
pub fn fields(arguments: &[Argument], mut at: usize) -> String {
    let mut text = String::new();
    for argument in arguments {
        let Type(_, field, _, is_signed, _) = *argument.kind();
        let (name, size) = (&argument.name, argument.bytes());
        let declared = match (argument.count, argument.kind().is_string()) {
            (0, _) => format!("{field} {name}"),
            (count, true) => format!("{field}[{count}] {name}"),
            (_, false) => format!("{field} {name}[]"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\tfield:{declared};\toffset:{at};\tsize:{size};\tsigned:{};",
            u8::from(is_signed)
        );
        at += size;
    }
    text
}

/// What `print fmt` says of the arguments: their formats, and their values.
pub fn printed(arguments: &[Argument]) -> (String, String) {
    let (mut formats, mut values) = (String::new(), String::new());
    for argument in arguments {
        let (name, format) = (&argument.name, argument.kind().4);
        let list = vec![format; argument.count.max(1)].join(",");
        let _ = match argument.count {
            0 => write!(formats, " {name}={list}"),
            _ => write!(formats, " {name}={{{list}}}"),
        };
        for index in 0..argument.count.max(1) {
            let element = match argument.count {
                0 => name.clone(),
                _ => format!("{name}[{index}]"),
            };
            let _ = match argument.kind().is_string() {
                true => write!(values, ", __get_str({element})"),
                false => write!(values, ", REC->{element}"),
            };
        }
    }
    (formats, values)
}
