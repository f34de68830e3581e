//! Targets as users write them, read. It knows no program.

use super::{Clock, Family, Hook, Place, XdpMode};

/// How often a perf event's program runs when nobody says so, in each second on each processor.
const DEFAULT_HERTZ: u64 = 99;

/// Paths may contain colons, functions do not (C++ names are given mangled).
pub fn uprobe(words: &str, ret: bool) -> Option<Place> {
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

pub fn multi(words: &str, family: &str) -> Option<Place> {
    let (path, pattern) = words.rsplit_once(':')?;
    let said = !path.is_empty() && !pattern.is_empty();
    said.then(|| Place::UprobeMulti {
        path: path.to_owned(),
        pattern: pattern.to_owned(),
        ret: family.contains("uret"),
        session: family.ends_with("session"),
    })
}

pub fn usdt(words: &str) -> Option<Place> {
    let (rest, name) = words.rsplit_once(':')?;
    let (path, provider) = rest.rsplit_once(':')?;
    let said = ![path, provider, name].contains(&"");
    said.then(|| Place::Usdt {
        path: path.to_owned(),
        provider: provider.to_owned(),
        name: name.to_owned(),
    })
}

pub fn tracepoint(words: &str) -> Option<Place> {
    let (category, name) = words.split_once([':', '/'])?;
    let said = !category.is_empty() && !name.is_empty();
    said.then(|| Place::Tracepoint {
        category: category.to_owned(),
        name: name.to_owned(),
    })
}

pub fn perf_event(words: &str) -> Option<Place> {
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

/// A name without anything behind it.
pub fn interface(words: &str) -> Option<String> {
    (!words.is_empty() && !words.contains(':')).then(|| words.to_owned())
}

pub fn xdp(words: &str) -> Option<Place> {
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

pub fn tc(words: &str, section: &str) -> Option<Place> {
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

/// `ipv4:prerouting`, `ipv6:output:-100`: protocol, hook and priority.
pub fn netfilter(words: &str) -> Option<Place> {
    let mut parts = words.split(':');
    let family = match parts.next()? {
        "ipv4" => Family::Ipv4,
        "ipv6" => Family::Ipv6,
        _ => return None,
    };
    let hook = match parts.next()? {
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => return None,
    };
    let priority = parts.next().map_or(Ok(0), str::parse).ok()?;
    parts.next().is_none().then_some(Place::Netfilter {
        family,
        hook,
        priority,
    })
}
