//! Where programs go, by section, type and words.

use super::*;
use ProgramType as Kind;

/// What comes of a section and, if any, the user's words.
fn placed(section: &str, kind: ProgramType, words: &str) -> Result<Place, String> {
    place(section, kind, &Target::from(words))
}

fn shown(section: &str, kind: ProgramType, words: &str) -> String {
    placed(section, kind, words).map_or_else(|what| what, |place| place.to_string())
}

#[test]
fn sections_and_words_name_places() {
    for (section, kind, words, place) in [
        ("uprobe//bin/a:f", Kind::Kprobe, "", "/bin/a:f"),
        ("uprobe.s//bin/a:f+0x10", Kind::Kprobe, "", "/bin/a:f+0x10"),
        ("?uretprobe//bin/a:b:f", Kind::Kprobe, "", "/bin/a:b:f"),
        ("uprobe", Kind::Kprobe, "libc.so.6:0x40", "libc.so.6:0x40"),
        ("uprobe//bin/a:f", Kind::Kprobe, "/bin/b:g", "/bin/b:g"),
        ("uprobe.multi//bin/a:f_*", Kind::Kprobe, "", "/bin/a:f_*"),
        ("usdt//bin/a:p:n", Kind::Kprobe, "", "/bin/a:p:n"),
        ("kprobe/f", Kind::Kprobe, "", "what its section says"),
        ("kprobe", Kind::Kprobe, "g", "g"),
        ("ksyscall/read", Kind::Kprobe, "write", "write"),
        ("tp/a/b", Kind::Tracepoint, "", "what its section says"),
        ("tracepoint", Kind::Tracepoint, "a:b", "a:b"),
        ("raw_tp", Kind::RawTracepoint, "sys_exit", "sys_exit"),
        ("perf_event", Kind::PerfEvent, "", "a clock of 99 Hz"),
        (
            "perf_event",
            Kind::PerfEvent,
            "cpu-cycles@7",
            "a clock of 7 Hz",
        ),
        ("xdp", Kind::Xdp, "lo", "lo"),
        ("tc", Kind::SchedCls, "lo:egress", "lo"),
        ("sockops", Kind::SockOps, "/group", "/group"),
        ("lsm/path_mkdir", Kind::Lsm, "", "what its section says"),
        ("socket", Kind::SocketFilter, "", "nothing"),
        ("socket", Kind::SocketFilter, "lo", "lo"),
        ("tcx/egress", Kind::SchedCls, "lo", "lo"),
        ("xdp/devmap", Kind::Xdp, "", "nothing"),
        (
            "iter.s/task",
            Kind::Tracing,
            "",
            "all that its section names",
        ),
        ("iter/bpf_map_elem", Kind::Tracing, "table", "table"),
        ("iter/cgroup", Kind::Tracing, "/group", "/group"),
        (
            "sk_lookup",
            Kind::SkLookup,
            "/proc/1/ns/net",
            "/proc/1/ns/net",
        ),
        ("sk_msg", Kind::SkMsg, "table", "the sockets of map table"),
        (
            "netfilter",
            Kind::Netfilter,
            "ipv6:input:-100",
            "netfilter's hook Input",
        ),
        ("struct_ops/init", Kind::StructOps, "", "nothing"),
        ("uprobe", Kind::Kprobe, "off", "nothing"),
    ] {
        assert_eq!(shown(section, kind, words), place, "{section} {words}");
    }
}

#[test]
fn directions_and_returns_are_kept() {
    let tc = |section: &str, words: &str| placed(section, Kind::SchedCls, words);
    let at = |ingress, rank| {
        let interface = "lo".to_owned();
        Ok(Place::Tc {
            interface,
            ingress,
            rank,
        })
    };
    assert_eq!(tc("tc", "lo"), at(true, (0, 0)));
    assert_eq!(tc("tc/egress", "lo"), at(false, (0, 0)));
    assert_eq!(tc("tc/egress", "lo:ingress"), at(true, (0, 0)));
    assert_eq!(tc("tc", "lo:egress:7:1"), at(false, (7, 1)));
    let kretprobe = placed("kretprobe", Kind::Kprobe, "f");
    let function = "f".to_owned();
    assert_eq!(
        kretprobe,
        Ok(Place::Kprobe {
            function,
            ret: true
        })
    );
    let session = placed("uprobe.session//bin/a:f", Kind::Kprobe, "");
    let expected = Place::UprobeMulti {
        path: "/bin/a".to_owned(),
        pattern: "f".to_owned(),
        ret: false,
        session: true,
    };
    assert_eq!(session, Ok(expected));
}

#[test]
fn what_makes_no_sense_is_said() {
    for (section, kind, words, what) in [
        (
            "uprobe",
            Kind::Kprobe,
            "",
            "section \"uprobe\" does not say where: name PATH:FUNCTION[+OFFSET]",
        ),
        (
            "uprobe",
            Kind::Kprobe,
            "f",
            "\"f\" is no PATH:FUNCTION[+OFFSET]",
        ),
        (
            "uprobe",
            Kind::Kprobe,
            "a:0",
            "\"a:0\" is no PATH:FUNCTION[+OFFSET]",
        ),
        (
            "usdt",
            Kind::Kprobe,
            "a:b",
            "\"a:b\" is no PATH:PROVIDER:NAME",
        ),
        (
            "kprobe",
            Kind::Kprobe,
            "",
            "section \"kprobe\" does not say where: name FUNCTION of the kernel",
        ),
        ("tp", Kind::Tracepoint, "a", "\"a\" is no CATEGORY:NAME"),
        (
            "perf_event",
            Kind::PerfEvent,
            "cpu-clock@0",
            "\"cpu-clock@0\" is no cpu-clock@HERTZ or cpu-cycles@HERTZ",
        ),
        (
            "xdp",
            Kind::Xdp,
            "",
            "section \"xdp\" does not say where: name network interface",
        ),
        (
            "tc",
            Kind::SchedCls,
            "lo:up",
            "\"lo:up\" is no INTERFACE:ingress or INTERFACE:egress",
        ),
        (
            "sockops",
            Kind::SockOps,
            "",
            "section \"sockops\" does not say where: name directory of a control group",
        ),
        (
            "tc/ingress",
            Kind::SchedCls,
            "",
            "section \"tc/ingress\" does not say where: name INTERFACE:ingress or INTERFACE:egress",
        ),
        (
            "netfilter",
            Kind::Netfilter,
            "ipv4:up",
            "\"ipv4:up\" is no ipv4:HOOK[:PRIORITY] or ipv6:HOOK[:PRIORITY]",
        ),
        (
            "iter/task",
            Kind::Tracing,
            "x",
            "programs of section \"iter/task\" (Tracing) take no target",
        ),
        (
            "lwt_in",
            Kind::LwtIn,
            "lo",
            "section \"lwt_in\" is put on a route, by ip-route(8)",
        ),
        (
            "lsm/path_mkdir",
            Kind::Lsm,
            "x",
            "programs of section \"lsm/path_mkdir\" (Lsm) take no target",
        ),
    ] {
        assert_eq!(
            placed(section, kind, words),
            Err(what.to_owned()),
            "{section} {words}"
        );
    }
}
