//! Counts in slots, drawn as BPF tools draw them.

use std::fmt::Write;

/// What slots stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// Slot `n` is of values whose highest bit is `n`.
    Log2,
    /// Slot `n` is of the value `n` times the step, and up to the next.
    Linear(u64),
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
        let Some(last) = self.counts.iter().rposition(|&count| count > 0) else {
            return text;
        };
        let most = self.counts.iter().copied().max().unwrap_or(1).max(1);
        // As `print_log2_hist` of the BPF tools: wider from slot 33 on.
        let wide = self.bounds(last).1 >= 1 << 33;
        let (indent, label, width, stars) = match wide {
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
            let (low, high) = self.bounds(slot);
            let filled = (u128::from(count) * stars as u128 / u128::from(most)) as usize;
            let bar = "*".repeat(filled);
            let _ = writeln!(
                text,
                "{low:>width$} -> {high:<width$} : {count:<8} |{bar:stars$}|"
            );
        }
        text
    }

    fn bounds(&self, slot: usize) -> (u128, u128) {
        match self.steps {
            Steps::Log2 => {
                let low = if slot == 0 { 0 } else { 1u128 << slot.min(126) };
                (low, (1u128 << (slot.min(126) + 1)) - 1)
            }
            Steps::Linear(step) => {
                let low = slot as u128 * u128::from(step);
                (low, low + u128::from(step) - 1)
            }
        }
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
            counts: &[0, 2],
            steps: Steps::Linear(10),
            unit: "bytes",
        };
        assert_eq!(
            histogram.draw(),
            "     bytes               : count    distribution
         0 -> 9          : 0        |                                        |
        10 -> 19         : 2        |****************************************|
"
        );
        let none = Histogram {
            counts: &[0; 8],
            ..histogram
        };
        assert_eq!(none.draw(), "");
    }
}
