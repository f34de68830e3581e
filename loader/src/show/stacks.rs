//! Records that are stacks of addresses, in eunomia-bpf's layout: whose they
//! are, and a line for each frame.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::symbols::{Symbol, Symbols};

/// Which member of a record is what.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is the name of the member that is it")]
pub struct Members {
    pub pid: String,
    pub cpu_id: String,
    pub comm: String,
    pub kstack_sz: String,
    pub ustack_sz: String,
    pub kstack: String,
    pub ustack: String,
}

/// A record of stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stacks {
    pid: u32,
    cpu: u64,
    comm: String,
    kernel: Vec<u64>,
    user: Vec<u64>,
}

impl Stacks {
    /// From a record's members. `None` if neither stack has a frame.
    ///
    /// # Errors
    /// The member that is missing or something else than it should be.
    pub fn of(record: &Map<String, Value>, members: &Members) -> Result<Option<Stacks>, String> {
        let number = |name: &str| {
            let value = record.get(name).and_then(Value::as_i64);
            value.ok_or_else(|| missing(name, "number"))
        };
        let frames = |stack: &str, size: &str| {
            let addresses = record.get(stack).and_then(Value::as_array);
            let addresses = addresses.ok_or_else(|| missing(stack, "list of addresses"))?;
            // An error in place of a size leaves no frame.
            let count = usize::try_from(number(size)?).unwrap_or(0) / size_of::<u64>();
            let addresses = addresses.iter().take(count).filter_map(Value::as_u64);
            Ok::<_, String>(addresses.collect::<Vec<u64>>())
        };
        let comm = record.get(&members.comm).and_then(Value::as_str);
        let stacks = Stacks {
            pid: number(&members.pid)? as u32,
            cpu: number(&members.cpu_id)?.cast_unsigned(),
            comm: comm
                .ok_or_else(|| missing(&members.comm, "text"))?
                .to_owned(),
            kernel: frames(&members.kstack, &members.kstack_sz)?,
            user: frames(&members.ustack, &members.ustack_sz)?,
        };
        let empty = stacks.kernel.is_empty() && stacks.user.is_empty();
        Ok((!empty).then_some(stacks))
    }

    /// Its lines; with names of functions, if `symbols` are given.
    pub fn draw(&self, mut symbols: Option<&mut Symbols>) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "COMM: {} (pid={}) @ CPU {}",
            self.comm, self.pid, self.cpu
        );
        for (title, none, frames, kernel) in [
            ("Kernel:", "No Kernel Stack", &self.kernel, true),
            ("Userspace:", "No Userspace Stack", &self.user, false),
        ] {
            let title = if frames.is_empty() { none } else { title };
            let _ = writeln!(text, "{title}");
            for (index, &address) in frames.iter().enumerate() {
                let _ = write!(text, "  {index} [<{address:016x}>]");
                if let Some(symbol) = self.symbol(&mut symbols, kernel, address) {
                    let _ = write!(text, " {}+{:#x}", symbol.name, symbol.offset);
                }
                text.push('\n');
            }
        }
        text
    }

    /// The same as an object of JSON.
    pub fn json(&self, mut symbols: Option<&mut Symbols>) -> Value {
        let mut stack = |frames: &[u64], kernel| {
            let frame = |&address: &u64| {
                let mut frame = json!({ "address": format!("{address:#x}") });
                if let Some(symbol) = self.symbol(&mut symbols, kernel, address) {
                    frame["symbol"] = symbol.name.into();
                    frame["offset"] = symbol.offset.into();
                }
                frame
            };
            frames.iter().map(frame).collect::<Vec<_>>()
        };
        let (kernel, user) = (stack(&self.kernel, true), stack(&self.user, false));
        json!({
            "comm": self.comm, "pid": self.pid, "cpu_id": self.cpu,
            "kstack": kernel, "ustack": user,
        })
    }

    fn symbol(
        &self,
        symbols: &mut Option<&mut Symbols>,
        kernel: bool,
        address: u64,
    ) -> Option<Symbol> {
        let symbols = symbols.as_mut()?;
        match kernel {
            true => symbols.kernel(address),
            false => symbols.user(self.pid, address),
        }
    }
}

fn missing(name: &str, what: &str) -> String {
    format!("a record of stacks needs a {what} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Members {
        let own = |name: &str| name.to_owned();
        Members {
            pid: own("pid"),
            cpu_id: own("cpu_id"),
            comm: own("name"),
            kstack_sz: own("kstack_sz"),
            ustack_sz: own("ustack_sz"),
            kstack: own("kstack"),
            ustack: own("ustack"),
        }
    }

    fn record(kernel: i64, user: i64) -> Map<String, Value> {
        let record = json!({
            "pid": 0x1234, "cpu_id": 7, "name": "work", "kstack_sz": kernel, "ustack_sz": user,
            "kstack": [0xffff_ffff_8100_0000u64, 1], "ustack": [0x1000, 0x2000, 0x3000],
        });
        record.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn sizes_are_bytes() {
        let stacks = Stacks::of(&record(8, 16), &members());
        let stacks = stacks.ok().flatten().expect("there are frames");
        assert_eq!(
            stacks.draw(None),
            "COMM: work (pid=4660) @ CPU 7\nKernel:\n  0 [<ffffffff81000000>]\n\
             Userspace:\n  0 [<0000000000001000>]\n  1 [<0000000000002000>]\n"
        );
        assert_eq!(
            stacks.json(None),
            json!({"comm": "work", "pid": 4660, "cpu_id": 7,
                "kstack": [{"address": "0xffffffff81000000"}],
                "ustack": [{"address": "0x1000"}, {"address": "0x2000"}]})
        );
    }

    #[test]
    fn what_is_not_there_is_said() {
        let stacks = Stacks::of(&record(-14, 24), &members());
        let stacks = stacks.ok().flatten().expect("there are frames");
        assert!(stacks.draw(None).contains("No Kernel Stack\nUserspace:\n"));
        assert_eq!(Stacks::of(&record(-1, 0), &members()), Ok(None));
        let mut odd = record(8, 8);
        odd.remove("name");
        assert_eq!(
            Stacks::of(&odd, &members()),
            Err("a record of stacks needs a text name".to_owned())
        );
    }
}
