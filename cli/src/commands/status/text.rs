//! The report for people: plain, aligned, stable.

use std::fmt::Write;

use super::report::{Link, Report, Session, Target};

/// What is said when nothing runs.
const EMPTY: &str = "no sessions and no targets\n";

/// The whole report.
pub fn render(report: &Report) -> String {
    if report.sessions.is_empty() && report.targets.is_empty() {
        return EMPTY.to_owned();
    }
    let mut blocks: Vec<String> = report.sessions.iter().map(session).collect();
    if report.sessions.is_empty() {
        blocks.push("no sessions\n".to_owned());
    }
    blocks.push(targets(&report.targets));
    blocks.join("\n")
}

fn session(session: &Session) -> String {
    let mut text = match session.pid {
        // Nobody's: what is pinned keeps it.
        0 => format!("session of {}, which has ended: pinned\n", session.command),
        pid => format!(
            "session {pid} {} {}\n",
            session.command,
            duration(session.seconds)
        ),
    };
    let programs = session.programs.iter().map(|program| {
        vec![
            program.id.to_string(),
            named(&program.name),
            program.kind.clone(),
            program.instructions.to_string(),
        ]
    });
    table(&mut text, &["PROGRAM", "NAME", "TYPE", "INSNS"], programs);
    let maps = session.maps.iter().map(|map| {
        vec![
            map.id.to_string(),
            named(&map.name),
            map.kind.clone(),
            map.key_size.to_string(),
            map.value_size.to_string(),
            map.max_entries.to_string(),
            map.drops
                .map_or_else(|| "-".to_owned(), |drops| drops.to_string()),
        ]
    });
    table(
        &mut text,
        &["MAP", "NAME", "TYPE", "KEY", "VALUE", "ENTRIES", "DROPS"],
        maps,
    );
    let links = session.links.iter().map(|link| {
        vec![
            link.id.to_string(),
            link.kind.to_owned(),
            place(link),
            link.pid
                .map_or_else(|| "all".to_owned(), |pid| pid.to_string()),
            link.program.to_string(),
            if link.enabled { "on" } else { "off" }.to_owned(),
            link.hits.to_string(),
            link.missed.to_string(),
        ]
    });
    table(
        &mut text,
        &[
            "LINK", "TYPE", "WHERE", "PID", "PROGRAM", "STATE", "HITS", "MISSED",
        ],
        links,
    );
    text
}

fn targets(targets: &[Target]) -> String {
    if targets.is_empty() {
        return "no targets\n".to_owned();
    }
    let mut text = "targets\n".to_owned();
    let rows = targets.iter().map(|target| {
        vec![
            target.pid.to_string(),
            target.command.clone(),
            target.hooks.to_string(),
            target.refused.to_string(),
            target.reasons.join("; "),
        ]
    });
    table(
        &mut text,
        &["PID", "COMMAND", "HOOKS", "REFUSED", "WHY"],
        rows,
    );
    text
}

fn named(name: &str) -> String {
    if name.is_empty() {
        "-".to_owned()
    } else {
        name.to_owned()
    }
}

fn place(link: &Link) -> String {
    if link.places > 1 {
        return format!("{} ({} places)", link.path, link.places);
    }
    if link.places == 0 {
        return link.path.clone();
    }
    match &link.function {
        Some(function) => format!("{}:{function}", link.path),
        None => format!("{}:{:#x}", link.path, link.offset),
    }
}

/// `5 s`, `3 min`, `7 h`, `2 d`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Appends an indented table with aligned columns, or nothing without rows.
pub fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|word| (*word).to_owned()).collect()];
    lines.extend(rows);
    if lines.len() == 1 {
        return;
    }
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(row, "  {cell:width$}");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Map, Program};
    use super::*;

    #[test]
    fn nothing_is_one_line() {
        assert_eq!(render(&Report::default()), "no sessions and no targets\n");
    }

    #[test]
    fn columns_line_up() {
        let report = Report {
            sessions: vec![Session {
                pid: 7,
                command: "bashreadline".to_owned(),
                seconds: 130,
                programs: vec![Program {
                    id: 3,
                    name: "printret".to_owned(),
                    kind: "kprobe".to_owned(),
                    instructions: 68,
                }],
                maps: vec![Map {
                    id: 12,
                    kind: "perf_event_array".to_owned(),
                    name: String::new(),
                    key_size: 4,
                    value_size: 4,
                    max_entries: 2,
                    drops: Some(5),
                }],
                links: vec![Link {
                    id: 4,
                    kind: "uretprobe",
                    path: "/usr/bin/bash".to_owned(),
                    places: 1,
                    offset: 0xb0a40,
                    function: Some("readline".to_owned()),
                    pid: None,
                    program: 3,
                    enabled: true,
                    hits: 41,
                    missed: 0,
                }],
            }],
            targets: vec![Target {
                pid: 1234,
                command: "bash".to_owned(),
                hooks: 1,
                refused: 1,
                reasons: vec!["/usr/bin/bash:0x10: function too short".to_owned()],
            }],
        };
        let expected = "\
session 7 bashreadline 2 min
  PROGRAM  NAME      TYPE    INSNS
  3        printret  kprobe  68
  MAP  NAME  TYPE              KEY  VALUE  ENTRIES  DROPS
  12   -     perf_event_array  4    4      2        5
  LINK  TYPE       WHERE                   PID  PROGRAM  STATE  HITS  MISSED
  4     uretprobe  /usr/bin/bash:readline  all  3        on     41    0

targets
  PID   COMMAND  HOOKS  REFUSED  WHY
  1234  bash     1      1        /usr/bin/bash:0x10: function too short
";
        assert_eq!(render(&report), expected);
    }
}
