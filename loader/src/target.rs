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
/// | tcx, netkit, socket filter | interface |
/// | netfilter | `ipv4:HOOK[:PRIORITY]`, `ipv6:…`; hooks as nft(8) names them |
/// | socket lookup, flow dissector | file of a network namespace |
/// | `sk_skb`, `sk_msg` | map of sockets of the same object |
/// | control groups | directory of the group |
/// | iterator over a map's elements, over control groups | map of the same object, directory of the group |
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
    Iterator {
        over: Over,
    },
    Tcx {
        interface: String,
    },
    Netkit {
        interface: String,
    },
    Netfilter {
        family: Family,
        hook: Hook,
        priority: i32,
    },
    NetworkNamespace {
        path: String,
    },
    Sockets {
        map: String,
    },
    /// A socket of ours that sees what the interface sees.
    Socket {
        interface: String,
    },
}

/// What an iterator goes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// All that its section names.
    Everything,
    /// The elements of a map of the object.
    Map(String),
    /// A control group and those below it.
    Groups(String),
}

/// Of which protocol packets are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// Where on their way packets are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Place {
    /// The map of the same object that is part of it.
    pub(crate) fn map(&self) -> Option<&str> {
        match self {
            Place::Iterator {
                over: Over::Map(map),
            }
            | Place::Sockets { map } => Some(map),
            _ => None,
        }
    }
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
            Place::Xdp { interface, .. }
            | Place::Tc { interface, .. }
            | Place::Tcx { interface }
            | Place::Netkit { interface }
            | Place::Socket { interface } => write!(f, "{interface}"),
            Place::Cgroup { path } | Place::NetworkNamespace { path } => write!(f, "{path}"),
            Place::Iterator { over } => match over {
                Over::Everything => write!(f, "all that its section names"),
                Over::Map(name) | Over::Groups(name) => write!(f, "{name}"),
            },
            Place::Netfilter { hook, .. } => write!(f, "netfilter's hook {hook:?}"),
            Place::Sockets { map } => write!(f, "the sockets of map {map}"),
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
    if let Some(whose) = by_others(kind) {
        return Err(format!("section {section:?} is {whose}"));
    }
    let place = match (family, kind) {
        ("iter", _) if !chosen || OVER_WORDS.contains(&rest) => {
            iterator(rest, chosen.then_some(words))
        }
        ("uprobe" | "uretprobe", _) => words::uprobe(words, family.contains("uret")),
        ("uprobe.multi" | "uretprobe.multi" | "uprobe.session", _) => words::multi(words, family),
        ("usdt", _) => words::usdt(words),
        ("kprobe" | "kretprobe", _) if chosen => Some(Place::Kprobe {
            function: words.to_owned(),
            ret: family == "kretprobe",
        }),
        ("ksyscall" | "kretsyscall", _) if chosen => Some(Place::Ksyscall {
            name: words.to_owned(),
            ret: family == "kretsyscall",
        }),
        (_, ProgramType::Tracepoint) if chosen => words::tracepoint(words),
        (_, ProgramType::RawTracepoint) if chosen => Some(Place::RawTracepoint {
            name: words.to_owned(),
        }),
        (_, ProgramType::PerfEvent) => words::perf_event(words),
        // They are called by the elements of a map.
        (_, ProgramType::Xdp) if !rest.is_empty() && !chosen => Some(Place::Nowhere),
        (_, ProgramType::Xdp) => words::xdp(words),
        (_, ProgramType::SchedCls) if !chosen => None,
        ("tcx", _) => words::interface(words).map(|interface| Place::Tcx { interface }),
        ("netkit", _) => words::interface(words).map(|interface| Place::Netkit { interface }),
        (_, ProgramType::SchedCls) => words::tc(words, section),
        (_, ProgramType::Netfilter) => words::netfilter(words),
        (_, ProgramType::SkLookup | ProgramType::FlowDissector) => {
            chosen.then(|| Place::NetworkNamespace {
                path: words.to_owned(),
            })
        }
        (_, ProgramType::SkSkb | ProgramType::SkMsg) => chosen.then(|| Place::Sockets {
            map: words.to_owned(),
        }),
        (_, ProgramType::SocketFilter) if chosen => {
            words::interface(words).map(|interface| Place::Socket { interface })
        }
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
        // Those of operations are attached with the map that names them.
        (_, ProgramType::SocketFilter | ProgramType::Syscall | ProgramType::StructOps) => {
            Some(Place::Nowhere)
        }
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

/// What only others than a loader put in place, and how.
pub(crate) fn by_others(kind: ProgramType) -> Option<&'static str> {
    use ProgramType as Kind;
    Some(match kind {
        Kind::Ext => "to replace a function of a program that is loaded already, by its own loader",
        Kind::LwtIn | Kind::LwtOut | Kind::LwtXmit | Kind::LwtSeg6local => {
            "put on a route, by ip-route(8)"
        }
        Kind::SchedAct => "put on a filter of tc-bpf(8)",
        Kind::SkReuseport => "put on a socket, by the process that has it",
        Kind::LircMode2 => "put on an infrared device, by ir-keytable(1)",
        _ => return None,
    })
}

/// Iterators over what a user names.
const OVER_WORDS: [&str; 3] = ["bpf_map_elem", "bpf_sk_storage_map", "cgroup"];

/// An iterator's place by what stands behind `iter/` and the user's words.
fn iterator(kind: &str, words: Option<&str>) -> Option<Place> {
    let over = match (kind, words) {
        ("cgroup", words) => Over::Groups(words?.to_owned()),
        (kind, words) if OVER_WORDS.contains(&kind) => Over::Map(words?.to_owned()),
        _ => Over::Everything,
    };
    Some(Place::Iterator { over })
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
        ("iter", _) => "map of the object (over groups: directory of a control group)",
        ("tcx" | "netkit", _) | (_, ProgramType::SocketFilter) => "network interface",
        (_, ProgramType::SchedCls) => "INTERFACE:ingress or INTERFACE:egress",
        (_, ProgramType::Netfilter) => "ipv4:HOOK[:PRIORITY] or ipv6:HOOK[:PRIORITY]",
        (_, ProgramType::SkLookup | ProgramType::FlowDissector) => "file of a network namespace",
        (_, ProgramType::SkSkb | ProgramType::SkMsg) => "map of sockets",
        _ => "directory of a control group",
    }
}

#[cfg(test)]
mod tests;
mod words;
