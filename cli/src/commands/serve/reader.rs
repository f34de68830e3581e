//! Lines from a program's two streams, as they come, into its log and its
//! metrics.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::log::Stream;
use super::program::Program;

/// A line that is longer comes in pieces.
const LINE: usize = 256 << 10;
/// How `bpftime run` tells of records that were lost.
const LOST: &str = " records were lost";

/// Reads both streams to their ends.
pub fn start(program: &Arc<Program>, child: &mut Child) -> Vec<JoinHandle<()>> {
    let mut readers = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        readers.push(tokio::spawn(read(program.clone(), stdout, Stream::Stdout)));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.push(tokio::spawn(read(program.clone(), stderr, Stream::Stderr)));
    }
    readers
}

async fn read(program: Arc<Program>, mut from: impl AsyncRead + Unpin, stream: Stream) {
    let mut bytes = Vec::with_capacity(64 << 10);
    loop {
        let read = from.read_buf(&mut bytes).await;
        let ended = !matches!(read, Ok(1..));
        program.change(|inner| {
            let used = lines(&bytes, ended, |line| {
                let text = String::from_utf8_lossy(line).into_owned();
                match stream {
                    Stream::Stdout => inner.lost += inner.metrics.line(&text),
                    _ => inner.lost += lost(&text),
                }
                inner.log.push(stream, text);
            });
            bytes.drain(..used);
        });
        if ended {
            return;
        }
    }
}

/// Gives away lines, and what is too long for one; returns how many bytes these were.
fn lines(bytes: &[u8], ended: bool, mut line: impl FnMut(&[u8])) -> usize {
    let mut used = 0;
    while used < bytes.len() {
        let rest = &bytes[used..];
        let end = rest.iter().take(LINE).position(|byte| *byte == b'\n');
        match end {
            Some(end) => {
                line(&rest[..end]);
                used += end + 1;
            }
            None if ended || rest.len() >= LINE => {
                let end = rest.len().min(LINE);
                line(&rest[..end]);
                used += end;
            }
            None => break,
        }
    }
    used
}

/// How many records a line says were lost; others' lines may have the same words.
fn lost(line: &str) -> u64 {
    let Some((before, _)) = line.split_once(LOST) else {
        return 0;
    };
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_pieces() {
        let told = |text: &str, ended| {
            let mut all = Vec::new();
            let used = lines(text.as_bytes(), ended, |line| all.push(line.len()));
            (all, used)
        };
        assert_eq!(told("a\n\nbcd", false), (vec![1, 0], 3));
        assert_eq!(told("a\n\nbcd", true), (vec![1, 0, 3], 6));
        let long = "x".repeat(LINE + 1);
        assert_eq!(told(&long, false), (vec![LINE], LINE));
        assert_eq!(told(&long, true), (vec![LINE, 1], LINE + 1));
    }

    #[test]
    fn lost_records_are_numbers() {
        let line = "bpftime: events: 17 records were lost, for the buffer was full";
        assert_eq!(
            (lost(line), lost("no records were lost"), lost("")),
            (17, 0, 0)
        );
    }
}
