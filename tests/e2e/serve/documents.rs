use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bpftime_tests::{Program, World, wait};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Service, text, three_calls};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    fs::read_to_string(root.join(path)).expect(path)
}

/// Paths and their methods, as the document has them.
fn documented(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let methods = |operations: &Value| {
        let operations = operations.as_object().expect("operations");
        operations
            .keys()
            .filter(|name| *name != "parameters")
            .cloned()
            .collect()
    };
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .map(|(path, operations)| (path.clone(), methods(operations)))
        .collect()
}

/// The same, as the source has them.
fn routed() -> BTreeMap<String, BTreeSet<String>> {
    let mut routes = BTreeMap::new();
    for file in ["api", "peers"] {
        let source = read(&format!("cli/src/commands/serve/{file}.rs"));
        for route in source.split(".route(").skip(1) {
            let path = route.split('"').nth(1).expect("a path");
            let line = route.lines().next().expect("a line");
            let methods = ["get", "post", "delete", "put", "patch"];
            let has = |method: &&str| line.contains(&format!("{method}("));
            let methods = methods.into_iter().filter(has).map(str::to_owned).collect();
            assert!(routes.insert(path.to_owned(), methods).is_none(), "{path}");
        }
    }
    routes
}

/// Fields of a schema, and which of them are always there.
fn fields(document: &Value, schema: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let schema = &document["components"]["schemas"][schema];
    let all = schema["properties"]
        .as_object()
        .expect("properties")
        .keys()
        .cloned()
        .collect();
    let required = schema["required"].as_array().into_iter().flatten();
    (all, required.map(|name| text(name).to_owned()).collect())
}

fn names(value: &Value) -> BTreeSet<String> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect()
}

