//! What a program is put on: from its section, its type and what the user
//! asks for. It attaches nothing and looks at no file.

use std::fmt;

use libbpf_rs::ProgramType;

/// What a user asks a program to be put on, in words whose form depends on the
/// program's type:
///
/// | program | target |
/// |---|---|
/// | uprobe, uretprobe | `PATH:FUNCTION`, `PATH:FUNCTION+OFFSET`, `PATH:0xOFFSET` |
/// | uprobe.multi, uprobe.session | `PATH:PATTERN` |
/// | usdt | `PATH:PROVIDER:NAME` |
/// | kprobe, ksyscall | `FUNCTION`, `SYSCALL` |
/// | tracepoint | `CATEGORY:NAME` |
/// | raw tracepoint | `NAME` |
/// | perf event | `cpu-clock@HERTZ`, `cpu-cycles@HERTZ` |
/// | xdp | interface, and behind it perhaps `:generic`, `:native`, `:offload` |
/// | tc, tcx | `INTERFACE:ingress`, `INTERFACE:egress`, and behind it perhaps `:PRIORITY:HANDLE` |
/// | control groups | directory of the group |
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// What the section says.
    Section,
    /// Nothing: the program is loaded only.
    Nothing,
    /// What the user says.
    Words(String),
}

impl From<&str> for Target {
    /// `off` stands for nothing, no words for the section.
    fn from(words: &str) -> Target {
        match words {
            "" => Target::Section,
            "off" => Target::Nothing,
            words => Target::Words(words.to_owned()),
        }
    }
}

/// Where to attach a program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Place {
    /// libbpf knows by the section.
    Auto,
    /// Nowhere.
    Nowhere,
    Uprobe {
        path: String,
        function: String,
        offset: usize,
        ret: bool,
    },
    UprobeMulti {
        path: String,
        pattern: String,
        ret: bool,
        session: bool,
    },
    Usdt {
        path: String,
        provider: String,
        name: String,
    },
    Kprobe {
        function: String,
        ret: bool,
    },
    Ksyscall {
        name: String,
        ret: bool,
    },
    Tracepoint {
        category: String,
        name: String,
    },
    RawTracepoint {
        name: String,
    },
    PerfEvent {
        clock: Clock,
        hertz: u64,
    },
    Xdp {
        interface: String,
        mode: XdpMode,
    },
    Tc {
        interface: String,
        ingress: bool,
        /// Its priority and handle among other filters; 0 for any.
        rank: (u32, u32),
    },
    Cgroup {
        path: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Auto => write!(f, "what its section says"),
            Place::Nowhere => write!(f, "nothing"),
            Place::Uprobe {
                path,
                function,
                offset: 0,
                ..
            } => write!(f, "{path}:{function}"),
            Place::Uprobe {
                path,
                function,
                offset,
                ..
            } if function.is_empty() => write!(f, "{path}:{offset:#x}"),
            Place::Uprobe {
                path,
                function,
                offset,
                ..
            } => write!(f, "{path}:{function}+{offset:#x}"),
            Place::UprobeMulti { path, pattern, .. } => write!(f, "{path}:{pattern}"),
            Place::Usdt {
                path,
                provider,
                name,
            } => write!(f, "{path}:{provider}:{name}"),
            Place::Kprobe { function: name, .. }
            | Place::Ksyscall { name, .. }
            | Place::RawTracepoint { name } => write!(f, "{name}"),
            Place::Tracepoint { category, name } => write!(f, "{category}:{name}"),
            Place::PerfEvent { hertz, .. } => write!(f, "a clock of {hertz} Hz"),
            Place::Xdp { interface, .. } | Place::Tc { interface, .. } => write!(f, "{interface}"),
            Place::Cgroup { path } => write!(f, "{path}"),
        }
    }
}

/// Where packets meet an XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, if that can, else behind it.
    Any,
    /// Behind the driver.
    Generic,
    /// In the driver.
    Native,
    /// In the device.
    Offload,
}

