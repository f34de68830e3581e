//! Counts in slots, drawn as BPF tools draw them.

use std::fmt::Write;
use std::ops::RangeInclusive;

/// What slots stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// Slot `n` is of values whose highest bit is `n`.
    Log2,
    /// Slot `n` is of the value `n` times the step, and up to the next, from
    /// what slot 0 stands for on.
    Linear {
        /// The least value of slot 0.
        base: i64,
        /// Values in a slot.
        step: u64,
    },
}

/// A histogram of counts.
pub struct Histogram<'a> {
    /// How often, by slot.
    pub counts: &'a [u64],
    /// What slots stand for.
    pub steps: Steps,
    /// What is counted, above the slots.
    pub unit: &'a str,
}

impl Histogram<'_> {
    /// Its lines, up to the last slot that counts; none if none does.
    pub fn draw(&self) -> String {
        let mut text = String::new();
        let counts = |&count: &u64| count > 0;
        let (Some(first), Some(last)) = (
            self.counts.iter().position(counts),
            self.counts.iter().rposition(counts),
        ) else {
            return text;
        };
        match self.steps {
            Steps::Log2 => self.log2(last, &mut text),
            Steps::Linear { base, step } => self.linear(first..=last, base, step, &mut text),
        }
        text
    }

    /// As `print_log2_hist` of the BPF tools: wider from slot 33 on.
    fn log2(&self, last: usize, text: &mut String) {
        let (indent, label, width, stars) = match last > 32 {
            false => (5, 19, 10, 40),
            true => (15, 29, 20, 20),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:indent$}{:<label$} : count    distribution",
            "", self.unit
        );
        for (slot, &count) in self.counts[..=last].iter().enumerate() {
            let bit = slot.min(126);
            let low = if slot == 0 { 0 } else { 1u128 << bit };
            let high = (1u128 << (bit + 1)) - 1;
            let bar = self.bar(count, stars);
            let _ = writeln!(text, "{low:>width$} -> {high:<width$} : {count:<8} |{bar}|");
        }
    }

    /// As `print_linear_hist` of the BPF tools: from the first slot that counts.
    fn linear(&self, slots: RangeInclusive<usize>, base: i64, step: u64, text: &mut String) {
        let _ = writeln!(text, "     {:<13} : count     distribution", self.unit);
        for slot in slots {
            let value = i128::from(base) + slot as i128 * i128::from(step);
            let count = self.counts[slot];
            let bar = self.bar(count, 40);
            let _ = writeln!(text, "        {value:<10} : {count:<8} |{bar}|");
        }
    }

    fn bar(&self, count: u64, stars: usize) -> String {
        let most = self.counts.iter().copied().max().unwrap_or(1).max(1);
        let filled = (u128::from(count) * stars as u128 / u128::from(most)) as usize;
        format!("{:<stars$}", "*".repeat(filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_powers_of_two() {
        let histogram = Histogram {
            counts: &[1, 0, 4, 0],
            steps: Steps::Log2,
            unit: "value",
        };
        assert_eq!(
            histogram.draw(),
            "     value               : count    distribution
         0 -> 1          : 1        |**********                              |
         2 -> 3          : 0        |                                        |
         4 -> 7          : 4        |****************************************|
"
        );
    }

    #[test]
    fn slots_are_steps() {
        let histogram = Histogram {
            counts: &[0, 2, 0, 1],
            steps: Steps::Linear { base: -5, step: 10 },
            unit: "bytes",
        };
        assert_eq!(
            histogram.draw(),
            "     bytes         : count     distribution
        5          : 2        |****************************************|
        15         : 0        |                                        |
        25         : 1        |********************                    |
"
        );
        let none = Histogram {
            counts: &[0; 8],
            ..histogram
        };
        assert_eq!(none.draw(), "");
    }
}
