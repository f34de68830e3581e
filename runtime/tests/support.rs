//! `docs/support.md` says which helpers there are; this holds it to that.

use std::collections::BTreeSet;
use std::path::Path;

/// Names between backquotes in the first cells of the table under `heading`
/// whose state is not "no".
fn promised(page: &str, heading: &str) -> BTreeSet<String> {
    let section = page.split(heading).nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let cells = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let names = cells.next()?;
        (!cells.next()?.starts_with("no")).then_some(names)
    });
    cells
        .flat_map(|names| names.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect()
}

#[test]
fn the_page_names_every_helper_and_no_other() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/support.md");
    let page = std::fs::read_to_string(page).expect("docs/support.md");
    let rows = bpftime_runtime::helpers::all().map(|helper| helper.proto.name.to_owned());
    assert_eq!(promised(&page, "## Helpers"), rows.collect());
}
