//! Lines that are written to `uprobe_events` and `kprobe_events`: what they ask
//! for (kernel/trace/trace_uprobe.c, trace_kprobe.c and trace_dynevent.c,
//! 6.12). It knows no event that there is.

use uapi::Errno;

use super::fetch::{self, Argument, Context, is_good_name, number, signed};
use super::probe::{Kind, Place, Probe};
use crate::perf::place;

/// Most arguments of an event, and the bytes of its name with a zero.
const MAX_ARGUMENTS: usize = 128;
const MAX_NAME: usize = 64;
/// Most instances of a kretprobe.
const MAX_ACTIVE: u64 = 4096;

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing: it is empty.
    Nothing,
    /// A new event.
    Add(Box<Probe>),
    /// Take events away.
    Remove(Removal),
}

/// Which events go.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    /// Those of this group, or of any.
    pub group: Option<String>,
    /// Those of this name, or all of the group.
    pub name: Option<String>,
    /// Those at this place with these arguments, as the file lists them.
    pub words: Vec<String>,
}

/// What a line, without its comment, asks of a file.
///
/// # Errors
/// EINVAL for a line that does not parse; ENOENT for a file that there is not;
/// E2BIG for too many arguments, or too long ones.
pub fn parse(kind: Kind, line: &str) -> Result<Command, Errno> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    if line.starts_with('-') {
        return removal(&words).map(Command::Remove);
    }
    let Some((&head, rest)) = words.split_first() else {
        return Ok(Command::Nothing);
    };
    let at_return = match head.as_bytes()[0] {
        b'p' => false,
        b'r' => true,
        _ => return Err(Errno::EINVAL),
    };
    let (&place, arguments) = rest.split_first().ok_or(Errno::EINVAL)?;
    let probe = match kind {
        Kind::Uprobe => uprobe(head, place, arguments, at_return),
        Kind::Kprobe => kprobe(head, place, arguments, at_return),
    };
    probe.map(|probe| Command::Add(Box::new(probe)))
}

fn removal(words: &[&str]) -> Result<Removal, Errno> {
    let (head, rest) = words.split_first().ok_or(Errno::EINVAL)?;
    let event = head.strip_prefix("-:").ok_or(Errno::EINVAL)?;
    let (group, name) = match event.split_once('/') {
        Some((group, name)) => (Some(group.to_owned()), name),
        None if event.is_empty() => return Err(Errno::EINVAL),
        None => (None, event),
    };
    Ok(Removal {
        group,
        name: (!name.is_empty()).then(|| name.to_owned()),
        words: rest.iter().map(|&word| word.to_owned()).collect(),
    })
}

fn uprobe(
    head: &str,
    place: &str,
    arguments: &[&str],
    mut at_return: bool,
) -> Result<Probe, Errno> {
    if arguments.len() > MAX_ARGUMENTS {
        return Err(Errno::E2BIG);
    }
    let (path, at) = place.rsplit_once(':').ok_or(Errno::EINVAL)?;
    if !path.contains('/') || !at.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    let file = place::file(path.as_bytes())?;
    if !file.is_regular {
        return Err(Errno::EINVAL);
    }
    let (at, counter) = match at.split_once('(') {
        Some((at, counter)) => {
            let counter = counter.strip_suffix(')').ok_or(Errno::EINVAL)?;
            (at, fetch::offset(counter)?)
        }
        None => (at, 0),
    };
    let at = match at.split_once('%') {
        Some((at, "return")) => {
            at_return = true;
            at
        }
        Some(_) => return Err(Errno::EINVAL),
        None => at,
    };
    let offset = fetch::offset(at)?;
    let made = || {
        let tail = path.rsplit('/').next().unwrap_or_default();
        let tail = tail.split(['.', '-', '_']).next().unwrap_or_default();
        cut(&format!("p_{tail}_{offset:#x}"))
    };
    let (group, name) = names(head.get(1..).unwrap_or_default(), "uprobes", made)?;
    let context = Context {
        kernel: false,
        at_return,
    };
    Ok(Probe {
        id: 0,
        group,
        name,
        at_return,
        place: Place::File {
            path: path.to_owned(),
            dev: file.dev,
            ino: file.ino,
            offset,
            counter,
        },
        arguments: fetch::parse(arguments, context)?,
    })
}

