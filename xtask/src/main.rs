//! Developer tasks that are too long for `make test`: `cargo run -p
//! bpftime-xtask -- TASK`. The shell scripts beside it are what must run before
//! there is a compiler.

mod capture;
mod oracle;
mod soak;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["soak", rounds] => soak::run(rounds.parse()?, None),
        ["soak", rounds, seed] => soak::run(rounds.parse()?, Some(seed.parse()?)),
        ["capture", folder] => capture::run(folder.as_ref()),
        ["oracle", ref words @ ..] => oracle::run(words),
        _ => bail!(
            "usage: xtask soak ROUNDS [SEED] | xtask capture FOLDER | \
             xtask oracle FOLDER [OPTION…]"
        ),
    }
}