/// What a perf event counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// `PERF_COUNT_SW_CPU_CLOCK`.
    CpuClock,
    /// `PERF_COUNT_HW_CPU_CYCLES`.
    CpuCycles,
}

/// How often a perf event's program runs when nobody says so, in each second on each processor.
const DEFAULT_HERTZ: u64 = 99;

/// Decides where a program goes, or says what is missing.
///
/// # Errors
/// A sentence for the user: what the target should look like.
pub fn place(section: &str, kind: ProgramType, target: &Target) -> Result<Place, String> {
    let (family, rest) = section.split_once('/').unwrap_or((section, ""));
    let words = match target {
        Target::Nothing => return Ok(Place::Nowhere),
        Target::Section => rest,
        Target::Words(words) => words,
    };
    let chosen = matches!(target, Target::Words(_));
    // Sleepable programs are put on the same places.
    let family = family.strip_suffix(".s").unwrap_or(family);
    let family = family.trim_start_matches('?');
    let place = match (family, kind) {
        ("uprobe" | "uretprobe", _) => uprobe(words, family.contains("uret")),
        ("uprobe.multi" | "uretprobe.multi" | "uprobe.session", _) => multi(words, family),
        ("usdt", _) => usdt(words),
        ("kprobe" | "kretprobe", _) if chosen => Some(Place::Kprobe {
            function: words.to_owned(),
            ret: family == "kretprobe",
        }),
        ("ksyscall" | "kretsyscall", _) if chosen => Some(Place::Ksyscall {
            name: words.to_owned(),
            ret: family == "kretsyscall",
        }),
        (_, ProgramType::Tracepoint) if chosen => tracepoint(words),
        (_, ProgramType::RawTracepoint) if chosen => Some(Place::RawTracepoint {
            name: words.to_owned(),
        }),
        (_, ProgramType::PerfEvent) => perf_event(words),
        (_, ProgramType::Xdp) => xdp(words),
        (_, ProgramType::SchedCls) => tc(words, section),
        (_, kind) if is_of_cgroups(kind) => chosen.then(|| Place::Cgroup {
            path: words.to_owned(),
        }),
        (_, kind) if chosen => {
            return Err(format!(
                "programs of section {section:?} ({kind:?}) take no target"
            ));
        }
        ("kprobe" | "kretprobe" | "ksyscall" | "kretsyscall", _) if rest.is_empty() => None,
        (_, ProgramType::Tracepoint | ProgramType::RawTracepoint) if rest.is_empty() => None,
        (_, ProgramType::SocketFilter | ProgramType::Syscall) => Some(Place::Nowhere),
        _ => Some(Place::Auto),
    };
    place.ok_or_else(|| {
        let form = form(family, kind);
        match target {
            Target::Words(words) => format!("{words:?} is no {form}"),
            _ => format!("section {section:?} does not say where: name {form}"),
        }
    })
}

fn is_of_cgroups(kind: ProgramType) -> bool {
    use ProgramType as Kind;
    matches!(
        kind,
        Kind::SockOps
            | Kind::CgroupSkb
            | Kind::CgroupSock
            | Kind::CgroupDevice
            | Kind::CgroupSockAddr
            | Kind::CgroupSysctl
            | Kind::CgroupSockopt
    )
}

/// The form of a target, for people.
fn form(family: &str, kind: ProgramType) -> &'static str {
    match (family, kind) {
        ("uprobe" | "uretprobe", _) => "PATH:FUNCTION[+OFFSET]",
        ("uprobe.multi" | "uretprobe.multi" | "uprobe.session", _) => "PATH:PATTERN",
        ("usdt", _) => "PATH:PROVIDER:NAME",
        ("kprobe" | "kretprobe", _) => "FUNCTION of the kernel",
        ("ksyscall" | "kretsyscall", _) => "SYSCALL",
        (_, ProgramType::Tracepoint) => "CATEGORY:NAME",
        (_, ProgramType::RawTracepoint) => "NAME of a raw tracepoint",
        (_, ProgramType::PerfEvent) => "cpu-clock@HERTZ or cpu-cycles@HERTZ",
        (_, ProgramType::Xdp) => "network interface",
        (_, ProgramType::SchedCls) => "INTERFACE:ingress or INTERFACE:egress",
        _ => "directory of a control group",
    }
}

