//! What projects begin with: sources, how they are built, and what is told of
//! them. It writes nothing.

use clap::ValueEnum;

/// What there is to begin with.
#[derive(Clone, Copy, ValueEnum)]
pub enum Template {
    /// A probe on a function of a library
    Uprobe,
    /// A tracepoint of a system call
    Syscall,
    /// A map that is shown as a histogram
    Histogram,
    /// A Wasm module in C that carries a program
    Wasm,
    /// A Wasm module in Rust that carries a program
    WasmRust,
}

/// What the name of a project is in templates, and that of its object in C.
pub const NAME: &str = "@NAME@";
const OBJECT: &str = "@OBJECT@";

const UPROBE: [&str; 2] = [
    include_str!("templates/uprobe.bpf.c"),
    include_str!("templates/uprobe.h"),
];

/// A guest in C, beside the probe's sources.
const WASM: [(&str, &str); 3] = [
    ("@NAME@.c", include_str!("templates/wasm/guest.c")),
    ("Makefile", include_str!("templates/wasm/Makefile")),
    ("README.md", include_str!("templates/wasm/README.md")),
];

/// A guest in Rust, beside the probe's sources.
const RUST: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.in")),
    ("Makefile", include_str!("templates/rust/Makefile")),
    ("README.md", include_str!("templates/rust/README.md")),
    ("build.rs", include_str!("templates/rust/build.rs")),
    ("src/main.rs", include_str!("templates/rust/main.rs")),
];

macro_rules! kit {
    ($($file:literal),*) => {
        [$((
            concat!("bpftime-guest/", $file),
            include_str!(concat!("../../../../wasm/guest/rust/", $file)),
        )),*]
    };
}

/// The crate that guests in Rust use, which is in no registry.
const KIT: [(&str, &str); 9] = kit![
    "Cargo.toml",
    "src/bits.rs",
    "src/buffer.rs",
    "src/errno.rs",
    "src/host.rs",
    "src/lib.rs",
    "src/map.rs",
    "src/plain.rs",
    "src/variables.rs"
];

impl Template {
    /// Names and texts of a project's files. `object` is what its skeleton is called.
    pub fn files(self, name: &str, object: &str) -> Vec<(String, String)> {
        let [source, header] = self.program();
        let mut files = vec![("@NAME@.bpf.c", source), ("@NAME@.h", header)];
        files.push((".gitignore", self.ignored()));
        let readme = self.readme();
        match self {
            Template::Wasm => files.extend(WASM),
            Template::WasmRust => files.extend(RUST.into_iter().chain(KIT)),
            _ => files.push(("README.md", &readme)),
        }
        let filled = |text: &str| text.replace(NAME, name).replace(OBJECT, object);
        let files = files.into_iter();
        files
            .map(|(file, text)| (filled(file), filled(text)))
            .collect()
    }

    /// How the project is built.
    pub fn build(self) -> &'static str {
        match self {
            Template::Wasm | Template::WasmRust => "make",
            _ => "bpftime build @NAME@.bpf.c @NAME@.h",
        }
    }

    /// The program's source and its header.
    fn program(self) -> [&'static str; 2] {
        match self {
            Template::Uprobe | Template::Wasm | Template::WasmRust => UPROBE,
            Template::Syscall => [
                include_str!("templates/syscall.bpf.c"),
                include_str!("templates/syscall.h"),
            ],
            Template::Histogram => [
                include_str!("templates/histogram.bpf.c"),
                include_str!("templates/histogram.h"),
            ],
        }
    }

    /// What is made of the files.
    fn ignored(self) -> &'static str {
        match self {
            Template::Wasm => "*.bpf.o\n*.skel.h\n*.wasm\nlibbpf-wasm.h\n",
            Template::WasmRust => "*.bpf.o\n*.wasm\nsrc/types.rs\ntarget\n",
            _ => "*.bpf.o\npackage.json\n",
        }
    }

    /// What is said of a project that is run as a package.
    fn readme(self) -> String {
        let (about, example) = match self {
            Template::Syscall => ("Files that programs open.", "cat /etc/hostname"),
            Template::Histogram => (
                "Sizes of writes.",
                "dd if=/dev/zero of=/dev/null bs=1k count=100",
            ),
            _ => ("Names that programs look up.", "getent ahosts localhost"),
        };
        format!(
            "# {NAME}\n{about}\n\n    {}\n    bpftime run package.json -- {example}\n",
            self.build()
        )
    }
}
