//! What the fixture `counter` has counted, as numbers.

use crate::program::Program;

/// One `print` of a counter.
#[derive(Debug, Clone)]
pub struct Counted {
    lines: Vec<String>,
}

impl Counted {
    /// Asks a running `counter` for all it has.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn by(counter: &mut Program) -> Counted {
        counter.tell("print");
        let mut lines = counter.lines_until(|line| line == ".");
        lines.pop();
        Counted { lines }
    }

    /// The answer as text.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Sum of the counts in all lines that begin with `word`.
    ///
    /// # Panics
    /// If such a line has no number.
    pub fn sum(&self, word: &str) -> u64 {
        // A map's lines have the key before the count, a variable's have the count alone.
        let count = |line: &String| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let place = usize::from(words.clone().count() > 1);
            (name == word).then(|| {
                words
                    .nth(place)
                    .and_then(|number| number.parse::<u64>().ok())
                    .expect("a number")
            })
        };
        self.lines.iter().filter_map(count).sum()
    }

    /// Number of keys in the map `word`.
    pub fn keys(&self, word: &str) -> usize {
        self.lines
            .iter()
            .filter(|line| line.split(' ').next() == Some(word))
            .count()
    }

    /// The same number of calls by each way of counting, with its name.
    pub fn ways(&self) -> [(&'static str, u64); 4] {
        ["calls", "hash", "percpu_hash", "percpu_array"].map(|word| (word, self.sum(word)))
    }
}
