//! Downloads that break off, go elsewhere or come twice at once, tags that
//! move, and caches that cannot be written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bpftime_tests::registry::sha256;
use bpftime_tests::web::{Answer, Asked};
use bpftime_tests::{Program, Registry, Web, World};
use serde_json::json;

use super::stub::stub;
use super::{MODULE, cached, file, pull, push, refused};

fn is_blob(asked: &Asked) -> bool {
    asked.path == format!("/v2/a/blobs/{}", sha256(MODULE))
}

/// The first byte that is wanted.
fn from(asked: &Asked) -> usize {
    let range = asked.headers.get("range").map(String::as_str);
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    range.map_or(0, |from| from.parse().expect("a number"))
}

/// Three bytes at a time; the rest is asked for.
#[test]
fn what_breaks_off_is_gone_on_with() {
    let world = World::new();
    let web = stub(|asked, _| {
        let from = from(asked);
        let rest = &MODULE[from..];
        let all = Answer {
            cut: (rest.len() > 3).then_some(3),
            ..Answer::ok(rest)
        };
        is_blob(asked).then(|| match from {
            0 => all,
            _ => Answer {
                status: "206 Partial Content".to_owned(),
                ..all.with(format!("Content-Range: bytes {from}-7/8"))
            },
        })
    });
    assert_eq!(pull(&world, &format!("{}/a:1", web.name)), MODULE);
    let asked = web.asked();
    let ranges: Vec<usize> = asked
        .iter()
        .filter(|asked| is_blob(asked))
        .map(from)
        .collect();
    assert_eq!(ranges, [0, 3, 6]);

    // Who knows no ranges sends all of it again.
    let world = World::new();
    let times = AtomicUsize::new(0);
    let web = stub(move |asked, _| {
        let cut = (times.load(Ordering::Relaxed) == 0).then_some(5);
        is_blob(asked).then(|| {
            times.fetch_add(1, Ordering::Relaxed);
            Answer {
                cut,
                ..Answer::ok(MODULE)
            }
        })
    });
    assert_eq!(pull(&world, &format!("{}/a:1", web.name)), MODULE);
}

#[test]
fn what_breaks_off_for_ever_is_said_in_a_line() {
    let said = |answer: fn(usize) -> Answer| {
        let world = World::new();
        let web = stub(move |asked, _| is_blob(asked).then(|| answer(from(asked))));
        let said = refused(&world, &[&format!("{}/a:1", web.name)]);
        let times = web.asked().iter().filter(|asked| is_blob(asked)).count();
        (said, times)
    };
    let cut = |_| Answer {
        cut: Some(5),
        ..Answer::ok(MODULE)
    };
    let (text, times) = said(cut);
    assert!(
        text.starts_with("the connection broke off (") && text.ends_with("): try again"),
        "{text}"
    );
    assert_eq!(times, 2, "nothing more came");
    // Shorter than its manifest says: asked for the rest, it has none.
    let short = |from: usize| match from {
        0 => Answer::ok(&MODULE[..5]),
        _ => Answer::status("416 Range Not Satisfiable"),
    };
    let text = "the connection broke off (5 of 8 bytes came): try again".to_owned();
    assert_eq!(said(short), (text, 2));
    let other = |_| Answer::ok(b"\0asm\x01\0\0\x07".to_vec());
    let (text, times) = said(other);
    assert!(
        text.starts_with("what came is not what was asked for (wanted "),
        "{text}"
    );
    assert_eq!(times, 1);
    let lost = |_| Answer::status("404 Not Found");
    let text = format!(
        "the registry has lost {}: ask who runs the registry",
        sha256(MODULE)
    );
    assert_eq!(said(lost), (text, 1));
    let ill = |_| Answer::status("503 Service Unavailable");
    let text = "the server answered with status 503: try again later".to_owned();
    assert_eq!(said(ill), (text, 1));
}

