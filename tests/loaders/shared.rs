//! What the tools in Rust share: their command line, bytes as numbers, and how
//! they show what they saw. It knows no loader.

use std::io::Write;

use anyhow::{Result, anyhow};

/// The words of the command line.
pub fn arguments<const COUNT: usize>() -> Result<[String; COUNT]> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    words
        .try_into()
        .map_err(|words| anyhow!("not {COUNT} arguments: {words:?}"))
}

/// The first four bytes.
pub fn int(bytes: &[u8]) -> i32 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

/// The first eight bytes.
pub fn long(bytes: &[u8]) -> i64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| i64::from_ne_bytes(*bytes))
}

/// A record of the ring buffer.
pub fn entry(bytes: &[u8]) -> String {
    let text = bytes.get(4..).unwrap_or_default();
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    format!("entry {} {}", int(bytes), String::from_utf8_lossy(text))
}

/// A record of the perf buffers.
pub fn result(bytes: &[u8]) -> String {
    let value = bytes.get(8..).unwrap_or_default();
    format!("result {} cookie {}", long(value), long(bytes))
}

/// Shows a line.
pub fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Shows lines in order, and that these were all.
pub fn show(lines: &mut Vec<String>) -> Result<()> {
    lines.sort();
    lines.push("end".to_owned());
    say(&lines.join("\n"))?;
    lines.clear();
    Ok(())
}
