//! The environment of an executed program: `LD_PRELOAD` with what it inherits,
//! and our variables. It knows no process. Called between fork and exec:
//! nothing allocates, locks or calls libc.

use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;

use super::{Inheritance, room};

const LD_PRELOAD: &[u8] = b"LD_PRELOAD=";
/// Where sessions are; targets need it, too.
const SESSIONS: &[u8] = b"BPFTIME_SESSION_DIR=";
/// What changes how this library answers. Only tools shall be changed by it.
const TOOLS_ONLY: [&[u8]; 3] = [
    b"BPFTIME_RUNTIME=",
    b"BPFTIME_SESSION=",
    b"BPFTIME_VERIFY_ONLY=",
];

/// Our libraries, and what the environment had of ours when the program began.
pub struct Own {
    server: Vec<u8>,
    agent: Option<Vec<u8>>,
    /// The tool is a target, too: `LD_PRELOAD` had the agent.
    is_target: bool,
    /// Variables that [`TOOLS_ONLY`] and [`SESSIONS`] name.
    variables: Vec<CString>,
}

impl Own {
    /// `server` and `agent` are paths.
    pub fn new(server: Vec<u8>, agent: Option<Vec<u8>>) -> Own {
        let preload = std::env::var_os("LD_PRELOAD").unwrap_or_default();
        let of_agent = |entry: &[u8]| agent.as_deref().is_some_and(|agent| same(entry, agent));
        let variables = TOOLS_ONLY.iter().chain([&SESSIONS]).filter_map(|name| {
            let name = name.strip_suffix(b"=")?;
            let value = std::env::var_os(std::ffi::OsStr::from_bytes(name))?;
            CString::new([name, b"=", value.as_bytes()].concat()).ok()
        });
        Own {
            is_target: entries(preload.as_bytes()).any(of_agent),
            variables: variables.collect(),
            server,
            agent,
        }
    }

    /// Whether there is an agent to inherit.
    pub fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// What stands in `list` for one of its entries; `None` for nothing.
    fn instead<'a>(
        &'a self,
        list: &'a [u8],
        entry: &'a [u8],
        inherits: Inheritance,
    ) -> Option<&'a [u8]> {
        let is_server = |entry: &&[u8]| same(entry, &self.server);
        if is_server(&entry) {
            return match inherits {
                Inheritance::Server if self.has_other(list) => {
                    (entry != self.server).then_some(entry)
                }
                _ => self.entry(inherits),
            };
        }
        match &self.agent {
            Some(agent) if same(entry, agent) => match inherits {
                Inheritance::Agent => Some(agent),
                // Alone it is there for children of a tool, unless the tool is a target.
                Inheritance::Server => {
                    let is_meant = self.is_target || entries(list).any(|entry| is_server(&entry));
                    is_meant.then_some(entry)
                }
                Inheritance::Nothing => Some(entry),
            },
            _ => Some(entry),
        }
    }

    /// Whether another bpftime's library is there: its user has run that since.
    fn has_other(&self, list: &[u8]) -> bool {
        entries(list).any(|entry| same(entry, &self.server) && entry != self.server)
    }

    fn entry(&self, inherits: Inheritance) -> Option<&[u8]> {
        match inherits {
            Inheritance::Server => Some(&self.server),
            Inheritance::Agent => self.agent.as_deref(),
            Inheritance::Nothing => None,
        }
    }

    /// Whether a program that inherits this shall have the variable.
    fn may_have(&self, variable: &[u8], inherits: Inheritance) -> bool {
        inherits == Inheritance::Server || !TOOLS_ONLY.iter().any(|name| variable.starts_with(name))
    }

    /// Writes `list` as it shall be, with the variable's name and a zero. Bytes
    /// behind the room are counted only. Returns the length, or `None` for an
    /// empty list.
    fn write(&self, list: &[u8], inherits: Inheritance, to: &mut [u8]) -> Option<usize> {
        let mut out = Writer { to, len: 0 };
        out.push(LD_PRELOAD);
        let ours = [Some(&self.server[..]), self.agent.as_deref()];
        // Each of ours once.
        let mut written = [false; 2];
        let mut place = |entry: &[u8], out: &mut Writer<'_>| {
            if let Some(index) = ours.iter().position(|own| *own == Some(entry))
                && std::mem::replace(&mut written[index], true)
            {
                return;
            }
            if out.len > LD_PRELOAD.len() {
                out.push(b":");
            }
            out.push(entry);
        };
        for entry in entries(list) {
            if let Some(entry) = self.instead(list, entry, inherits) {
                place(entry, &mut out);
            }
        }
        let is_there = inherits == Inheritance::Server && self.has_other(list);
        if let Some(entry) = self.entry(inherits).filter(|_| !is_there) {
            place(entry, &mut out);
        }
        let any = out.len > LD_PRELOAD.len();
        out.push(b"\0");
        any.then_some(out.len)
    }
}

