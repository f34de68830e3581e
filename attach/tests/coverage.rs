//! Where probes fit: at the functions, and at one instruction of each function,
//! of real libraries, mapped with room around and never run.

mod common;
#[path = "common/image.rs"]
mod image;

use std::collections::BTreeMap;

use bpftime_attach::{AttachError, Backend, Engine, HookId, Kind, Point, Refusal};
use common::Recorder;
use image::Image;

/// Attaches and detaches at all of `addrs`; at least so many of a thousand have
/// to take it, of those at which the kernel probes and that can be moved.
fn check(image: &Image, addrs: &[usize], least: usize) {
    let engine = Engine::new().expect("an engine");
    let probe = Recorder::leaked().probe();
    let point = |addr| Point {
        addr,
        kind: Kind::Entry,
        module: image.module.clone(),
    };
    let batch: Vec<_> = addrs.iter().map(|addr| (point(*addr), probe)).collect();
    let results = engine.attach(&batch);
    let mut refused: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut asked = addrs.len();
    for (result, addr) in results.iter().zip(addrs) {
        match result {
            Ok(_) => {}
            Err(AttachError::Refused {
                reason: Refusal::NotSupported | Refusal::Immovable,
                ..
            }) => asked -= 1,
            Err(AttachError::Refused { reason, .. }) => {
                let at = refused.entry(format!("{reason:?}")).or_default();
                at.push(addr - image.bias);
            }
            Err(other) => panic!("{other}"),
        }
    }
    let ids: Vec<HookId> = results.into_iter().filter_map(Result::ok).collect();
    engine.detach(&ids);
    let report = format!("{} of {asked}, refused {refused:x?}", ids.len());
    assert!(asked * 100 >= addrs.len() * 99, "{report}");
    assert!(ids.len() * 1000 >= asked * least, "{report}");
    assert!(engine.sites().is_empty());
}

fn check_file(path: &str) {
    if !std::path::Path::new(path).exists() {
        assert!(std::env::var_os("CI").is_none(), "needs {path}");
        return;
    }
    let image = image::map(path);
    assert!(image.functions.len() > 2000);
    check(&image, &image.module.function_entries(), 999);
    // Another copy: jumps that stay in padding would be in the way.
    let image = image::map(path);
    check(&image, &image.one_instruction_each(7), 990);
}

#[test]
fn libc() {
    check_file(image::PROMISED[0]);
}

#[test]
fn libstdcxx() {
    check_file(image::PROMISED[1]);
}

#[test]
fn libcrypto() {
    check_file(image::PROMISED[2]);
}

#[test]
fn libpython() {
    check_file(image::PROMISED[3]);
}

#[test]
fn bash() {
    check_file(image::PROMISED[4]);
}
