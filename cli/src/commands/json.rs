//! JSON as bpftool writes it: compact, or with its line breaks. The second
//! form is also what bpftool prints for people, with bare hexadecimal numbers
//! that JSON does not know.

use std::fmt::{Display, Write};

use runtime::session::SessionView;

/// How results are printed.
#[derive(clap::Args, Clone, Copy)]
pub struct Format {
    /// Print JSON for other programs
    #[arg(short, long)]
    json: bool,
    /// Print JSON with line breaks
    #[arg(short, long)]
    pretty: bool,
}

impl Format {
    /// Whether other programs read it.
    pub fn is_json(self) -> bool {
        self.json || self.pretty
    }

    /// Writes JSON in this format.
    pub fn writer(self) -> Json {
        Json::new(self.pretty)
    }
}

/// A JSON text that is being written.
pub struct Json {
    text: String,
    depth: usize,
    pretty: bool,
    /// A comma belongs before the next item.
    comma: bool,
}

impl Json {
    /// An empty text; `pretty` with line breaks.
    pub fn new(pretty: bool) -> Json {
        Json {
            text: String::new(),
            depth: 0,
            pretty,
            comma: false,
        }
    }

    /// The text, which ends with a line break.
    pub fn finish(mut self) -> String {
        self.text.push('\n');
        self.text
    }

    fn line(&mut self) {
        if self.pretty {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n("    ", self.depth));
        }
    }

    fn next(&mut self) {
        if self.comma {
            self.text.push(',');
        }
        self.comma = true;
    }

    fn nest(&mut self, open: char, close: char, inside: impl FnOnce(&mut Json)) {
        self.next();
        self.text.push(open);
        self.depth += 1;
        self.comma = false;
        inside(self);
        self.depth -= 1;
        if self.comma {
            self.line();
        }
        self.text.push(close);
        self.comma = true;
    }

    /// An object, whose members `inside` writes.
    pub fn object(&mut self, inside: impl FnOnce(&mut Json)) {
        self.nest('{', '}', inside);
    }

    /// An array, whose items `inside` writes.
    pub fn array(&mut self, inside: impl FnOnce(&mut Json)) {
        self.nest('[', ']', inside);
    }

    /// The name of a member; its value must follow.
    pub fn name(&mut self, name: &str) {
        self.next();
        self.line();
        self.quote(name);
        self.text.push(':');
        if self.pretty {
            self.text.push(' ');
        }
        self.comma = false;
    }

    /// A value that is written as it displays itself.
    pub fn bare(&mut self, value: impl Display) {
        self.next();
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
    }

    /// A string.
    pub fn string(&mut self, value: &str) {
        self.next();
        self.quote(value);
    }

    /// A member that is written as it displays itself.
    pub fn bare_member(&mut self, name: &str, value: impl Display) {
        self.name(name);
        self.bare(value);
    }

    /// A member that is a string.
    pub fn string_member(&mut self, name: &str, value: &str) {
        self.name(name);
        self.string(value);
    }

    /// Bytes, in bpftool's way: an array of strings such as "0x0a".
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.array(|json| {
            for byte in bytes {
                json.bare(format_args!("\"{byte:#04x}\""));
            }
        });
    }

    /// The member that tells whose something is.
    pub fn tool(&mut self, view: &SessionView) {
        self.name("pids");
        self.array(|json| {
            // None where only pins are left of what it made.
            if view.owner().pid != 0 {
                json.object(|json| {
                    json.bare_member("pid", view.owner().pid);
                    json.string_member("comm", &view.command());
                });
            }
        });
    }

    fn quote(&mut self, value: &str) {
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                '\n' => self.text.push_str("\\n"),
                '\t' => self.text.push_str("\\t"),
                '\r' => self.text.push_str("\\r"),
                c if c.is_control() => {
                    // Writing to a string cannot fail.
                    let _ = write!(self.text, "\\u{:04x}", c as u32);
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}
