//! The guest's standard streams, which are the process's own. Who waits in one
//! of them hears at once that it is to end; wasmtime's wait where nobody is
//! heard, and keep what they read where `poll_oneoff` does not see it.

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::os::fd::{BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::PollFlags;
use tokio::io::{AsyncRead, AsyncWrite, empty};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::stop::Stop;

/// Most bytes that are read at a time.
const MOST: usize = 64 << 10;
/// So many bytes a pipe that can be written to takes without waiting (`PIPE_BUF`).
const CHUNK: usize = 4096;

/// Gives a guest the process's streams.
pub(crate) fn inherit(builder: &mut WasiCtxBuilder, stop: &Arc<Stop>) {
    let stream = |fd| Stream {
        fd,
        stop: Arc::clone(stop),
    };
    builder
        .stdin(stream(libc::STDIN_FILENO))
        .stdout(stream(libc::STDOUT_FILENO))
        .stderr(stream(libc::STDERR_FILENO));
}

/// One of them.
#[derive(Clone)]
struct Stream {
    fd: RawFd,
    stop: Arc<Stop>,
}

impl Stream {
    fn flags(&self) -> PollFlags {
        match self.fd {
            libc::STDIN_FILENO => PollFlags::POLLIN,
            _ => PollFlags::POLLOUT,
        }
    }

    /// Whether reading or writing would not wait; an error if nobody is to wait any more.
    fn is_ready(&self) -> StreamResult<bool> {
        self.stop.check().map_err(StreamError::Trap)?;
        Ok(ready(&[(self.fd, self.flags())]))
    }

    fn fd(&self) -> BorrowedFd<'static> {
        // SAFETY: the standard streams of a process are never closed by it.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// Whether one of these streams of the process can be read or written without
/// waiting. What cannot be waited for is ready, as for poll(2) of files.
pub(crate) fn ready(streams: &[(RawFd, PollFlags)]) -> bool {
    Stop::poll(streams, None, std::time::Duration::ZERO)
}

impl IsTerminal for Stream {
    /// Stdout always is: so a guest's C library hands on each line at once, also
    /// into a pipe, and none is lost when it is ended.
    fn is_terminal(&self) -> bool {
        match self.fd {
            libc::STDOUT_FILENO => true,
            _ => self.fd().is_terminal(),
        }
    }
}

impl StdinStream for Stream {
    /// Guests of preview 1 have none.
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl StdoutStream for Stream {
    /// Guests of preview 1 have none.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(empty())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl Pollable for Stream {
    fn ready<'a, 'f>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        // There is one thread, and nothing else waits for it.
        Box::pin(async { self.stop.wait(&[(self.fd, self.flags())], None) })
    }
}

impl InputStream for Stream {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 || !self.is_ready()? {
            return Ok(Bytes::new());
        }
        let mut bytes = vec![0; size.min(MOST)];
        match nix::unistd::read(self.fd(), &mut bytes) {
            Ok(0) => Err(StreamError::Closed),
            Ok(count) => {
                bytes.truncate(count);
                Ok(bytes.into())
            }
            // Somebody else has read it.
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Bytes::new()),
            Err(errno) => Err(failed(errno)),
        }
    }
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut left = bytes.as_ref();
        while !left.is_empty() {
            match nix::unistd::write(self.fd(), left) {
                Ok(count) => left = &left[count..],
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    self.stop.wait(&[(self.fd, self.flags())], None);
                    self.stop.check().map_err(StreamError::Trap)?;
                }
                // Who wants to hear of it ignores SIGPIPE; others were ended by that.
                Err(Errno::EPIPE) => return Err(StreamError::Closed),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.is_ready()? { CHUNK } else { 0 })
    }
}

/// What a guest gets as an errno.
fn failed(errno: Errno) -> StreamError {
    StreamError::LastOperationFailed(io::Error::from(errno).into())
}
