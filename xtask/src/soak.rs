//! `soak ROUNDS [SEED]`: kills tools and targets at random moments under load
//! and checks after each that nothing was lost, hung or left. A failure names
//! the seed.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tests::{Counted, Hot, Program, World, wait};

/// Longest life of anything, in microseconds.
const LONGEST: u64 = 30_000;

/// Numbers that look random and can be had again (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pause(&mut self) {
        std::thread::park_timeout(Duration::from_micros(self.roll(LONGEST)));
    }
}

/// Runs `rounds` rounds.
pub fn run(rounds: u32, seed: Option<u64>) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = seed.unwrap_or(now.as_secs()).max(1);
    let mut out = std::io::stdout();
    writeln!(out, "seed {seed}")?;
    let mut dice = Dice(seed);
    let world = World::new();
    for round in 0..rounds {
        match dice.roll(3) {
            0 => target_dies(&world, &mut dice)?,
            1 => tool_dies(&world, &mut dice)?,
            _ => both_die(&world, &mut dice)?,
        }
        world.expect_nothing_left();
        write!(out, "\r{} of {rounds}", round + 1)?;
        out.flush()?;
    }
    writeln!(out, "\nnothing lost, nothing left")?;
    Ok(())
}

fn counter(world: &World, dice: &mut Dice) -> Program {
    let options: &[&str] = if dice.roll(2) == 0 {
        &["-m", "0"]
    } else {
        &["-m", "0", "-r"]
    };
    world.fixture_tool("counter", options, &world.fixture("hot"), "hot_call")
}

/// Two targets of one tool; one is killed, the other and all counts stay.
fn target_dies(world: &World, dice: &mut Dice) -> Result<()> {
    let mut counter =
        world.fixture_tool("counter", &["-m", "0"], &world.fixture("hot"), "hot_call");
    let (victim, mut survivor) = (Hot::start(world, "victim"), Hot::start(world, "survivor"));
    dice.pause();
    let (_, killed) = victim.kill();
    dice.pause();
    ensure!(survivor.runs(), "a target died with another");
    let (_, ended) = survivor.kill();
    let (least, most) = (killed.start() + ended.start(), killed.end() + ended.end());
    let counted = Counted::by(&mut counter);
    for (way, count) in counted.ways() {
        ensure!(
            (least..=most).contains(&count),
            "{way} {count}, not in {least}..={most}"
        );
    }
    ensure!(counter.finish().code == 0, "the tool did not end well");
    Ok(())
}

/// Two tools on one target; one is killed, the other counts on.
fn tool_dies(world: &World, dice: &mut Dice) -> Result<()> {
    let mut hot = Hot::start(world, "tally");
    let (victim, mut survivor) = (counter(world, dice), counter(world, dice));
    dice.pause();
    victim.kill();
    dice.pause();
    let before = survivor.ask("total");
    wait::until_true("the other tool counts on", wait::LONG, || {
        survivor.ask("total") != before
    });
    ensure!(
        survivor.finish().code == 0,
        "the other tool did not end well"
    );
    ensure!(hot.runs(), "the target died with a tool");
    let (exit, _) = hot.kill();
    ensure!(
        exit.stdout.lines().count() == 1 && exit.stderr.is_empty(),
        "printed into a target: {exit:?}"
    );
    Ok(())
}

/// Everything is killed within a moment.
fn both_die(world: &World, dice: &mut Dice) -> Result<()> {
    let tool = counter(world, dice);
    let hot = Hot::start(world, "tally");
    dice.pause();
    if dice.roll(2) == 0 {
        hot.kill();
        tool.kill();
    } else {
        tool.kill();
        hot.kill();
    }
    Ok(())
}
