//! One key and its value, in bpftool's layout.

use std::fmt::Write;

use object::btf::Btf;

use super::super::json::Json;
use super::found::Found;
use super::typed::Typed;

/// A key and what a lookup of it gave.
pub struct Entry<'a> {
    pub map: &'a Found,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl Entry<'_> {
    /// As bytes, for people.
    pub fn plain(&self, text: &mut String) {
        let (key, value) = (self.key.len(), self.map.spec.value_size as usize);
        let own_lines = key > 16 || value > 16;
        let one_line = key + value <= 24 && !own_lines;
        // Writing to a string cannot fail.
        if self.map.per_cpu() {
            let _ = writeln!(text, "key:\n{}", rows(self.key));
            let after = if value > 16 { '\n' } else { ' ' };
            for (cpu, value) in self.map.values(self.value).enumerate() {
                let _ = writeln!(text, "value (CPU {cpu:02}):{after}{}", rows(value));
            }
            return;
        }
        let after = if own_lines { '\n' } else { ' ' };
        if key > 0 {
            let end = if one_line { "  " } else { "\n" };
            let _ = write!(text, "key:{after}{}{end}", rows(self.key));
        }
        let _ = writeln!(text, "value:{after}{}", rows(self.value));
    }

    /// By the types of the map.
    pub fn typed(&self, json: &mut Json, btf: &Btf, plain: bool) {
        let typed = Typed { btf, plain };
        let spec = &self.map.spec;
        json.object(|json| {
            if spec.btf_key_type_id != 0 {
                json.name("key");
                typed.write(json, spec.btf_key_type_id, self.key);
            }
            let value = |json: &mut Json, value: &[u8]| {
                json.name("value");
                typed.write(json, spec.btf_value_type_id, value);
            };
            self.values(json, value);
        });
    }

    /// As JSON for other programs.
    pub fn json(&self, json: &mut Json, btf: Option<&Btf>) {
        json.object(|json| {
            json.name("key");
            json.bytes(self.key);
            self.values(json, |json, value| {
                json.name("value");
                json.bytes(value);
            });
            if let Some(btf) = btf {
                json.name("formatted");
                self.typed(json, btf, false);
            }
        });
    }

    /// The value, or the values of each CPU.
    fn values(&self, json: &mut Json, one: impl Fn(&mut Json, &[u8])) {
        if !self.map.per_cpu() {
            return one(json, self.value);
        }
        json.name("values");
        json.array(|json| {
            for (cpu, value) in self.map.values(self.value).enumerate() {
                json.object(|json| {
                    json.bare_member("cpu", cpu);
                    one(json, value);
                });
            }
        });
    }
}

/// Bytes as bpftool prints them: sixteen in a line, in two halves.
fn rows(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(16)
        .map(|line| line.chunks(8).map(hex).collect::<Vec<_>>().join("  "))
        .collect();
    lines.join("\n")
}

/// Bytes in one line.
pub fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}
