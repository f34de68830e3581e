//! `bpftime serve` from the outside: clients of its API as an ordinary user.
//!
//! `programs` (start, follow, pause, stop, ends), `peers` (others' API),
//! `refusals` (who may not, and what cannot be), `strangers` (clients that
//! behave badly), `metrics` and `shapes` (what is made of what programs say),
//! `exposition` and `otlp` (these formats, read strictly), `documents` (what is
//! written about it).

mod documents;
mod ends;
mod exposition;
mod metrics;
mod otlp;
mod peers;
mod programs;
mod refusals;
mod shapes;
mod strangers;

use std::path::PathBuf;

use bpftime_tests::http::Server;
use bpftime_tests::{Program, World, wait};
use serde_json::{Value, json};

/// A running service of a world.
struct Service {
    program: Program,
    server: Server,
}

impl Service {
    fn start(world: &World, options: &[&str]) -> Service {
        let socket = socket(world);
        let mut words = vec!["serve", "--socket", socket.to_str().expect("a path")];
        words.extend(options);
        let mut command = world.bpftime(&words);
        command.env("TMPDIR", world.home());
        let program = Program::on_pipes(command);
        program.wait_stderr("serving at ");
        let server = Server::Unix(socket);
        Service { program, server }
    }

    /// Starts a program and returns what is said of it.
    fn run(&self, request: &Value) -> Value {
        let (status, shown) = self.server.json("POST", "/v1/programs", request);
        assert_eq!(status, 201, "{shown}");
        shown
    }

    fn show(&self, id: &str) -> Value {
        let (status, shown) = self
            .server
            .json("GET", &format!("/v1/programs/{id}"), &Value::Null);
        assert_eq!(status, 200, "{shown}");
        shown
    }

    /// Asks for something to be done with a program.
    fn tell(&self, id: &str, what: &str) -> Value {
        let path = format!("/v1/programs/{id}/{what}");
        let (status, shown) = self.server.json("POST", &path, &Value::Null);
        assert_eq!(status, 200, "{shown}");
        shown
    }

    /// All that a program printed on a stream, when it has ended.
    fn printed(&self, id: &str, stream: &str) -> Vec<String> {
        let response = self.server.ask(
            "GET",
            &format!("/v1/programs/{id}/follow?cursor=0"),
            &[],
            "",
        );
        let lines = response
            .lines()
            .map(|line| serde_json::from_str(&line).expect("JSON"));
        lines
            .filter(|line: &Value| line["stream"] == stream)
            .map(|line| text(&line["text"]).to_owned())
            .collect()
    }

    /// Waits until a program has told how far it is.
    fn wait_line(&self, id: &str, text: &str) {
        wait::until_true(text, wait::LONG, || {
            self.server
                .text(&format!("/v1/programs/{id}/log"))
                .contains(text)
        });
    }

    /// Waits until a field of a program is as wanted.
    fn wait(&self, id: &str, field: &str, value: impl Into<Value>) {
        let value = value.into();
        wait::until_true(&format!("{field} is {value}"), wait::LONG, || {
            self.show(id)[field] == value
        });
    }
}

fn socket(world: &World) -> PathBuf {
    world.home().join("s.sock")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// Runs the fixture `reports` on the calls of `path`'s function.
fn reports(world: &World, path: &str, function: &str) -> Value {
    let attach = format!("on_call={}:{function}", world.fixture(path).display());
    json!({ "source": world.fixture("reports.bpf.o"), "options": ["--attach", attach] })
}

/// The same on three calls of `tgt`, with it.
fn three_calls(world: &World) -> Value {
    let mut request = reports(world, "tgt", "tgt_add");
    request["args"] = json!(["--", world.fixture("tgt"), "3", "0"]);
    request
}
