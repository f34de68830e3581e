//! What comments in sources say, without any compiler.

use serde_json::json;

use super::annotations::{self, Kind};
use super::source::declarations;
use super::*;

const SOURCE: &str = r#"// A licence, which documents nothing.
/// Documents nothing either.
#include <vmlinux.h>
#include "tool.h"

/// @brief  Shows what happens.
/// @details It does so
/// on two lines.
///
/// And says more.
/// @version 0.1
char LICENSE[] SEC("license") = "GPL; { not a brace";

/// Least time
/// in nanoseconds
const volatile unsigned long long least = 0;
/// @cmdarg {"default": 1, "short": "p",
///          "long": "pid"}
/// @description Process
const volatile int target = '{';
const volatile bool all = false; ///< Everything

/// @sample {"interval": 1000, "type": "log2_hist"}
struct {
	__uint(type, BPF_MAP_TYPE_HASH); /// not this
	__type(key, u32);
} hists SEC(".maps");

#if FIRST
static int helper(int a) {
#else
/** @note for readers */
static int helper(long a) {
#endif
	if (a) { return 1; }
	return 0;
}

/**
 * Watches packets.
 * @tchook {"ifindex":1, "attach_point":"BPF_TC_INGRESS"}
 * @tcopts {"handle":1, "priority":2}
 */
SEC("tc")
int ingress(struct __sk_buff *ctx)
{
	return helper(0);
}

/// @ifindex 3
SEC("uprobe")
int BPF_KPROBE(on_call, int number)
{
	return 0;
}

/// @export
struct seen { int x; struct inner { int y; } z; };
"#;

fn said(kind: Kind, name: &str) -> (Value, Vec<Warning>) {
    let declared = declarations(SOURCE);
    let mut found = declared.iter();
    let found = found.find(|d| d.declares(name, kind == Kind::Program));
    let comment = &found.expect("declared").comment;
    let mut warnings = Vec::new();
    let said = annotations::read(kind, comment, &mut warnings).expect("well-formed");
    (said.into(), warnings)
}

#[test]
fn comments_belong_to_what_follows() {
    for (kind, name, expected) in [
        (
            Kind::Object,
            "LICENSE",
            json!({"brief": "Shows what happens.", "details": "It does so\non two lines.",
                   "description": "And says more.", "version": "0.1"}),
        ),
        (
            Kind::Variable,
            "least",
            json!({"description": "Least time in nanoseconds"}),
        ),
        (
            Kind::Variable,
            "target",
            json!({"cmdarg": {"default": 1, "short": "p", "long": "pid"}, "description": "Process"}),
        ),
        (Kind::Variable, "all", json!({"description": "Everything"})),
        (
            Kind::Map,
            "hists",
            json!({"sample": {"interval": 1000, "type": "log2_hist"}}),
        ),
        (Kind::Program, "helper", json!({})),
        (
            Kind::Program,
            "ingress",
            json!({"description": "Watches packets.",
                   "tchook": {"ifindex": 1, "attach_point": "BPF_TC_INGRESS"},
                   "tcopts": {"handle": 1, "priority": 2}}),
        ),
        (Kind::Program, "on_call", json!({"ifindex": 3})),
    ] {
        assert_eq!(said(kind, name), (expected, vec![]), "{name}");
    }
}

#[test]
fn structures_of_the_header_come_before_marked_ones() {
    let header = "#ifndef A\n#define A\nstruct event { int a; };\n\
                  typedef struct __attribute__((packed)) other { struct event e; } other_t;\n\
                  struct used *f(struct used *a);\n/* struct no { */\n#endif\n";
    assert_eq!(exported(SOURCE, Some(header)), ["event", "other", "seen"]);
    assert_eq!(exported("int x;", None), Vec::<String>::new());
}

fn read(kind: Kind, text: &str) -> Result<(Value, Vec<Warning>), Malformed> {
    let declared = declarations(&format!("{text}\nint x;"));
    let mut warnings = Vec::new();
    let said = annotations::read(kind, &declared[0].comment, &mut warnings)?;
    Ok((said.into(), warnings))
}

#[test]
fn what_is_unknown_is_kept_and_told() {
    let (said, warnings) =
        read(Kind::Map, "/// Text\n/// @smaple {\"interval\": 5}").expect("read");
    assert_eq!(
        said,
        json!({"description": "Text", "smaple": {"interval": 5}})
    );
    let expected = Warning {
        line: 2,
        text: "@smaple is no annotation of a map, whose are @sample, @intepreter, @interpreter, \
               @export_config, @description"
            .to_owned(),
    };
    assert_eq!(warnings, [expected]);
    let (said, warnings) = read(Kind::Map, "/// @sample {\"intervall\": 5}").expect("read");
    assert_eq!(said, json!({"sample": {"intervall": 5}}));
    assert_eq!(
        warnings[0].text,
        "@sample has no \"intervall\", only interval, type, unit, clear_map"
    );
    // The one spelling that readers know.
    let (said, warnings) = read(Kind::Map, "/// @interpreter {\"stack_trace\": {}}").expect("read");
    assert_eq!(
        (said, warnings),
        (json!({"intepreter": {"stack_trace": {}}}), vec![])
    );
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line() {
    for (kind, text, line, expected) in [
        (
            Kind::Map,
            "/// @sample {interval: 1}",
            1,
            "@sample is no JSON (key must be a string at line 1 column 2)",
        ),
        (
            Kind::Map,
            "///\n/// @sample 5",
            2,
            "@sample takes a JSON object",
        ),
        (
            Kind::Program,
            "/// @ifindex eth0",
            1,
            "@ifindex takes a number",
        ),
    ] {
        let error = read(kind, text).expect_err("malformed");
        assert_eq!((error.line, error.text.as_str()), (line, expected));
    }
}

#[test]
fn odd_sources_end() {
    for source in [
        "", "/*", "/**", "\"", "#if", "}", "{{{", "///", "a\\", "'\\", "#\\", "struct {",
    ] {
        declarations(source);
    }
}