struct Writer<'a> {
    to: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8]) {
        if let Some(to) = self.to.get_mut(self.len..self.len + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }
}

/// The entries of a list, as ld.so(8) separates them.
fn entries(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| matches!(byte, b':' | b' '))
        .filter(|entry| !entry.is_empty())
}

/// Whether two paths end in one file name, as the libraries of two bpftimes do.
fn same(entry: &[u8], own: &[u8]) -> bool {
    let name = |path: &'_ [u8]| {
        path.iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |at| at + 1)
    };
    entry.get(name(entry)..) == own.get(name(own)..)
}

/// Calls `execute` with `envp` as a program that inherits this shall have it, or
/// with `envp` itself where there is no memory.
///
/// # Safety
/// `envp` leads to an array of addresses of strings that ends with null.
pub unsafe fn with<R>(
    own: &Own,
    inherits: Inheritance,
    envp: *const usize,
    execute: impl FnOnce(*const usize) -> R,
) -> R {
    let mut count = 0;
    // SAFETY: not behind the null that ends the array.
    while unsafe { *envp.add(count) } != 0 {
        count += 1;
    }
    // SAFETY: so many were just seen.
    let given = unsafe { std::slice::from_raw_parts(envp, count) };
    // SAFETY: the array's strings, by the caller's contract.
    let text = |at: usize| unsafe { CStr::from_ptr(at as *const c_char) }.to_bytes();
    let old = given
        .iter()
        .rev() // The loader takes the last one.
        .find_map(|&at| text(at).strip_prefix(LD_PRELOAD));
    let old = old.unwrap_or_default();
    let bytes = own.write(old, inherits, &mut []).unwrap_or(0);
    let pointers = count + own.variables.len() + 2;
    room::with(pointers + bytes.div_ceil(size_of::<usize>()), |room| {
        let Some((to, list)) = room.and_then(|room| room.split_at_mut_checked(pointers)) else {
            return execute(envp);
        };
        // SAFETY: the words' own bytes, which any value may be.
        let list = unsafe {
            std::slice::from_raw_parts_mut(list.as_mut_ptr().cast::<u8>(), size_of_val(list))
        };
        let list = own
            .write(old, inherits, list)
            .map(|_| list.as_ptr() as usize);
        let others = given.iter().copied().filter(|&at| {
            let variable = text(at);
            !variable.starts_with(LD_PRELOAD) && own.may_have(variable, inherits)
        });
        let missing = own.variables.iter().filter_map(|variable| {
            let bytes = variable.to_bytes();
            let name = bytes.split_inclusive(|&byte| byte == b'=').next()?;
            let wanted = inherits != Inheritance::Nothing
                && own.may_have(bytes, inherits)
                && !given.iter().any(|&at| text(at).starts_with(name));
            wanted.then_some(variable.as_ptr() as usize)
        });
        for (to, from) in to.iter_mut().zip(others.chain(missing).chain(list)) {
            *to = from;
        }
        // What is left of the room is zeros: the end.
        execute(to.as_ptr())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Own {
        Own {
            server: b"/s/lib-1/server.so".to_vec(),
            agent: Some(b"/s/lib-1/agent.so".to_vec()),
            is_target: false,
            variables: [c"BPFTIME_RUNTIME=user", c"BPFTIME_SESSION_DIR=/d"]
                .map(CStr::to_owned)
                .to_vec(),
        }
    }

    fn edited(own: &Own, inherits: Inheritance, given: &[&CStr]) -> Vec<String> {
        let mut envp: Vec<usize> = given.iter().map(|text| text.as_ptr() as usize).collect();
        envp.push(0);
        // SAFETY: an array of strings that ends with null.
        unsafe {
            with(own, inherits, envp.as_ptr(), |mut at| {
                let mut found = Vec::new();
                while *at != 0 {
                    let text = CStr::from_ptr(*at as *const c_char);
                    found.push(text.to_str().unwrap().to_owned());
                    at = at.add(1);
                }
                found
            })
        }
    }

    #[test]
    fn children_of_tools_get_the_agent() {
        let given = [
            c"A=1",
            c"LD_PRELOAD=libx.so /other/server.so::y.so",
            c"BPFTIME_RUNTIME=auto",
            c"BPFTIME_SESSION_DIR=/e",
        ];
        let expected = [
            "A=1",
            "BPFTIME_SESSION_DIR=/e",
            "LD_PRELOAD=libx.so:/s/lib-1/agent.so:y.so",
        ];
        assert_eq!(edited(&own(), Inheritance::Agent, &given), expected);
        let cleaned = edited(&own(), Inheritance::Agent, &[c"A=1"]);
        let expected = [
            "A=1",
            "BPFTIME_SESSION_DIR=/d",
            "LD_PRELOAD=/s/lib-1/agent.so",
        ];
        assert_eq!(cleaned, expected);
    }

    #[test]
    fn wrappers_hand_the_library_on() {
        let cleaned = edited(&own(), Inheritance::Server, &[]);
        let expected = [
            "BPFTIME_RUNTIME=user",
            "BPFTIME_SESSION_DIR=/d",
            "LD_PRELOAD=/s/lib-1/server.so",
        ];
        assert_eq!(cleaned, expected);
        // Whoever was made a tool has the agent there for its children.
        let given = [
            c"LD_PRELOAD=/s/lib-1/agent.so:z.so",
            c"BPFTIME_RUNTIME=auto",
        ];
        let expected = [
            "BPFTIME_RUNTIME=auto",
            "BPFTIME_SESSION_DIR=/d",
            "LD_PRELOAD=z.so:/s/lib-1/server.so",
        ];
        assert_eq!(edited(&own(), Inheritance::Server, &given), expected);
    }

    #[test]
    fn helpers_get_nothing() {
        let given = [
            c"LD_PRELOAD=/s/lib-1/server.so",
            c"BPFTIME_RUNTIME=auto",
            c"B=2",
        ];
        assert_eq!(edited(&own(), Inheritance::Nothing, &given), ["B=2"]);
        let given = [c"LD_PRELOAD=x.so:/s/lib-1/server.so"];
        assert_eq!(
            edited(&own(), Inheritance::Nothing, &given),
            ["LD_PRELOAD=x.so"]
        );
    }

    #[test]
    fn tools_that_are_targets_stay_targets() {
        let own = Own {
            is_target: true,
            ..own()
        };
        let given = [c"LD_PRELOAD=/s/lib-1/agent.so:/s/lib-1/server.so"];
        let preload = |inherits| edited(&own, inherits, &given).pop().unwrap();
        assert_eq!(preload(Inheritance::Server), given[0].to_str().unwrap());
        let agent = "LD_PRELOAD=/s/lib-1/agent.so";
        assert_eq!(preload(Inheritance::Agent), agent);
        assert_eq!(preload(Inheritance::Nothing), agent);
    }

    #[test]
    fn wrappers_start_targets_and_other_bpftimes() {
        let check = |list: &CStr, expected: &str| {
            let edited = edited(&own(), Inheritance::Server, &[list]);
            assert_eq!(edited.last().map(String::as_str), Some(expected));
        };
        let both = c"LD_PRELOAD=/s/lib-1/server.so:/s/lib-1/agent.so";
        check(both, both.to_str().unwrap());
        let newer = c"LD_PRELOAD=/s/lib-1/server.so:/s/lib-2/server.so";
        check(newer, "LD_PRELOAD=/s/lib-2/server.so");
    }

    #[test]
    fn large_environments_find_room() {
        let many = vec![c"X=1"; 5000];
        let edited = edited(&own(), Inheritance::Agent, &many);
        assert_eq!(edited.len(), 5002);
    }
}
