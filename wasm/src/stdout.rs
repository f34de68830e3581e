//! The guest's stdout, which it takes for a terminal: so its C library hands
//! on each line at once, also into a pipe, and none is lost when it is ended.

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::OutputStream;

/// The process's stdout.
pub(crate) struct Lines;

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        true
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        std::io::stdout().async_stream()
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        std::io::stdout().p2_stream()
    }
}
