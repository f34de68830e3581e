//! Counts verdicts and prints them, the dangerous ones first.

use std::collections::BTreeMap;
use std::fmt;

use super::class::{Class, Differences, class, is_user_space};
use super::verdicts::{Asked, Row, Verdict};

/// Most groups of reasons that are shown of one kind.
const MOST_GROUPS: usize = 60;

/// How often each class was met.
type Counts = BTreeMap<Class, usize>;

/// Reasons without numbers, how often they were given, and an example.
type Groups = BTreeMap<String, (usize, String)>;

/// What a folder of objects says.
#[derive(Default)]
pub struct Report {
    objects: usize,
    unreadable: Vec<String>,
    types: BTreeMap<String, Counts>,
    unsafe_accepts: Vec<String>,
    broken: Vec<String>,
    stricter: Groups,
    not_judged: Groups,
    slowest: Option<(u64, String)>,
}

impl Report {
    /// Counts.
    pub fn new(objects: &[Asked], differences: &Differences) -> Report {
        let mut report = Report {
            objects: objects.len(),
            ..Report::default()
        };
        for asked in objects {
            match &asked.rows {
                Err(why) => report.unreadable.push(why.clone()),
                Ok(rows) => {
                    for row in rows {
                        report.add(row, class(row, differences));
                    }
                }
            }
        }
        report
    }

    /// Programs that we accept and should not.
    pub fn unsafe_accepts(&self) -> usize {
        self.unsafe_accepts.len()
    }

    fn add(&mut self, row: &Row, class: Class) {
        let object = &row.object;
        let unknown = Verdict::default();
        let kernel = row.kernel.as_ref().unwrap_or(&unknown);
        let counts = self.types.entry(row.type_name.clone()).or_default();
        *counts.entry(class).or_default() += 1;
        let place = format!("{object} {} ({})", row.name, row.type_name);
        match class {
            Class::Unsafe => {
                let line = format!("{place}: {} {}", kernel.errno, kernel.reason);
                self.unsafe_accepts.push(line);
            }
            Class::Broken => self.broken.push(format!(
                "{place}: ours {} {}, kernel {} {}",
                row.bpftime.outcome, row.bpftime.reason, kernel.outcome, kernel.reason
            )),
            Class::Stricter if is_user_space(&row.type_name) => {
                count(&mut self.stricter, &row.bpftime, place);
            }
            Class::NotJudged => count(&mut self.not_judged, kernel, place),
            _ => {}
        }
        let usec = row.bpftime.usec.unwrap_or(0);
        if self.slowest.as_ref().is_none_or(|(most, _)| usec > *most) {
            self.slowest = Some((usec, format!("{object} {}", row.name)));
        }
    }
}

fn count(groups: &mut Groups, verdict: &Verdict, example: String) {
    let key = format!("{} {}", verdict.errno, without_numbers(&verdict.reason));
    let group = groups.entry(key).or_insert((0, example));
    group.0 += 1;
}

/// Makes equal what differs only in numbers and quoted names.
fn without_numbers(reason: &str) -> String {
    let mut text = String::new();
    let mut quoted = false;
    for c in reason.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                text.push('\'');
            }
            _ if quoted => {}
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            _ => text.push(c),
        }
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:24} {:>6} {:>8} {:>9} {:>7} {:>7} {:>11} {:>7}  of what the kernel accepts",
            "TYPE", "BOTH", "NEITHER", "STRICTER", "UNSAFE", "LISTED", "NOT JUDGED", "BROKEN"
        )?;
        let mut user_space = Counts::new();
        let rows = |wanted: bool| {
            self.types
                .iter()
                .filter(move |(n, _)| is_user_space(n) == wanted)
        };
        for (name, counts) in rows(true) {
            line(f, name, counts)?;
            for (class, n) in counts {
                *user_space.entry(*class).or_default() += n;
            }
        }
        line(f, "all of user space", &user_space)?;
        writeln!(f, "\ntypes of programs that run in kernels only")?;
        for (name, counts) in rows(false) {
            line(f, name, counts)?;
        }
        writeln!(f, "\n{} objects", self.objects)?;
        if let Some((usec, place)) = &self.slowest {
            writeln!(f, "slowest: {:.1} ms, {place}", *usec as f64 / 1000.0)?;
        }
        list(
            f,
            "UNSAFE: accepted here, refused by the kernel",
            &self.unsafe_accepts,
        )?;
        list(f, "BROKEN: no verdict", &self.broken)?;
        groups(
            f,
            "STRICTER: refused here, accepted by the kernel",
            &self.stricter,
        )?;
        groups(
            f,
            "NOT JUDGED: the kernel did not come to judge",
            &self.not_judged,
        )?;
        list(f, "objects that could not be read", &self.unreadable)
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, counts: &Counts) -> fmt::Result {
    let n = |class| counts.get(&class).copied().unwrap_or(0);
    let accepted = n(Class::Both) + n(Class::Stricter);
    let rate = match accepted {
        0 => "-".to_owned(),
        all => format!("{:.1} %", 100.0 * n(Class::Both) as f64 / all as f64),
    };
    writeln!(
        f,
        "{name:24} {:>6} {:>8} {:>9} {:>7} {:>7} {:>11} {:>7}  {rate}",
        n(Class::Both),
        n(Class::Neither),
        n(Class::Stricter),
        n(Class::Unsafe),
        n(Class::Listed),
        n(Class::NotJudged),
        n(Class::Broken),
    )
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title} ({})", lines.len())?;
    lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
}

fn groups(f: &mut fmt::Formatter<'_>, title: &str, groups: &Groups) -> fmt::Result {
    let total: usize = groups.values().map(|(n, _)| n).sum();
    if total == 0 {
        return Ok(());
    }
    writeln!(f, "\n{title} ({total})")?;
    let mut sorted: Vec<_> = groups.iter().collect();
    sorted.sort_by_key(|(_, (n, _))| std::cmp::Reverse(*n));
    for (reason, (n, example)) in sorted.into_iter().take(MOST_GROUPS) {
        writeln!(f, "  {n:5}  {reason}\n           {example}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::without_numbers;

    #[test]
    fn reasons_that_differ_in_numbers_are_one() {
        assert_eq!(
            without_numbers("R10 invalid mem access 'scalar' off=-512"),
            "R# invalid mem access '' off=-#"
        );
    }
}