fn kprobe(
    head: &str,
    place: &str,
    arguments: &[&str],
    mut at_return: bool,
) -> Result<Probe, Errno> {
    let (start, _) = head.split_once(':').unwrap_or((head, ""));
    let instances = &start[1..];
    if instances.starts_with(|c: char| c.is_ascii_digit()) {
        let count = number(instances).filter(|count| (1..=MAX_ACTIVE).contains(count));
        if !at_return || count.is_none() {
            return Err(Errno::EINVAL);
        }
    }
    let (symbol, offset) = match number(place) {
        Some(address) => {
            let found = runtime::command::kprobe::functions().find(|&(at, _)| at == address);
            (found.ok_or(Errno::ENOENT)?.1, 0)
        }
        None => {
            let place = match place.split_once('%') {
                Some((place, "return")) => {
                    at_return = true;
                    place
                }
                Some(_) => return Err(Errno::EINVAL),
                None => place,
            };
            let sign = place.find(['+', '-']).unwrap_or(place.len());
            let offset = match &place[sign..] {
                "" => Some(0),
                offset => signed(offset).filter(|&offset| offset >= 0),
            };
            (place[..sign].to_owned(), offset.ok_or(Errno::EINVAL)?)
        }
    };
    let letter = if at_return { 'r' } else { 'p' };
    let made = || {
        let name = cut(&format!("{letter}_{symbol}_{offset}"));
        let kept = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        name.chars().map(kept).collect()
    };
    let names = names(&start_of_name(head), "kprobes", made);
    if arguments.len() > MAX_ARGUMENTS {
        return Err(Errno::E2BIG);
    }
    let (group, name) = names?;
    let context = Context {
        kernel: true,
        at_return,
    };
    Ok(Probe {
        id: 0,
        group,
        name,
        at_return,
        place: Place::Function { symbol, offset },
        arguments: fetch::parse(arguments, context)?,
    })
}

/// A kprobe's `:GROUP/NAME`, behind the letter and a number of instances.
fn start_of_name(head: &str) -> String {
    head.find(':')
        .map_or_else(String::new, |at| head[at..].to_owned())
}

/// The group and name that `:GROUP/NAME` gives, or the usual ones.
fn names(
    given: &str,
    usual_group: &str,
    made: impl FnOnce() -> String,
) -> Result<(String, String), Errno> {
    let Some(given) = given.strip_prefix(':') else {
        return Ok((usual_group.to_owned(), made()));
    };
    let slash = given.find('/').or_else(|| given.find('.'));
    let (group, name) = match slash {
        Some(slash) => (&given[..slash], &given[slash + 1..]),
        None if given.is_empty() => return Err(Errno::EINVAL),
        None => (usual_group, given),
    };
    // Only a group may have a dash in it.
    let is_good_group = is_good_name(&group.replace('-', "_")) && !group.starts_with('-');
    if group.len() >= MAX_NAME || !is_good_group {
        return Err(Errno::EINVAL);
    }
    if name.is_empty() {
        return Ok((group.to_owned(), made()));
    }
    if name.len() >= MAX_NAME || !is_good_name(name) {
        return Err(Errno::EINVAL);
    }
    Ok((group.to_owned(), name.to_owned()))
}

fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME - 1).collect()
}

impl Removal {
    /// Whether this event goes.
    pub fn matches(&self, probe: &Probe) -> bool {
        let is_group = self
            .group
            .as_ref()
            .is_none_or(|group| *group == probe.group);
        let is_name = self.name.as_ref().is_none_or(|name| *name == probe.name);
        is_group && is_name && self.is_at(probe)
    }

    fn is_at(&self, probe: &Probe) -> bool {
        let Some((place, arguments)) = self.words.split_first() else {
            return true;
        };
        let is_one = |(word, argument): (&String, &Argument)| {
            *word == format!("{}={}", argument.name, argument.body)
        };
        *place == probe.place.to_string()
            && arguments.len() <= probe.arguments.len()
            && arguments.iter().zip(&probe.arguments).all(is_one)
    }
}