/// Blobs often lie elsewhere, where the login is nobody's business.
#[test]
fn redirects_are_followed_without_the_login() {
    let world = World::new();
    let store = Web::new(|_| Answer::ok(MODULE));
    let place = format!("Location: http://{}/store?signature=x", store.name);
    let web = stub(move |asked, _| {
        is_blob(asked).then(|| Answer::status("307 Temporary Redirect").with(place.clone()))
    });
    fs::create_dir(world.home().join(".docker")).expect("a directory");
    let auths = json!({ "auths": { &web.name: { "auth": "bWU6c2VjcmV0" } } });
    file(&world, ".docker/config.json", auths.to_string().as_bytes());
    assert_eq!(pull(&world, &format!("{}/a:1", web.name)), MODULE);
    let asked = web.asked();
    let asked = asked
        .iter()
        .find(|asked| is_blob(asked))
        .expect("a request");
    assert_eq!(asked.headers["authorization"], "Basic bWU6c2VjcmV0");
    let there = store.asked();
    assert_eq!(there.len(), 1);
    assert!(!there[0].headers.contains_key("authorization"), "{there:?}");
}

#[test]
fn tags_move_and_digests_do_not() {
    let world = World::new();
    let registry = Registry::open();
    let tag = format!("{}/a:1", registry.name);
    let mut newer = MODULE.to_vec();
    newer.extend(b"\0\x02\x01x");
    let first = push(&world, &[&file(&world, "a.wasm", MODULE), &tag]);
    assert_eq!(pull(&world, &tag), MODULE);
    let second = push(&world, &[&file(&world, "a.wasm", &newer), &tag]);
    assert_eq!(pull(&world, &tag), newer);
    assert_eq!(pull(&world, &first), MODULE);
    // A digest says what a tag beside it would.
    let (_, digest) = second.split_once('@').expect("a digest");
    assert_eq!(pull(&world, &format!("{tag}@{digest}")), newer);
}

/// A registry that gives another manifest for a digest.
#[test]
fn a_digest_is_not_what_a_registry_says() {
    let world = World::new();
    let wanted = sha256(b"another");
    let path = format!("/v2/a/manifests/{wanted}");
    let web = stub(move |asked, _| (asked.path == path).then(|| Answer::ok("{}")));
    let said = refused(&world, &[&format!("{}/a@{wanted}", web.name)]);
    let got = sha256(b"{}");
    assert_eq!(
        said,
        format!(
            "what came is not what was asked for (wanted {wanted}, got {got}): do not trust it; ask who published it"
        )
    );
    assert!(!cached(&world, &wanted).exists());
}

/// All of them ask at the same time, and each gets all of it.
#[test]
fn many_pull_the_same_at_once() {
    const MANY: usize = 8;
    let world = World::new();
    let meet = Arc::new(std::sync::Barrier::new(MANY));
    let web = stub(move |asked, _| {
        if is_blob(asked) {
            meet.wait();
        }
        None
    });
    let tag = format!("{}/a:1", web.name);
    let path = |n: usize| world.home().join(n.to_string());
    let pulls: Vec<Program> = (0..MANY)
        .map(|n| {
            let path = path(n);
            let words = ["pull", &tag, "-o", path.to_str().expect("a path")];
            Program::on_pipes(world.bpftime(&words))
        })
        .collect();
    for (n, pull) in pulls.into_iter().enumerate() {
        let exit = pull.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
        assert_eq!(fs::read(path(n)).expect("a file"), MODULE);
    }
    let blob = cached(&world, &sha256(MODULE));
    assert_eq!(fs::read(&blob).expect("the cache"), MODULE);
    let kept = fs::read_dir(blob.parent().expect("a directory")).expect("the cache");
    assert_eq!(
        kept.count(),
        2,
        "manifest and module, and nothing half written"
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_read() {
    let Some(world) = World::kernel().map(|_| World::new()) else {
        return;
    };
    let registry = Registry::open();
    let tag = format!("{}/a:1", registry.name);
    push(&world, &[&file(&world, "a.wasm", MODULE), &tag]);
    let cache = world.home().join(".cache/bpftime/blobs/sha256");
    let lock = |mode: u32, owner: u32| {
        chown(&cache, Some(owner), None).expect("the cache");
        fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).expect("the cache");
    };
    fs::create_dir_all(&cache).expect("a directory");
    lock(0o555, 0);
    assert_eq!(pull(&world, &tag), MODULE);
    assert_eq!(fs::read_dir(&cache).expect("the cache").count(), 0);
    lock(0o755, world.uid());
    assert_eq!(pull(&world, &tag), MODULE);
    lock(0o555, 0);
    // What is there serves, as it does when nothing may be written.
    registry.damage(&sha256(MODULE), b"\0asm\x01\0\0\x07");
    assert_eq!(pull(&world, &tag), MODULE);
    lock(0o755, world.uid());
}
