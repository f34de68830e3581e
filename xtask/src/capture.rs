//! `capture FOLDER`: writes the programs of all live sessions, each with its
//! maps, as the packs that `vm/tests/verifier` reads. They were accepted by
//! us; the tests ask the kernel what it says.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use runtime::session::{Dirs, SessionView, list};

/// Captures everything that `bpftime load` runs at the moment.
pub fn run(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for path in list(&Dirs::for_cli()) {
        let view = SessionView::open(&path)?;
        for (id, head) in view.programs() {
            let pack =
                pack(&view, id).with_context(|| format!("{}: program {id}", path.display()))?;
            let name = format!("{}-{}-{id}.pack", view.command(), head.name);
            fs::write(folder.join(name.replace(['/', ':'], "_")), pack)?;
        }
    }
    Ok(())
}

fn pack(view: &SessionView, id: u32) -> Result<String> {
    let spec = view.program(id).context("it is gone")?;
    let mut text = format!(
        "prog {} type {} attach {} flags {} gpl {} ret 0\n",
        spec.name.replace(char::is_whitespace, "_"),
        spec.prog_type,
        spec.expected_attach_type,
        spec.prog_flags,
        u32::from(spec.gpl),
    );
    for (id, map) in view.maps() {
        let rodata = view.map(id).and_then(|map| map.rodata());
        writeln!(
            text,
            "map {id} {} {} {} {} {} {}",
            map.map_type,
            map.key_size,
            map.value_size,
            map.max_entries,
            map.map_flags,
            hex(&rodata.unwrap_or_default()),
        )?;
    }
    for insn in &spec.insns {
        writeln!(text, "{}", hex(&insn.to_bytes()))?;
    }
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