/// Paths may contain colons, functions do not (C++ names are given mangled).
fn uprobe(words: &str, ret: bool) -> Option<Place> {
    let (path, place) = words.rsplit_once(':')?;
    let (function, offset) = match place.split_once('+') {
        Some((function, offset)) => (function, number(offset)?),
        None => match number(place) {
            Some(offset) => ("", offset),
            None => (place, 0),
        },
    };
    let nowhere = path.is_empty() || (function.is_empty() && offset == 0);
    (!nowhere).then(|| Place::Uprobe {
        path: path.to_owned(),
        function: function.to_owned(),
        offset,
        ret,
    })
}

fn number(text: &str) -> Option<usize> {
    match text.strip_prefix("0x") {
        Some(hex) => usize::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn multi(words: &str, family: &str) -> Option<Place> {
    let (path, pattern) = words.rsplit_once(':')?;
    let said = !path.is_empty() && !pattern.is_empty();
    said.then(|| Place::UprobeMulti {
        path: path.to_owned(),
        pattern: pattern.to_owned(),
        ret: family.contains("uret"),
        session: family.ends_with("session"),
    })
}

fn usdt(words: &str) -> Option<Place> {
    let (rest, name) = words.rsplit_once(':')?;
    let (path, provider) = rest.rsplit_once(':')?;
    let said = ![path, provider, name].contains(&"");
    said.then(|| Place::Usdt {
        path: path.to_owned(),
        provider: provider.to_owned(),
        name: name.to_owned(),
    })
}

fn tracepoint(words: &str) -> Option<Place> {
    let (category, name) = words.split_once([':', '/'])?;
    let said = !category.is_empty() && !name.is_empty();
    said.then(|| Place::Tracepoint {
        category: category.to_owned(),
        name: name.to_owned(),
    })
}

fn perf_event(words: &str) -> Option<Place> {
    let (clock, hertz) = words.split_once('@').unwrap_or((words, ""));
    let clock = match clock {
        "" | "cpu-clock" => Clock::CpuClock,
        "cpu-cycles" => Clock::CpuCycles,
        _ => return None,
    };
    let hertz = match hertz {
        "" => DEFAULT_HERTZ,
        hertz => hertz.parse().ok().filter(|&hertz| hertz > 0)?,
    };
    Some(Place::PerfEvent { clock, hertz })
}

fn interface(words: &str) -> Option<String> {
    (!words.is_empty() && !words.contains(':')).then(|| words.to_owned())
}

fn xdp(words: &str) -> Option<Place> {
    let (name, mode) = words.split_once(':').unwrap_or((words, ""));
    let mode = match mode {
        "" => XdpMode::Any,
        "generic" => XdpMode::Generic,
        "native" => XdpMode::Native,
        "offload" => XdpMode::Offload,
        _ => return None,
    };
    interface(name).map(|interface| Place::Xdp { interface, mode })
}

fn tc(words: &str, section: &str) -> Option<Place> {
    let mut parts = words.split(':');
    let name = parts.next()?;
    let direction = parts.next().unwrap_or("");
    let mut number = || parts.next().unwrap_or("0").parse().ok();
    let rank = (number()?, number()?);
    if parts.next().is_some() {
        return None;
    }
    let ingress = match direction {
        "ingress" => true,
        "egress" => false,
        "" => !section.contains("egress"),
        _ => return None,
    };
    interface(name).map(|interface| Place::Tc {
        interface,
        ingress,
        rank,
    })
}

#[cfg(test)]
mod tests;
