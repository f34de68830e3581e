//! Clients that know no manners: half a request, too long a head, none for
//! ever; and tokens that are not those of today.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use bpftime_tests::http::Server;
use bpftime_tests::{World, wait};
use serde_json::{Value, json};

use super::Service;
use super::refusals::{TOKEN, tcp, with_token};

fn address(service: &Service) -> SocketAddr {
    match tcp(service) {
        Server::Tcp(address) => address,
        Server::Unix(path) => panic!("{}", path.display()),
    }
}

/// A connection on which this was said.
fn said(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream
        .set_read_timeout(Some(wait::LONG))
        .expect("a timeout");
    // Who is refused early may not take all of it.
    let _ = stream.write_all(bytes);
    stream
}

/// What comes until the other side ends it.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_token_may_be_replaced() {
    let world = World::new();
    let service = with_token(&world);
    let file = world.home().join("token");
    let path = file.to_str().expect("a path");
    let write = |token: &str| {
        let next = world.home().join("next");
        fs::write(&next, token).expect("a file");
        fs::rename(&next, &file).expect("a file");
    };
    let server = tcp(&service);
    let status = |token: &str| {
        let value = format!("Bearer {token}");
        let headers = [("Authorization", value.as_str())];
        server.ask("GET", "/v1/programs", &headers, "").status
    };
    let other = TOKEN.replace('f', "e");
    assert_eq!((status(TOKEN), status(&other)), (200, 401));
    write(&other);
    assert_eq!((status(TOKEN), status(&other)), (401, 200));
    // While there is none, nobody has it; the service's user is told once.
    write("short");
    assert_eq!(
        (status(&other), status("short"), status("")),
        (401, 401, 401)
    );
    fs::remove_file(&file).expect("the file");
    assert_eq!(status(&other), 401);
    let told = format!(
        "bpftime: {path}: holds no token of 16 or more printable characters: make one: openssl rand -hex 32\n"
    );
    service.program.wait_stderr(&told);
    let all = service.program.stderr();
    assert_eq!(all.matches(path).count(), 1, "{all}");
    write(TOKEN);
    assert_eq!((status(TOKEN), status(&other)), (200, 401));
}

#[test]
fn half_requests_and_long_heads_are_answered_or_dropped() {
    let world = World::new();
    let service = Service::start(&world, &["--listen", "127.0.0.1:0"]);
    let address = address(&service);
    let long = format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}",
        "x".repeat(1 << 20)
    );
    let many = format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "x: y\r\n".repeat(500)
    );
    for head in [long, many] {
        let answer = rest(said(address, head.as_bytes()));
        let refused = answer.starts_with("HTTP/1.1 431 ") || answer.is_empty();
        assert!(refused, "{answer}");
    }
    for bytes in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc"[..],
        b"GET\n\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let answer = rest(said(address, bytes));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let post = |length: &str, body: &str| {
        format!("POST /v1/programs HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n{body}")
    };
    // A body that is cut, one without an end, and one of two lengths.
    for (length, body) in [
        ("Content-Length: 100", "{\"source\": \"/x\""),
        ("Transfer-Encoding: chunked", "5\r\n{\"sou"),
        ("Content-Length: 2\r\nContent-Length: 3", "{}"),
    ] {
        let stream = said(address, post(length, body).as_bytes());
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("a stream");
        let answer = rest(stream);
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.is_empty();
        assert!(refused, "{answer}");
    }
    let (_, list) = service.server.json("GET", "/v1/programs", &Value::Null);
    assert_eq!(list, json!({ "programs": [] }));
}

/// Those who hold connections and ask for nothing make room for others, and
/// those who do what they may are left alone.
#[test]
fn nobody_waits_for_those_who_ask_for_nothing() {
    const MANY: usize = 300;
    let world = World::new();
    let service = with_token(&world);
    let address = address(&service);
    let server = Server::Tcp(address);
    let token = format!("Bearer {TOKEN}");
    let headers = [("Authorization", token.as_str())];
    let object = world.fixture("reports.bpf.o");
    let go = world.home().join("go");
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; echo over",
        go.display()
    );
    service.run(&json!({
        "name": "one", "source": object, "options": ["--attach", "on_call=off"], "args": ["--", "sh", "-c", script],
    }));
    let follower = server.ask("GET", "/v1/programs/one/follow", &headers, "");
    assert_eq!(follower.status, 200);

    let strangers: Vec<TcpStream> = (0..MANY)
        .map(|n| match n % 3 {
            0 => said(address, b""),
            1 => said(
                address,
                b"GET /v1/programs HTTP/1.1\r\nHost: localhost\r\nX: ",
            ),
            // Its answer is all that it gets.
            _ => said(
                address,
                b"GET /v1/programs HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(server.ask("GET", "/metrics", &headers, "").status, 200);
    }
    let mut strangers = strangers.into_iter();
    let first = strangers.next().expect("a stranger");
    assert_eq!(rest(first), "", "the first has gone");
    // The last is there still, and may begin.
    let last = strangers.next_back().expect("a stranger");
    (&last)
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("a connection");
    let answers = rest(last);
    assert!(
        answers.starts_with("HTTP/1.1 401 ") && answers.ends_with("ok\n"),
        "{answers}"
    );
    fs::write(&go, "").expect("a file");
    assert!(follower.lines().any(|line| line.contains("\"over\"")));
}

/// A follower that stops reading costs no memory, and is told what it missed.
#[test]
fn who_reads_too_slowly_is_told_of_what_is_gone() {
    const LINES: u64 = 300_000;
    const MIB: u64 = 1 << 10;
    let world = World::new();
    let service = Service::start(&world, &["--log-bytes", "100000"]);
    let most = |service: &Service| {
        let path = format!("/proc/{}/status", service.program.pid());
        let status = fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
    };
    let before = most(&service);
    let ready = world.home().join("ready");
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; exec seq 1 {LINES}",
        ready.display()
    );
    service.run(&json!({
        "name": "many",
        "source": world.fixture("reports.bpf.o"),
        "options": ["--attach", "on_call=off"],
        "args": ["--", "sh", "-c", script],
    }));
    let slow = service
        .server
        .ask("GET", "/v1/programs/many/follow?cursor=0", &[], "");
    fs::write(&ready, "").expect("a file");
    service.wait("many", "state", "ended");
    let grown = most(&service) - before;
    assert!(grown < 16 * MIB, "{grown} KiB");
    let mut next = 0;
    let mut gaps = 0;
    for line in slow.lines() {
        let line: Value = serde_json::from_str(&line).expect("JSON");
        match line["dropped"].as_u64() {
            Some(dropped) => {
                assert!(dropped > 0);
                next += dropped;
                gaps += 1;
            }
            None => {
                assert_eq!(line["cursor"], next);
                next += 1;
            }
        }
    }
    assert!(gaps > 0 && next > LINES, "{gaps} {next}");
    assert_eq!(service.show("many")["log_next"], next);
}
