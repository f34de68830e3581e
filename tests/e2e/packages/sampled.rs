//! Maps that are sampled, as histograms and elements.

use bpftime_tests::Program;
use serde_json::{Value, json};

use super::{ATTACHED, called, exported, parcel, run, type_id, without_time, write};
use crate::oracle::same;

#[test]
fn histograms_of_sampled_maps() {
    let hists = |sample: Value| json!([{"name": "hists", "ident": "hists", "sample": sample}]);
    let long = 3_600_000;
    let log2 = hists(json!({"interval": long, "type": "log2_hist", "unit": "calls"}));
    let log2 = parcel(&["on_call"], &log2, &exported("hist"));
    let said = same(|world| {
        let said = without_time(&called(world, &[], &log2, &[], "6"));
        // Elements of a hash come in no order.
        let mut parts: Vec<&str> = said.split_inclusive("\n\n").collect();
        parts.sort_unstable();
        parts.concat()
    });
    assert_eq!(
        said,
        "key =  0
comm = tgt
     calls               : count    distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 0        |                                        |
         4 -> 7          : 1        |****************************************|
         8 -> 15         : 0        |                                        |
        16 -> 31         : 1        |****************************************|

key =  1
comm = tgt
     calls               : count    distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 1        |****************************************|
         4 -> 7          : 0        |                                        |
         8 -> 15         : 1        |****************************************|
        16 -> 31         : 0        |                                        |
        32 -> 63         : 1        |****************************************|

"
    );
    let said = same(|world| {
        let said = without_time(&called(world, &["--json"], &log2, &[], "3"));
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    });
    assert_eq!(
        said,
        r#"{"key":{"__u32":0},"value":{"comm":"tgt","slots":[0,0,1,0,0,0,0,0]}}
{"key":{"__u32":1},"value":{"comm":"tgt","slots":[0,1,0,0,0,0,0,0]}}"#
    );
    let linear = json!([{"name": "slots", "ident": "slots",
        "sample": {"interval": long, "type": "linear_hist", "unit": "number"}}]);
    let linear = parcel(&["on_call"], &linear, &json!([]));
    let said = same(|world| without_time(&called(world, &[], &linear, &[], "12")));
    assert_eq!(
        said,
        "     number        : count     distribution
        0          : 1        |********************                    |
        1          : 2        |****************************************|
        2          : 2        |****************************************|
        3          : 2        |****************************************|
        4          : 1        |********************                    |
        5          : 1        |********************                    |
        6          : 1        |********************                    |
        7          : 1        |********************                    |
"
    );
}

#[test]
fn elements_are_sampled_while_it_runs() {
    let said = same(|world| {
        let sample = json!({"interval": 20, "clear_map": true});
        let maps = json!([{"name": "hists", "ident": "hists", "sample": sample}]);
        let package = parcel(&["on_call"], &maps, &exported("hist"));
        world.fixture("tgt");
        let file = write(world, "package.json", package.to_string().as_bytes());
        let words = [file.as_str(), "--", "./tgt", "3", "0", "wait"];
        let mut tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        tool.lines_until(|line| line.starts_with("pid "));
        tool.tell("go");
        // The target prints when it is through.
        tool.lines_until(|line| line.ends_with(" right"));
        let exit = tool.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ATTACHED));
        let elements = exit.stdout.lines().filter(|line| line.contains('{'));
        // What was counted is shown once, in one sample or in several.
        let mut sums = [[0; 8]; 2];
        for line in elements {
            let value: Value =
                serde_json::from_str(&line[line.find("} ").expect("a value") + 2..]).expect("JSON");
            let slots = value["slots"].as_array().expect("slots");
            let odd = usize::from(line.contains("{\"__u32\":1}"));
            for (sum, slot) in sums[odd].iter_mut().zip(slots) {
                *sum += slot.as_u64().expect("a count");
            }
            assert_eq!(value["comm"], "tgt");
        }
        format!("{sums:?}")
    });
    assert_eq!(said, "[[0, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]");
}

#[test]
fn several_maps_are_shown_each_in_its_way() {
    let word = type_id("__u32");
    let maps = json!([
        {"name": "events", "ident": "events", "export_config": {"custom_members": [
            {"name": "half", "offset": 8, "btf_type_id": word},
            {"name": "number", "offset": 4, "btf_type_id": word}]}},
        {"name": "stacks", "ident": "stacks"},
        {"name": "hists", "ident": "hists", "export_config": "default",
            "sample": {"interval": 3_600_000}},
    ]);
    let mut package = parcel(&["on_call", "on_stack"], &maps, &json!([]));
    package["meta"]["enable_multiple_export_types"] = json!(true);
    let said = same(|world| without_time(&called(world, &[], &package, &[], "2")));
    assert_eq!(
        said,
        "TIME     NUMBER HALF   \nTIME     __U32  SLOTS  COMM   \n  1     4294967294\n \
         {\"__u32\":1} {\"comm\":\"tgt\",\"slots\":[0,1,0,0,0,0,0,0]}\n"
    );
}
