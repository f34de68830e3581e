use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bpftime_tests::World;
use bpftime_tests::http::Server;
use serde_json::{Value, json};

use super::{Service, socket, text};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn what_makes_no_sense_is_refused_in_a_line() {
    let world = World::new();
    let service = Service::start(&world, &["--max-programs", "1", "--max-followers", "1"]);
    let told = |method: &str, path: &str, body: &str| {
        let response = service.server.ask(method, path, &[], body);
        let status = response.status;
        let answer: Value = serde_json::from_str(&response.text()).expect("JSON");
        (status, text(&answer["message"]).to_owned())
    };
    let large = format!("{{\"data\": \"{}\"}}", "A".repeat(33 << 20));
    let programs = "/v1/programs";
    for (method, path, body, status, message) in [
        (
            "POST",
            programs,
            "{",
            400,
            "body: not as wanted (EOF while parsing an object at line 1 column 1): see /openapi.yaml",
        ),
        (
            "POST",
            programs,
            "{}",
            400,
            "program: neither or both of `source` and `data` are given: give one of them",
        ),
        (
            "POST",
            programs,
            r#"{"data": "!"}"#,
            400,
            "program: not base64 (Invalid symbol 33, offset 0.): encode the file's bytes",
        ),
        (
            "POST",
            programs,
            r#"{"source": "-x"}"#,
            400,
            "source \"-x\": names nothing to run: give a path, a URL or an image",
        ),
        (
            "POST",
            programs,
            r#"{"source": "x", "name": "1"}"#,
            400,
            "name \"1\": no program may have it: use a letter, then up to 63 letters, digits and _ - .",
        ),
        (
            "POST",
            programs,
            r#"{"source": "x", "interval": 0}"#,
            400,
            "interval: no time to wait: give seconds, at least 0.01",
        ),
        (
            "POST",
            programs,
            r#"{"source": "x", "metrics": [{"name": "a", "type": "gauge"}]}"#,
            400,
            "metric a: `value` names no field: see docs/serve.md",
        ),
        (
            "POST",
            programs,
            large.as_str(),
            413,
            "body: larger than 32 MiB: give the program's path instead",
        ),
        (
            "GET",
            "/v1/programs/7",
            "",
            404,
            "program \"7\": there is none: GET /v1/programs lists them",
        ),
        (
            "POST",
            "/v1/programs/7/pause",
            "",
            404,
            "program \"7\": there is none: GET /v1/programs lists them",
        ),
        (
            "POST",
            "/stop",
            r#"{"id": 7}"#,
            404,
            "program 7: there is none: GET /v1/programs lists them",
        ),
        (
            "GET",
            "/v2",
            "",
            404,
            "request: nothing is served at this path: see /openapi.yaml",
        ),
        (
            "PUT",
            programs,
            "",
            405,
            "request: not by this method: see /openapi.yaml",
        ),
    ] {
        assert_eq!(
            told(method, path, body),
            (status, message.to_owned()),
            "{method} {path}"
        );
    }

    let object = world.fixture("reports.bpf.o");
    let sleeper = json!({
        "name": "one", "source": object, "options": ["--attach", "on_call=off"], "args": ["--", "sleep", "1000"],
    });
    service.run(&sleeper);
    let full = "program: 1 run already: stop one, or raise --max-programs";
    assert_eq!(
        told("POST", programs, &sleeper.to_string()),
        (503, full.into())
    );
    let follower = service
        .server
        .ask("GET", "/v1/programs/one/follow", &[], "");
    assert_eq!(follower.status, 200);
    let full = "follow: 1 follow already: end one";
    assert_eq!(
        told("GET", "/v1/programs/one/follow", ""),
        (503, full.into())
    );
    service.tell("one", "stop");
    let ended = "program one: is not running: GET /v1/programs shows states";
    assert_eq!(
        told("POST", "/v1/programs/one/pause", ""),
        (409, ended.into())
    );
    assert_eq!(told("POST", "/pause", r#"{"id": 1}"#), (400, ended.into()));
}

#[test]
fn a_name_stands_for_one_running_program() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let object = world.fixture("reports.bpf.o");
    let request = json!({
        "name": "one", "source": object, "options": ["--attach", "on_call=off"], "args": ["--", "sleep", "1000"],
    });
    service.run(&request);
    let (status, answer) = service.server.json("POST", "/v1/programs", &request);
    let message = "program one: runs already: stop it, or choose another name";
    assert_eq!((status, text(&answer["message"])), (409, message));
    service.tell("one", "stop");
    service.run(&request);
    assert_eq!(service.show("one")["id"], 2);
}

/// Over TCP, tokens are for those who come from elsewhere, and names keep
/// pages in browsers away.
#[test]
fn strangers_are_refused() {
    let world = World::new();
    let service = with_token(&world);
    let server = tcp(&service);
    let status = |path: &str, headers: &[(&str, &str)]| server.ask("GET", path, headers, "").status;
    let right = format!("Bearer {TOKEN}");
    let wrong = format!("Bearer {}", TOKEN.replace('f', "e"));
    let list = "/v1/programs";
    assert_eq!(status(list, &[]), 401);
    assert_eq!(status(list, &[("Authorization", &wrong)]), 401);
    assert_eq!(status(list, &[("Authorization", &right)]), 200);
    assert_eq!(status("/metrics", &[]), 401);
    assert_eq!(status("/healthz", &[]), 200);
    assert_eq!(
        status(list, &[("Authorization", &right), ("Host", "evil.example")]),
        403
    );
    assert_eq!(
        status(
            list,
            &[("Authorization", &right), ("Origin", "http://localhost")]
        ),
        403
    );
    let response = server.ask("GET", list, &[], "");
    assert_eq!(response.headers["www-authenticate"], "Bearer");
    let message = "{\"message\":\"token: missing or wrong: send Authorization: Bearer TOKEN\"}";
    assert_eq!(response.text(), message);
    // Who owns the socket needs none.
    assert_eq!(service.server.ask("GET", list, &[], "").status, 200);
    let mode = fs::metadata(socket(&world))
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn loopback_needs_no_token_but_its_name() {
    let world = World::new();
    let service = Service::start(&world, &["--listen", "127.0.0.1:0"]);
    let server = tcp(&service);
    let status = |headers: &[(&str, &str)]| server.ask("GET", "/v1/programs", headers, "").status;
    assert_eq!(status(&[]), 200);
    assert_eq!(status(&[("Host", "127.0.0.1:8527")]), 200);
    assert_eq!(status(&[("Host", "rebound.example:8527")]), 403);
    assert_eq!(status(&[("Origin", "https://example.org")]), 403);
}

/// A service at an address that wants [`TOKEN`].
pub fn with_token(world: &World) -> Service {
    let file = world.home().join("token");
    fs::write(&file, format!("{TOKEN}\n")).expect("a file");
    let path = file.to_str().expect("a path");
    Service::start(world, &["--listen", "127.0.0.1:0", "--token-file", path])
}

pub fn tcp(service: &Service) -> Server {
    service.program.wait_stderr("http://");
    let said = service.program.stderr();
    let address = said.lines().find_map(|line| line.split_once("http://"));
    let address: Option<SocketAddr> = address.and_then(|(_, address)| address.parse().ok());
    Server::Tcp(address.expect("an address"))
}

#[test]
fn a_service_that_cannot_be_is_refused() {
    let world = World::new();
    let home = world.home();
    let (short, config, plain) = (home.join("short"), home.join("config"), home.join("plain"));
    fs::write(&short, "secret").expect("a file");
    fs::write(&config, "programs: []\nmetric: []\n").expect("a file");
    fs::write(&plain, "").expect("a file");
    let word = |path: &Path| path.to_str().expect("a path").to_owned();
    let socket = word(&home.join("t.sock"));
    for (words, line) in [
        (
            ["--listen", "0.0.0.0:0"].map(str::to_owned),
            "0.0.0.0:0: can be reached from elsewhere, and anybody could run programs: \
             give a token by --token-file, or listen at 127.0.0.1"
                .to_owned(),
        ),
        (
            ["--token-file".to_owned(), word(&short)],
            format!(
                "{}: holds no token of 16 or more printable characters: make one: openssl rand -hex 32",
                short.display()
            ),
        ),
        (
            ["--config".to_owned(), word(&config)],
            format!(
                "{}: unknown field `metric`, expected `programs` or `metrics` at line 2 column 1: see docs/serve.md",
                config.display()
            ),
        ),
        (
            ["--socket".to_owned(), word(&plain)],
            format!(
                "{}: is no socket: remove it, or name another path by --socket",
                plain.display()
            ),
        ),
        (
            ["--otlp", "ftp://collector"].map(str::to_owned),
            "ftp://collector/: is no HTTP URL: give a URL as http://collector:4318".to_owned(),
        ),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut all = vec!["serve"];
        if !words.contains(&"--socket") {
            all.extend(["--socket", &socket]);
        }
        all.extend(words);
        let exit = world.run(&all);
        let last = exit.stderr.lines().last().unwrap_or_default().to_owned();
        assert_eq!((exit.code, last), (1, format!("bpftime: {line}")));
    }
    let service = Service::start(&world, &[]);
    let path = word(&super::socket(&world));
    let second = world.run(&["serve", "--socket", &path]);
    let line = format!(
        "bpftime: {path}: another service is there: use that one, or name another path by --socket\n"
    );
    assert_eq!((second.code, second.stderr), (1, line));
    assert_eq!(service.server.text("/healthz"), "ok\n");
}
