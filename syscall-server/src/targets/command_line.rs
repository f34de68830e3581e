//! The processes that a tool's command line names. It knows no tool: `-p` and
//! `--pid` mean the same in nearly all of them, and an agent in a process that
//! was not meant is idle there.

/// Options that are followed by process ids.
const OPTIONS: [&str; 2] = ["-p", "--pid"];

/// The ids in `-p N`, `-pN`, `--pid N`, `--pid=N`, and lists of them (`-p 1,2`),
/// from arguments that end with zeros.
pub fn pids(arguments: &[u8]) -> Vec<i32> {
    let arguments = arguments.split(|&byte| byte == 0).skip(1);
    let arguments: Vec<&str> = arguments
        .map(|argument| std::str::from_utf8(argument).unwrap_or_default())
        .collect();
    let mut found = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        let next = || arguments.get(index + 1).copied();
        let value = OPTIONS.iter().find_map(|option| {
            match argument.strip_prefix(option)? {
                "" => next(),
                // `-p 1` may be one word, `--pid1` is none.
                rest if option.starts_with("--") => rest.strip_prefix('='),
                rest => Some(rest),
            }
        });
        found.extend(value.and_then(list).unwrap_or_default());
    }
    found
}

/// Numbers with commas between them, and nothing else.
fn list(text: &str) -> Option<Vec<i32>> {
    let number = |text: &str| text.parse().ok().filter(|&pid| pid > 0);
    text.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_name_processes() {
        let check = |line: &str, expected: &[i32]| {
            let arguments = line.replace(' ', "\0") + "\0";
            assert_eq!(pids(arguments.as_bytes()), expected, "{line}");
        };
        check("syscount -p 12 -d 1", &[12]);
        check(
            "python3 /usr/sbin/opensnoop-bpfcc --pid 12 --pid=13 -p14",
            &[12, 13, 14],
        );
        check("profile -p 1,2 -F 99", &[1, 2]);
        check("bpftrace -p 7", &[7]);
        check("bpftool -p map list", &[]);
        check("tool -p", &[]);
        check(
            "tool -p -3 -p 0 -p 99999999999 -p 1,x --pids 4 -path 5",
            &[],
        );
        check("-p 5", &[]);
        check("", &[]);
    }
}
