//! HTTP/1.1 as small as tests need it: one request a connection, over a Unix
//! socket or TCP. It knows no paths.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::wait::LONG;

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum Server {
    /// At a Unix socket.
    Unix(PathBuf),
    /// At an address.
    Tcp(SocketAddr),
}

/// Both directions of a connection.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A response whose body is read as it comes.
pub struct Response {
    /// The status.
    pub status: u16,
    /// Headers by their names in lower case.
    pub headers: BTreeMap<String, String>,
    stream: BufReader<Box<dyn Stream>>,
    /// Bytes left of the chunk that is being read.
    chunk: usize,
}

impl Server {
    /// Asks, with a body if it is not empty.
    ///
    /// # Panics
    /// If nobody answers.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut stream = self.connect();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += "Host: localhost\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .expect("a request");
        // A server may refuse a body before it has read it.
        let _ = stream.write_all(body.as_bytes());
        Response::begin(stream)
    }

    /// Asks with a body of JSON; the status and the answer.
    ///
    /// # Panics
    /// As [`Server::ask`].
    pub fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let response = self.ask(method, path, &[], &body);
        let status = response.status;
        let text = response.text();
        let answer = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).expect("JSON")
        };
        (status, answer)
    }

    /// Asks without a body; the answer's text.
    ///
    /// # Panics
    /// As [`Server::ask`], and if the status is not 200.
    pub fn text(&self, path: &str) -> String {
        let response = self.ask("GET", path, &[], "");
        assert_eq!(response.status, 200, "{path}");
        response.text()
    }

    fn connect(&self) -> Box<dyn Stream> {
        match self {
            Server::Unix(path) => {
                let stream = UnixStream::connect(path).expect("a server");
                stream.set_read_timeout(Some(LONG)).expect("a timeout");
                Box::new(stream)
            }
            Server::Tcp(address) => {
                let stream =
                    TcpStream::connect_timeout(address, Duration::from_secs(5)).expect("a server");
                stream.set_read_timeout(Some(LONG)).expect("a timeout");
                Box::new(stream)
            }
        }
    }
}

impl Response {
    fn begin(stream: Box<dyn Stream>) -> Response {
        let mut stream = BufReader::new(stream);
        let mut head = || {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a line of a head");
            line.trim_end().to_owned()
        };
        let first = head();
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = head().split_once(": ") {
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let status = status.unwrap_or_else(|| panic!("no response but {first:?}"));
        Response {
            status,
            headers,
            stream,
            chunk: 0,
        }
    }

    /// The whole body.
    ///
    /// # Panics
    /// If it breaks off.
    pub fn text(mut self) -> String {
        let mut text = String::new();
        self.read_to_string(&mut text).expect("a body");
        text
    }

    /// The body's lines.
    pub fn lines(self) -> impl Iterator<Item = String> {
        BufReader::new(self)
            .lines()
            .map(|line| line.expect("a line"))
    }
}

impl Read for Response {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if !self.headers.contains_key("transfer-encoding") {
            return self.stream.read(bytes);
        }
        if self.chunk == 0 {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            self.chunk = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
            if self.chunk == 0 {
                return Ok(0);
            }
        }
        let most = bytes.len().min(self.chunk);
        let read = self.stream.read(&mut bytes[..most])?;
        self.chunk -= read;
        if self.chunk == 0 {
            self.stream.read_exact(&mut [0; 2])?;
        }
        Ok(read)
    }
}
