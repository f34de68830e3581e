//! Registries that send us for a token first: Debian's with a small server
//! that signs them, and one of our own whose tokens soon are too old.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bpftime_tests::registry::Signer;
use bpftime_tests::web::{Answer, Asked};
use bpftime_tests::{Registry, Web, World};
use serde_json::json;

use super::stub::stub;
use super::{MODULE, file, line, login, pull, push, refused};

/// What a user may show: user and password, or what stands for them.
fn knows(asked: &Asked) -> bool {
    let basic = format!("Basic {}", STANDARD.encode("me:secret"));
    match asked.method.as_str() {
        "POST" => {
            let words: Vec<&str> = asked.body.split('&').collect();
            let has = |word: &str| words.contains(&word);
            has("grant_type=refresh_token") && has("refresh_token=the+long%3Done")
        }
        _ => asked.headers.get("authorization") == Some(&basic),
    }
}

/// A word of a request, without its escapes.
fn word(asked: &Asked, name: &str) -> Option<String> {
    let query = asked.path.split('?').nth(1).unwrap_or_default();
    let found = query
        .split('&')
        .chain(asked.body.split('&'))
        .find_map(|word| word.strip_prefix(&format!("{name}=")))?;
    Some(
        found
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%2C", ","),
    )
}

#[test]
fn tokens_are_had_for_logins() {
    let world = World::new();
    let signer = Arc::new(Signer::new());
    let signs = signer.clone();
    let tokens = Web::new(move |asked| {
        let scope = word(asked, "scope").unwrap_or_default();
        let mut parts = scope.split(':').skip(1);
        let (name, actions) = (parts.next(), parts.next());
        match (knows(asked), name, actions) {
            (true, Some(name), Some(actions)) => {
                let actions: Vec<&str> = actions.split(',').collect();
                let token = signs.token(name, &actions);
                Answer::ok(json!({ "access_token": token }).to_string())
            }
            _ => Answer::status("401 Unauthorized"),
        }
    });
    let registry = Registry::with_tokens(&format!("http://{}/token?a=b", tokens.name), &signer);
    let name = registry.name.as_str();
    let path = file(&world, "a.wasm", MODULE);
    let tag = format!("{name}/tools/a:1");
    let wants = format!("the registry wants a login: bpftime login {name}");
    let all = format!("bpftime: {tag}: {wants}");
    assert_eq!(line(&world.run(&["push", &path, &tag])), (1, all));
    let login = |password: &str| login(&world, name, password);
    let not = format!("the registry does not accept the login: bpftime login {name}");
    assert_eq!(login("wrong"), (1, format!("bpftime: {name}: {not}")));
    assert_eq!(login("secret").0, 0);
    push(&world, &[&path, &tag]);
    assert_eq!(pull(&world, &tag), MODULE);
    let last = tokens.asked().pop().expect("a request");
    let words = ["scope", "service", "a"].map(|name| word(&last, name));
    assert_eq!(
        words.map(Option::unwrap_or_default),
        ["repository:tools/a:pull", "test", "b"]
    );

    // What stands for a login is exchanged, and refused like one.
    assert_eq!(line(&world.run(&["logout", name])).0, 0);
    fs::create_dir(world.home().join(".docker")).expect("a directory");
    let keep = |token: &str| {
        let entry = json!({ "auth": STANDARD.encode("me:"), "identitytoken": token });
        let text = json!({ "auths": { name: entry } }).to_string();
        file(&world, ".docker/config.json", text.as_bytes());
    };
    keep("the long=one");
    assert_eq!(pull(&world, &tag), MODULE);
    assert_eq!(tokens.asked().pop().expect("a request").method, "POST");
    keep("another");
    assert_eq!(refused(&world, &[&tag]), not);
}

/// A challenge by this server itself.
fn challenge(host: &str, more: &str) -> Answer {
    let said =
        format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"{more}");
    Answer::status("401 Unauthorized").with(said)
}

/// A token is good for two requests; and a registry that lets everybody in at
/// its door may want one behind it.
#[test]
fn tokens_that_are_too_old_are_renewed() {
    for asks_at_the_door in [true, false] {
        let world = World::new();
        let count = AtomicUsize::new(0);
        let uses = AtomicUsize::new(2);
        let web = stub(move |asked, host| {
            if asked.path.starts_with("/token?") {
                uses.store(0, Ordering::Relaxed);
                let token = format!("t{}", count.fetch_add(1, Ordering::Relaxed));
                return Some(Answer::ok(json!({ "token": token }).to_string()));
            }
            if asked.path == "/v2/" {
                return asks_at_the_door.then(|| challenge(host, ""));
            }
            let last = count.load(Ordering::Relaxed).checked_sub(1);
            let right = last.map(|last| format!("Bearer t{last}"));
            let known = right.is_some() && asked.headers.get("authorization") == right.as_ref();
            let fresh = uses.fetch_add(1, Ordering::Relaxed) < 2;
            let scope = ",scope=\"repository:a:pull\",error=\"invalid_token\"";
            (!known || !fresh).then(|| challenge(host, scope))
        });
        assert_eq!(pull(&world, &format!("{}/a:1", web.name)), MODULE);
        let asked = web.asked();
        let tokens = asked
            .iter()
            .filter(|asked| asked.path.starts_with("/token?"));
        let scopes: Vec<_> = tokens.map(|asked| word(asked, "scope")).collect();
        assert!(scopes.len() >= 2, "{asked:#?}");
        let wanted = Some("repository:a:pull".to_owned());
        assert!(scopes.iter().all(|scope| *scope == wanted), "{scopes:?}");
    }
}

#[test]
fn token_servers_that_do_not_do_it_are_named() {
    let refused_by = |answer: Answer| {
        let world = World::new();
        let web = stub(move |asked, host| match asked.path.as_str() {
            "/v2/" => Some(challenge(host, "")),
            path if path.starts_with("/token?") => Some(answer.clone()),
            _ => None,
        });
        let said = refused(&world, &[&format!("{}/a:1", web.name)]);
        said.replace(&web.name, "HOST")
    };
    let asks = "ask who runs the registry";
    for (answer, said) in [
        (
            Answer::status("500 Oh No"),
            format!("http://HOST/token gives no token (status 500): {asks}"),
        ),
        (
            Answer::ok("{}"),
            format!("http://HOST/token answers without a token: {asks}"),
        ),
        (
            Answer::ok("<html>"),
            format!("http://HOST/token answers without a token: {asks}"),
        ),
        (
            // It refuses what it gave a token for.
            Answer::status("403 Forbidden"),
            "the registry wants a login: bpftime login HOST".to_owned(),
        ),
    ] {
        assert_eq!(refused_by(answer), said);
    }
    let world = World::new();
    let nobody = stub(|asked, _| (asked.path == "/v2/").then(|| challenge("localhost:1", "")));
    let said = refused(&world, &[&format!("{}/a:1", nobody.name)]);
    let text =
        "its tokens cannot be had: http://localhost:1/token cannot be reached (Connection refused)";
    assert_eq!(said, format!("{text}: {asks}"));
    // For ever 401, whatever is shown.
    let never = stub(|asked, host| match asked.path.starts_with("/token?") {
        true => Some(Answer::ok("{\"token\": \"t\"}")),
        false => Some(challenge(host, "")),
    });
    let said = refused(&world, &[&format!("{}/a:1", never.name)]);
    let wants = format!("the registry wants a login: bpftime login {}", never.name);
    assert_eq!(said, wants);
    assert!(never.asked().len() < 9, "it gives up");
}
