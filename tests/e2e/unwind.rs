//! Functions that are left by other doors than return.

use bpftime_tests::World;

const ROUNDS: u64 = 20;

/// Runs `unwind` with probes on `symbol` in both worlds and compares counts.
fn counted(symbol: &str, options: &[&str], expected: u64) {
    for world in [World::kernel(), Some(World::new())].into_iter().flatten() {
        counted_in(&world, symbol, options, expected);
    }
}

/// Runs `unwind` with probes on `symbol`, whose calls or returns must be `expected`.
fn counted_in(world: &World, symbol: &str, options: &[&str], expected: u64) {
    let said = format!(
        "caught {0}\njumped {0}\nexited {0}\ncancelled {0}\nreturned {0}\ndestroyed {1}\n",
        ROUNDS,
        4 * ROUNDS
    );
    let path = world.fixture("unwind");
    let mut counter = world.fixture_tool("counter", options, &path, symbol);
    let exit = world
        .start(&[path.as_os_str(), ROUNDS.to_string().as_ref()])
        .finish();
    assert_eq!(
        (exit.code, exit.stderr.as_str(), &exit.stdout),
        (0, "", &said),
        "{:?}",
        world.mode()
    );
    assert_eq!(
        counter.ask("total"),
        expected.to_string(),
        "{symbol} {:?}",
        world.mode()
    );
}

#[test]
fn exceptions() {
    counted("unw_throw", &[], ROUNDS);
    counted("unw_middle", &[], ROUNDS);
    // The kernel's uretprobe ends the process here: its return address stops the unwinder.
    counted_in(&World::new(), "unw_throw", &["-r"], 0);
    counted_in(&World::new(), "unw_middle", &["-r"], 0);
}

#[test]
fn longjmp() {
    counted("unw_jump", &[], ROUNDS);
    counted("unw_jump", &["-r"], 0);
}

#[test]
fn thread_exit_and_cancellation() {
    counted("unw_exit", &["-r"], 0);
    counted("unw_cancel", &["-r"], 0);
    counted("unw_exit", &[], ROUNDS);
    counted("unw_cancel", &[], ROUNDS);
}

#[test]
fn ordinary_return_after_all_that() {
    counted("unw_return", &["-r"], ROUNDS);
}
