//! A refusal in our own words: where in the source, what was expected, what
//! was found, what would make it pass. It knows refusals by the kernel's words
//! for them. At most five lines: libbpf looks for the kernel's words among
//! the last ten.

use super::super::Fail;
use super::trace::line_of;
use crate::program::ProgramSpec;

/// Words of a refusal, what the instruction needs, and what helps. The first
/// row that fits is taken; a refusal's own hint goes before the row's.
const REASONS: &[(&str, &str, &str)] = &[
    (
        "!read_ok",
        "a register that was written on every path to here",
        "set it before it is read; a call clears r1 to r5",
    ),
    (
        "pointer arithmetic on",
        "a pointer that arithmetic is allowed on",
        "compare it with NULL first, or add to a pointer into memory",
    ),
    (
        "math between",
        "an offset with known bounds below 512 MiB",
        "mask the offset (`& const`) or compare it with its limits before adding it",
    ),
    (
        "invalid access to map value",
        "an address inside the map's value",
        "check the index against the size of the value before using it",
    ),
    (
        "invalid access to packet",
        "bytes that were compared with data_end on this path",
        "compare the address behind the access with data_end, and use the same pointer",
    ),
    (
        "invalid access to memory",
        "an address inside the object",
        "check the offset against the object's size before using it",
    ),
    (
        "min value is negative",
        "a number that cannot be negative",
        "use an unsigned type, mask it, or check `>= 0`",
    ),
    (
        "unbounded memory access",
        "an address or size with an upper bound",
        "compare it with a constant limit, or mask it, right before its use",
    ),
    (
        "invalid mem access 'map_value_or_null'",
        "a pointer that is not NULL",
        "compare the result of the look-up with NULL before using it",
    ),
    (
        "_or_null'",
        "a pointer that is not NULL",
        "compare it with NULL before using it",
    ),
    (
        "invalid mem access 'scalar'",
        "a pointer that the verifier knows",
        "read other memory with bpf_probe_read_user() or bpf_probe_read_kernel()",
    ),
    (
        "invalid mem access",
        "a pointer to memory",
        "use a pointer to stack, map value, ring buffer record or packet",
    ),
    (
        "invalid bpf_context access",
        "a whole, aligned field of this program type's context that may be accessed so",
        "read fields as the context's type declares them",
    ),
    (
        "modified ctx ptr",
        "the context pointer as it came in r1",
        "put the offset into the load instead of adding to the pointer",
    ),
    (
        "to stack",
        "stack bytes between r10-512 and r10",
        "use less stack, or a per-CPU array as scratch memory",
    ),
    (
        "from stack",
        "stack bytes between r10-512 and r10 that may be read so",
        "initialise the bytes, and use less stack",
    ),
    (
        "combined stack size",
        "all frames of a call chain within 512 bytes",
        "move data to a map, or inline less deep calls",
    ),
    (
        "Unreleased reference",
        "every reference given back before the program ends",
        "submit, discard or release it on every path",
    ),
    (
        "infinite loop detected",
        "a loop in which something changes",
        "count the iterations, use bpf_loop() or bpf_for()",
    ),
    (
        "is too large. Processed",
        "a program whose paths fit in a million instructions",
        "give loops fewer iterations, or move their bodies to bpf_loop()",
    ),
    (
        "jumps is too complex",
        "fewer open branches",
        "simplify the conditions, or split the program with tail calls",
    ),
    (
        "invalid func unknown#195896080",
        "a field that exists on this system",
        "guard the access with bpf_core_field_exists()",
    ),
    (
        "invalid func unknown",
        "the number of a helper",
        "compile against the headers of a kernel that is not newer",
    ),
    (
        "cannot use helper",
        "a helper that programs of this type may call",
        "attach the code as another program type, or do without the helper",
    ),
    (
        "unknown func",
        "a helper that exists in user space",
        "see docs/support.md for those that do",
    ),
    (
        "GPL",
        "a licence that is compatible with the GPL",
        "declare `char LICENSE[] SEC(\"license\") = \"GPL\"`",
    ),
    (
        "expected=",
        "another kind of argument",
        "pass what the helper's prototype says",
    ),
    (
        "unreachable insn",
        "instructions that some path reaches",
        "remove the code behind the jump or exit",
    ),
    (
        "jump out of range",
        "a jump to an instruction of the same function",
        "check how the program was put together",
    ),
    (
        "frame pointer is read only",
        "a destination from r0 to r9",
        "copy r10 to another register",
    ),
];

/// The lines that follow the kernel's words.
pub(super) fn explain(
    spec: &ProgramSpec,
    at: usize,
    insn: Option<&str>,
    fail: &Fail,
    found: Option<&str>,
) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let value = value.trim().replace('\n', " ");
        text.push_str(&format!("  {name:<9} {value}\n"));
    };
    if let Some(index) = line_of(&spec.info.lines, at) {
        let source = &spec.info.lines[index];
        let place = format!("{}:{}:{}", source.file, source.line, source.column);
        line("source:", &format!("{place}: {}", source.text.trim()));
    }
    let function = spec.info.functions.iter().rfind(|f| f.insn as usize <= at);
    if let (Some(insn), Some(function)) = (insn, function) {
        line(
            "code:",
            &format!("{insn} in {}(), instruction {at}", function.name),
        );
    }
    let row = REASONS.iter().find(|row| fail.text.contains(row.0));
    if let Some((_, expected, _)) = row {
        line("expected:", expected);
    }
    if let Some(found) = found.filter(|found| !found.is_empty()) {
        line("found:", found);
    }
    if let Some(help) = fail.hint.or(row.map(|row| row.2)) {
        line("help:", help);
    }
    text
}