/// The fields that a refusal lists behind `expected one of`.
fn expected(message: &str) -> BTreeSet<String> {
    let (_, list) = message.split_once("expected one of ").expect("a list");
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_document_says_what_is_served() {
    let document: Value = serde_yaml_ng::from_str(&read("docs/openapi.yaml")).expect("YAML");
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(documented(&document), routed());

    let world = World::new();
    let service = Service::start(&world, &[]);
    assert_eq!(
        service.server.text("/openapi.yaml"),
        read("docs/openapi.yaml")
    );
    for (path, methods) in documented(&document) {
        let path = path.replace("{id}", "1");
        for method in ["get", "post", "delete", "put"] {
            let response = service.server.ask(&method.to_uppercase(), &path, &[], "{");
            let known = response.status != 405 && !response.text().contains("nothing is served");
            assert_eq!(known, methods.contains(method), "{method} {path}");
        }
    }

    let mut request = three_calls(&world);
    request["name"] = "calls".into();
    let shown = service.run(&request);
    let same = |schema: &str, value: &Value| {
        let (all, required) = fields(&document, schema);
        assert_eq!((&names(value), &all), (&required, &required), "{schema}");
    };
    same("Program", &shown);
    let id = shown["id"].to_string();
    service.wait(&id, "state", "ended");
    let ask = |method: &str, path: &str, body: Value| service.server.json(method, path, &body).1;
    same("Programs", &ask("GET", "/v1/programs", Value::Null));
    let log = ask("GET", "/v1/programs/calls/log", Value::Null);
    same("Log", &log);
    same("Line", &log["lines"][0]);
    same("Message", &ask("GET", "/v1/programs/none", Value::Null));
    same("TaskList", &ask("GET", "/task", Value::Null));
    same(
        "TaskLine",
        &ask("POST", "/log", json!({ "id": shown["id"] }))[0],
    );
    let refused = |body: Value| text(&ask("POST", "/v1/programs", body)["message"]).to_owned();
    let listed = expected(&refused(json!({ "no_such": 1 })));
    assert_eq!(listed, fields(&document, "Request").0);
    let listed = expected(&refused(json!({ "metrics": [{ "no_such": 1 }] })));
    assert_eq!(listed, fields(&document, "Metric").0);
}

/// What is written for shells does what is written behind it.
#[test]
fn the_recipes_work() {
    let page = read("docs/serve.md");
    let (_, block) = page.split_once("```sh\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let world = World::new();
    let service = Service::start(&world, &[]);
    let usual = world.home().join("bpftime.sock");
    std::os::unix::fs::symlink(super::socket(&world), usual).expect("a link");
    let object = world.fixture("reports.bpf.o");
    fs::copy(&object, world.home().join("opensnoop.bpf.o")).expect("the object");
    let attach = format!("on_call={}:puppet_step", world.fixture("puppet").display());
    let options = json!(["--attach", attach]);
    let source = format!("{}, \"options\": {options}", json!(object));
    let block = block.replace("\"/opt/probes/opensnoop.bpf.o\"", &source);
    let mut lines = block.lines().filter(|line| !line.is_empty());
    let function = lines.next().expect("a function");
    let mut told = |recipe: &str| {
        let line = lines.next().expect("a recipe");
        assert!(line.contains(recipe), "{line}");
        let script = format!("set -e -o pipefail; {function}\n{line}");
        let mut bash = world.plain(&["bash", "-c", &script]);
        bash.env("XDG_RUNTIME_DIR", world.home())
            .current_dir(world.home());
        let exit = Program::on_pipes(bash).finish();
        assert_eq!(
            (exit.code, exit.stderr.as_str()),
            (0, ""),
            "{line}: {exit:?}"
        );
        exit.stdout
    };
    let shown: Value = serde_json::from_str(&told("-d '{")).expect("JSON");
    assert_eq!(shown["name"], "opens");
    let shown: Value = serde_json::from_str(&told("-d @-")).expect("JSON");
    assert_eq!(shown["name"], "mine");
    service.wait("mine", "state", "ended");
    service.wait_line("opens", "attached");
    let mut puppet = world.puppet();
    assert_eq!(puppet.ask("call 1"), "ok");
    service.wait("opens", "events", 2);
    assert_eq!(
        told("@tsv"),
        "1\topens\trunning\t2\t0\n2\tmine\tended\t0\t0\n"
    );
    assert_eq!(told(".metrics"), "{}\n");
    let kept = told("/log");
    assert!(
        kept.starts_with("bpftime: attached; Ctrl-C ends\n{"),
        "{kept}"
    );
    assert_eq!(told("/pause"), "paused\n");
    assert_eq!(told("/stop"), "0\n");
    let followed = told("/follow");
    let events = followed.lines().filter(|line| line.contains("\"letter\""));
    assert_eq!(events.count(), 2, "{followed}");
    assert_eq!(told("DELETE"), "");
    assert_eq!(
        told("metrics"),
        "bpftime_events_total{program=\"mine\"} 0\n"
    );
    assert_eq!(puppet.finish().code, 0);
}

/// Its options are the command's, and it names what it mounts.
#[test]
fn the_manifest_is_whole() {
    let text = read("docs/kubernetes/daemonset.yaml");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let documents: Vec<Value> = documents
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect();
    let kinds: Vec<&str> = documents
        .iter()
        .map(|document| super::text(&document["kind"]))
        .collect();
    assert_eq!(kinds, ["Namespace", "Secret", "ConfigMap", "DaemonSet"]);
    let daemon = documents.last().expect("a DaemonSet");
    let pod = &daemon["spec"]["template"]["spec"];
    let selected = &daemon["spec"]["selector"]["matchLabels"];
    assert_eq!(&daemon["spec"]["template"]["metadata"]["labels"], selected);
    let container = &pod["containers"][0];
    let list = |value: &Value, field: &str| -> BTreeSet<String> {
        let all = value.as_array().expect("a list").iter();
        all.map(|one| super::text(&one[field]).to_owned()).collect()
    };
    assert_eq!(
        list(&container["volumeMounts"], "name"),
        list(&pod["volumes"], "name")
    );
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");

    let world = World::new();
    let help = world.run(&["serve", "--help"]).stdout;
    for word in container["args"].as_array().expect("arguments") {
        let option = super::text(word).split('=').next().expect("a word");
        assert!(
            option == "serve" || help.contains(&format!("{option} <")),
            "{option}"
        );
    }
    // The configuration in it is one.
    let config = world.home().join("config.yaml");
    let kept = super::text(&documents[2]["data"]["config.yaml"]);
    fs::write(&config, kept).expect("a file");
    let service = Service::start(&world, &["--config", config.to_str().expect("a path")]);
    wait::until_true("programs", wait::LONG, || {
        service
            .server
            .text("/metrics")
            .contains("# TYPE opens_total counter\n")
    });
}
