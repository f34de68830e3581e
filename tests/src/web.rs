//! A web server of one test's own that answers as the test says, and remembers
//! what it was asked. It knows no paths.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What somebody asked.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// All of the body.
    pub body: String,
}

/// What it is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Status and reason.
    pub status: String,
    /// More headers, each as `Name: value`.
    pub headers: Vec<String>,
    /// The body; all of it is promised.
    pub body: Vec<u8>,
    /// How much of it is sent, if not all.
    pub cut: Option<usize>,
}

impl Answer {
    /// A status without a body.
    pub fn status(status: &str) -> Answer {
        Answer {
            status: status.to_owned(),
            ..Answer::default()
        }
    }

    /// All is well.
    pub fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            body: body.into(),
            ..Answer::status("200 OK")
        }
    }

    /// The same with another header.
    #[must_use]
    pub fn with(mut self, header: impl Into<String>) -> Answer {
        self.headers.push(header.into());
        self
    }
}

/// The server; it serves to the end of the test.
pub struct Web {
    /// `localhost:PORT`.
    pub name: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    /// One that answers by this.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (answer.clone(), log.clone());
                let stream = stream.expect("a connection");
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Web {
            name: format!("localhost:{port}"),
            asked,
        }
    }

    /// What it was asked until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// One request and its answer. A client that goes away is served no further.
fn serve(mut stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer, log: &Mutex<Vec<Asked>>) {
    let Some(asked) = read(&stream) else { return };
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked.clone());
    let answer = answer(&asked);
    let mut head = format!(
        "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for header in &answer.headers {
        head += &format!("{header}\r\n");
    }
    let end = match asked.method.as_str() {
        "HEAD" => 0,
        _ => answer.cut.unwrap_or(answer.body.len()),
    };
    let sent = stream.write_all(format!("{head}\r\n").as_bytes());
    drop(sent.and_then(|()| stream.write_all(&answer.body[..end])));
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let mut asked = Asked {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Asked::default()
    };
    while let Some((name, value)) = line()?.split_once(": ") {
        asked
            .headers
            .insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = asked.headers.get("content-length");
    let length = length.map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8_lossy(&body).into_owned();
    Some(asked)
}
