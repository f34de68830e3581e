//! What this process has mapped, as /proc lists it: where there is room, and
//! which pages change protection together. It knows no hook.

use std::ops::Range;

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    /// Readable and executable, not writable, and private to this process.
    pub(crate) is_text: bool,
    pub(crate) grows: Grows,
}

/// Which way the kernel lets a mapping grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grows {
    No,
    /// The heap, by brk(2).
    Up,
    /// The main stack.
    Down,
}

/// All mappings, by address; `None` where /proc does not give them.
pub(crate) fn own() -> Option<Vec<Mapping>> {
    // Not self/maps: that is empty after the first thread has ended.
    let maps = std::fs::read_to_string("/proc/thread-self/maps").ok()?;
    Some(parse(&maps))
}

/// Reads the format of proc_pid_maps(5).
pub(crate) fn parse(maps: &str) -> Vec<Mapping> {
    maps.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mapping> {
    let (start, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let grows = if rest.ends_with("[heap]") {
        Grows::Up
    } else if rest.ends_with("[stack]") {
        Grows::Down
    } else {
        Grows::No
    };
    Some(Mapping {
        range: start..end,
        is_text: rest.starts_with("r-xp "),
        grows,
    })
}

/// The mapping that holds `addr`, of `mappings` by address.
pub(crate) fn holding(mappings: &[Mapping], addr: u64) -> Option<&Mapping> {
    let behind = mappings.partition_point(|mapping| mapping.range.start <= addr);
    let mapping = mappings.get(behind.checked_sub(1)?)?;
    mapping.range.contains(&addr).then_some(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let mappings = parse(
            "1000-3000 r-xp 00001000 fd:01 7 /lib/a b.so\n\
             3000-4000 rwxp 00000000 00:00 0 \n\
             4000-5000 r-xs 00000000 fd:01 7 /shared\n\
             5000-6000 rw-p 00000000 00:00 0 [heap]\n\
             nonsense\n\
             8000-9000 rw-p 00000000 00:00 0 [stack]\n",
        );
        let seen: Vec<_> = mappings.iter().map(|m| (m.is_text, m.grows)).collect();
        let expected = [
            (true, Grows::No),
            (false, Grows::No),
            (false, Grows::No),
            (false, Grows::Up),
            (false, Grows::Down),
        ];
        assert_eq!(seen, expected);
        let at = |addr| holding(&mappings, addr).map(|m| m.range.start);
        assert_eq!(
            [0xfff, 0x1000, 0x2fff, 0x3000, 0x6000, 0x8fff, 0x9000].map(at),
            [
                None,
                Some(0x1000),
                Some(0x1000),
                Some(0x3000),
                None,
                Some(0x8000),
                None
            ]
        );
    }
}
