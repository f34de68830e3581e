//! Maps of maps.

use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::map::{
    BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_HASH_OF_MAPS,
};

use super::Case;

/// Looks up key 0 of the map in r1.
const FIND: &str = "*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\ncall 1\n";
const OUT: &str = "out:\nr0 = 0\nexit\n";

/// `map[1]` is a hash with 8 bytes a value, `map[2]` holds such maps.
fn case(outer: u32, text: &str) -> Case {
    let mut case = Case::new(&format!("r1 = map[2]\n{FIND}{text}{OUT}"));
    let spec = |map_type, value_size| MapSpec {
        map_type,
        key_size: 4,
        value_size,
        max_entries: 2,
        ..MapSpec::default()
    };
    case.maps = vec![spec(BPF_MAP_TYPE_HASH, 8), spec(outer, 4)];
    case.inner = vec![0, 1];
    case
}

#[test]
fn a_lookup_gives_a_map_like_the_template() {
    let inner = format!("if r0 == 0 goto out\nr1 = r0\n{FIND}if r0 == 0 goto out\n");
    for outer in [BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS] {
        case(outer, &format!("{inner}r0 = *(u64 *)(r0 + 0)\n")).accepted(&[]);
        case(outer, &format!("{inner}r0 = *(u64 *)(r0 + 4)\n")).refused(
            Errno::EACCES,
            &["invalid access to map value, value_size=8 off=4 size=8"],
        );
    }
}

#[test]
fn a_map_that_may_be_missing_is_no_map() {
    let outer = BPF_MAP_TYPE_ARRAY_OF_MAPS;
    case(outer, &format!("r1 = r0\n{FIND}")).refused(
        Errno::EACCES,
        &["R1 type=map_value_or_null expected=map_ptr"],
    );
    case(outer, "r0 = *(u32 *)(r0 + 0)\n").refused(
        Errno::EACCES,
        &["R0 invalid mem access 'map_value_or_null'"],
    );
    // Its bytes are nobody's.
    case(outer, "if r0 == 0 goto out\n*(u32 *)(r0 + 0) = 1\n").refused(Errno::EACCES, &[]);
    case(outer, "if r0 == 0 goto out\nr0 += 8\n").refused(
        Errno::EACCES,
        &["R0 pointer arithmetic on map_ptr prohibited"],
    );
}

#[test]
fn programs_only_look_into_maps_of_maps() {
    let update = "r1 = map[2]\nr2 = r10\nr2 += -4\nr3 = r2\nr4 = 0\ncall 2\n";
    let delete = "r1 = map[2]\nr2 = r10\nr2 += -4\ncall 3\n";
    for outer in [BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS] {
        let refused = |text: &str, helper: &str| {
            let words = format!("cannot pass map_type {outer} into func {helper}");
            case(outer, text).refused(Errno::EINVAL, &[&words]);
        };
        refused(update, "bpf_map_update_elem#2");
        refused(delete, "bpf_map_delete_elem#3");
    }
}

#[test]
fn one_map_may_be_passed_where_two_templates_agree() {
    let mut case = case(
        BPF_MAP_TYPE_ARRAY_OF_MAPS,
        &format!(
            "if r0 == 0 goto out\nr1 = map[1]\n{FIND}if r0 == 0 goto out\nr0 = *(u64 *)(r0 + 0)\n"
        ),
    );
    case.accepted(&[]);
    // The template is not among what the program names.
    case.maps[0].map_type = BPF_MAP_TYPE_ARRAY;
    case.accepted(&[]);
}

#[test]
fn a_map_plus_nothing_is_the_map() {
    let find = |change: &str| {
        let mut case = Case::new(&format!("r1 = map[1]\n{change}\n{FIND}{OUT}"));
        case.maps.push(MapSpec {
            map_type: BPF_MAP_TYPE_HASH,
            key_size: 4,
            value_size: 8,
            max_entries: 2,
            ..MapSpec::default()
        });
        case
    };
    find("r0 = 0\nr1 += r0").accepted(&[]);
    find("r0 = 0\nr0 += r1\nr1 = r0").accepted(&[]);
    let words = ["R1 pointer arithmetic on map_ptr prohibited"];
    find("r0 = 8\nr1 += r0").refused(Errno::EACCES, &words);
    find("r0 = 0\nr1 -= r0").refused(Errno::EACCES, &words);
}
