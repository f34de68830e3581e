//! One probe of the user's that is a trace event: a line of `uprobe_events` or
//! `kprobe_events`, and what the event's files say. It knows no file of ours.

use std::fmt;

use super::fetch::{self, Argument, Context};

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `uprobe_events`.
    Uprobe,
    /// `kprobe_events`.
    Kprobe,
}

impl Kind {
    /// The file's name.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Uprobe => "uprobe_events",
            Kind::Kprobe => "kprobe_events",
        }
    }

    /// The file with this name.
    pub fn of_file(name: &[u8]) -> Option<Kind> {
        [Kind::Uprobe, Kind::Kprobe]
            .into_iter()
            .find(|kind| kind.file().as_bytes() == name)
    }
}

/// Where a probe is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, which was found when the event was made.
    File {
        /// As it was written.
        path: String,
        /// The inode's device.
        dev: u64,
        /// The inode.
        ino: u64,
        /// In the file.
        offset: u64,
        /// Offset of a reference counter, or 0.
        counter: u64,
    },
    /// In a kernel function.
    Function {
        /// Its name.
        symbol: String,
        /// In it.
        offset: i64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File {
                path,
                offset,
                counter,
                ..
            } => {
                write!(f, "{path}:{offset:#018x}")?;
                match counter {
                    0 => Ok(()),
                    _ => write!(f, "({counter:#x})"),
                }
            }
            Place::Function { symbol, offset: 0 } => f.write_str(symbol),
            Place::Function { symbol, offset } => write!(f, "{symbol}+{offset}"),
        }
    }
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The event's id, which perf_event_open(2) takes.
    pub id: u32,
    /// The event's group.
    pub group: String,
    /// The event's name.
    pub name: String,
    /// Whether it is at returns.
    pub at_return: bool,
    /// Where it is.
    pub place: Place,
    /// What its records would hold.
    pub arguments: Vec<Argument>,
}

/// The probe's line.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = if self.at_return { 'r' } else { 'p' };
        write!(f, "{letter}:{}/{} {}", self.group, self.name, self.place)?;
        for argument in &self.arguments {
            write!(f, " {}={}", argument.name, argument.body)?;
        }
        Ok(())
    }
}

impl Probe {
    /// Which file lists it.
    pub fn kind(&self) -> Kind {
        match self.place {
            Place::File { .. } => Kind::Uprobe,
            Place::Function { .. } => Kind::Kprobe,
        }
    }

    /// The two that are one event have the same name.
    pub fn is_of_event(&self, other: &Probe) -> bool {
        (&self.group, &self.name) == (&other.group, &other.name)
    }

    /// Whether both are at the same place.
    pub fn is_at_place_of(&self, other: &Probe) -> bool {
        let place = |probe: &Probe| match &probe.place {
            Place::File {
                dev, ino, offset, ..
            } => Some((*dev, *ino, *offset)),
            Place::Function { .. } => None,
        };
        match place(self) {
            Some(at) => place(other) == Some(at),
            None => self.place == other.place,
        }
    }

    /// What the event's `format` file says behind the fields that all have.
    pub fn format(&self) -> String {
        let own: &[&str] = match self.at_return {
            false => &["__probe_ip"],
            true => &["__probe_func", "__probe_ret_ip"],
        };
        let mut text = String::new();
        for (index, name) in own.iter().enumerate() {
            text += &format!(
                "\tfield:unsigned long {name};\toffset:{};\tsize:8;\tsigned:0;\n",
                8 + 8 * index
            );
        }
        text += &fetch::fields(&self.arguments, 8 + 8 * own.len());
        let (formats, values) = fetch::printed(&self.arguments);
        let places = if self.at_return {
            "(%lx <- %lx)"
        } else {
            "(%lx)"
        };
        let own: String = own.iter().map(|name| format!(", REC->{name}")).collect();
        text + &format!("\nprint fmt: \"{places}{formats}\"{own}{values}\n")
    }

    /// The probe as it is kept between processes.
    pub fn kept(&self) -> String {
        let (dev, ino) = match self.place {
            Place::File { dev, ino, .. } => (dev, ino),
            Place::Function { .. } => (0, 0),
        };
        format!("{} {dev} {ino} {self}", self.id)
    }

    /// What [`Probe::kept`] wrote.
    pub fn of_kept(line: &str) -> Option<Probe> {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, dev, ino, head, place, arguments @ ..] = &words[..] else {
            return None;
        };
        let (group, name) = head.get(2..)?.split_once('/')?;
        let at_return = head.starts_with('r');
        let (dev, ino) = (dev.parse().ok()?, ino.parse().ok()?);
        let place = match ino {
            0 => {
                let (symbol, offset) = place.split_once('+').unwrap_or((place, "0"));
                Place::Function {
                    symbol: symbol.to_owned(),
                    offset: offset.parse().ok()?,
                }
            }
            _ => {
                let (path, at) = place.rsplit_once(':')?;
                let (offset, counter) = at.split_once('(').unwrap_or((at, "0)"));
                Place::File {
                    path: path.to_owned(),
                    dev,
                    ino,
                    offset: fetch::number(offset)?,
                    counter: fetch::number(counter.strip_suffix(')')?)?,
                }
            }
        };
        let context = Context {
            kernel: ino == 0,
            at_return,
        };
        Some(Probe {
            id: id.parse().ok()?,
            group: group.to_owned(),
            name: name.to_owned(),
            at_return,
            place,
            arguments: fetch::parse(arguments, context).ok()?,
        })
    }
}
