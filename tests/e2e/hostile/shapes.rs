//! Every shape of the imports that a module may declare.

use bpftime_tests::wat::{self, PLAIN, Shape, name};
use bpftime_tests::{Program, World};

use super::{FIRST, OBJECT, callback};
use crate::objects::{run, text};

#[test]
fn every_shape_of_the_imports() {
    let story = |shape: Shape, extra: &str, items: &str, options: &[&str], poll: &str| {
        let world = World::new();
        let p = shape.pointer;
        let pause = "(call $pause)";
        let body = format!(
            "(call $say (call $load ({p}.const {OBJECT}) (i32.const SIZE)))
             (call $tell (call $map (i64.const 1) ({p}.const {ring})))
             (call $tell (call $map (i64.const 1) ({p}.const {counts})))
             (call $tell (call $attach_fd (i64.const 1) ({p}.const {on_call}) (i32.const -1)))
             (call $tell (call $attach (i64.const 1) ({p}.const {on_call}) ({p}.const 256)))
             {pause}
             {poll}
             (call $tell (call $operate (i32.const {map}) (i32.const 4) ({p}.const 0) ({p}.const 0) ({p}.const 1024) (i64.const 0)))
             (call $tell (call $operate (i32.const {map}) (i32.const 1) ({p}.const 1024) ({p}.const 1032) ({p}.const 0) (i64.const 0)))
             (call $say (i64.load (i32.const 1032)))
             (call $tell (call $close (i64.const 1)))",
            ring = name("ring"),
            counts = name("counts"),
            on_call = name("on_call"),
            map = FIRST + 1,
        );
        let module = wat::guest(&world, shape, extra, items, &body);
        let mut words = options.to_vec();
        words.push(text(&module));
        let mut guest = Program::on_pipes(run(&world, &words));
        guest.lines_until(|line| line == "0");
        let target = world.fixture("tgt");
        assert_eq!(world.start(&[text(&target), "1", "0"]).finish().code, 0);
        guest.tell("");
        let exit = guest.finish();
        assert_eq!(exit.code, 0, "{exit:?}");
        exit.stdout.replace('\n', " ")
    };
    let expected = "1 65536 65537 -22 0 0 1 0 0 1 0 ";
    for namespace in ["wasm_bpf", "env"] {
        for pointer in ["i32", "i64"] {
            let shape = Shape { namespace, pointer };
            let poll = format!(
                "(call $tell (call $poll (i64.const 1) (i32.const {FIRST}) (i32.const 1) (i32.const 0)
                   ({pointer}.const 1024) (i32.const 64) (i32.const 10000)))"
            );
            let said = story(shape, "", &callback(""), &[], &poll);
            assert_eq!(said, expected, "{shape:?}");
        }
    }
    // Compilers whose functions are in no table.
    for (wrapper, export, options) in [
        ("callback-wrapper", "go-callback", vec![]),
        (
            "w",
            "c",
            vec!["--wrapper-module-name", "w", "--callback-export-name=c"],
        ),
    ] {
        let extra = format!(
            "(import \"{wrapper}\" \"wasm_bpf_buffer_poll\"
               (func $poll_exported (param i64 i32 i32 i32 i32 i32) (result i32)))"
        );
        let items = format!(
            "(func (export \"{export}\") (type $callback) (call $tell (i32.load (local.get 1))) (i32.const 0))"
        );
        let poll = format!(
            "(call $tell (call $poll_exported (i64.const 1) (i32.const {FIRST}) (i32.const 0)
               (i32.const 1024) (i32.const 64) (i32.const 10000)))"
        );
        assert_eq!(
            story(PLAIN, &extra, &items, &options, &poll),
            expected,
            "{wrapper}"
        );
    }
}
