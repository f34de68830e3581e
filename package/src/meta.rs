//! What a package says about its object. Every part may be missing: loaders of
//! different ages wrote and read different parts, and none is an error.
//!
//! Names and defaults are those of the format; what is not known is kept in
//! `others`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// What is to be done with an object.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Meta {
    /// Its variables, maps and programs.
    pub bpf_skel: Skeleton,
    /// Structures of records; the first is that of all records, unless
    /// `enable_multiple_export_types`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_types: Vec<ExportType>,
    /// Types of these structures, if not the object's own: an old form has them
    /// as BTF in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_btf: Option<String>,
    /// What made the package.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub eunomia_version: String,
    /// Pages of a perf buffer for each processor.
    #[serde(skip_serializing_if = "is_default_pages")]
    pub perf_buffer_pages: u64,
    /// Unused by every loader.
    #[serde(skip_serializing_if = "is_default_time")]
    pub perf_buffer_time_ms: u64,
    /// How long a loader waits for records at a time.
    #[serde(skip_serializing_if = "is_default_timeout")]
    pub poll_timeout_ms: i64,
    /// Whether what libbpf has to say is shown.
    #[serde(skip_serializing_if = "is_false")]
    pub debug_verbose: bool,
    /// Whether names of columns have their types.
    #[serde(skip_serializing_if = "is_false")]
    pub print_header: bool,
    /// Whether every map says by itself what is shown of it.
    #[serde(skip_serializing_if = "is_false")]
    pub enable_multiple_export_types: bool,
    /// Values of variables by name, as hosts of the older Wasm interface are given.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub runtime_args: Map<String, Value>,
}

impl Default for Meta {
    /// What a loader takes for what is not said.
    fn default() -> Meta {
        Meta {
            bpf_skel: Skeleton::default(),
            export_types: Vec::new(),
            export_btf: None,
            eunomia_version: String::new(),
            perf_buffer_pages: PAGES,
            perf_buffer_time_ms: TIME,
            poll_timeout_ms: TIMEOUT,
            debug_verbose: false,
            print_header: false,
            enable_multiple_export_types: false,
            runtime_args: Map::new(),
        }
    }
}

const PAGES: u64 = 64;
const TIME: u64 = 10;
const TIMEOUT: i64 = 100;

fn is_default_pages(pages: &u64) -> bool {
    *pages == PAGES
}

fn is_default_time(time: &u64) -> bool {
    *time == TIME
}

fn is_default_timeout(timeout: &i64) -> bool {
    *timeout == TIMEOUT
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Parts of an object.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Skeleton {
    /// Its name, with `_bpf` at the end.
    pub obj_name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc: Option<Doc>,
    /// Sections of variables.
    #[serde(deserialize_with = "or_nothing")]
    pub data_sections: Vec<DataSection>,
    /// Maps.
    #[serde(deserialize_with = "or_nothing")]
    pub maps: Vec<MapMeta>,
    /// Programs.
    #[serde(deserialize_with = "or_nothing")]
    pub progs: Vec<Program>,
}

/// Some writers say null where there is none of something.
fn or_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What an object is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Doc {
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// In one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brief: Option<String>,
    /// In more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// In other words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A section of global variables.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct DataSection {
    /// `.rodata`, `.bss`, …
    pub name: String,
    /// What is in it.
    #[serde(deserialize_with = "or_nothing")]
    pub variables: Vec<Variable>,
}

/// A global variable.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type in C.
    #[serde(rename = "type")]
    pub ty: String,
    /// Its value, if not the object's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The option that sets it.
    #[serde(
        deserialize_with = "or_nothing",
        skip_serializing_if = "Argument::is_empty"
    )]
    pub cmdarg: Argument,
    /// What else is said.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Variable {
    /// Whether compilers made it for themselves.
    pub fn is_hidden(&self) -> bool {
        self.name.starts_with("__eunomia_dummy")
    }

    /// Its value when nobody says anything.
    pub fn default(&self) -> Option<&Value> {
        self.cmdarg.default.as_ref().or(self.value.as_ref())
    }
}

/// An option of the command line.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Argument {
    /// What is taken when it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Its name, if not the variable's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long: Option<String>,
    /// Its letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short: Option<String>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Argument {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Argument::default()
    }
}

/// A map.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct MapMeta {
    /// Its name.
    pub name: String,
    /// Its name in C.
    pub ident: String,
    /// Whether it is a section of variables.
    #[serde(skip_serializing_if = "is_false")]
    pub mmaped: bool,
    /// Its elements are shown again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// What is shown of it, where every map says so by itself.
    #[serde(deserialize_with = "or_nothing", skip_serializing_if = "is_not_shown")]
    pub export_config: ExportConfig,
    /// What its records are.
    #[serde(deserialize_with = "or_nothing", skip_serializing_if = "is_structure")]
    pub intepreter: Interpreter,
    /// What else is said.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

fn is_not_shown(config: &ExportConfig) -> bool {
    *config == ExportConfig::NoExport
}

fn is_structure(interpreter: &Interpreter) -> bool {
    *interpreter == Interpreter::DefaultStruct
}

/// How a map's elements are shown again and again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Sample {
    /// Every so many milliseconds.
    pub interval: u64,
    /// As what.
    #[serde(rename = "type", default)]
    pub ty: SampleType,
    /// What is counted in histograms.
    #[serde(default = "Sample::no_unit")]
    pub unit: String,
    /// Whether elements are taken out when they have been shown.
    #[serde(default)]
    pub clear_map: bool,
    /// Of a linear histogram: values in a slot, by default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Of a linear histogram: the least value of the first slot, by default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<i64>,
}

impl Sample {
    fn no_unit() -> String {
        "(unit)".to_owned()
    }
}

/// What elements are shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleType {
    /// Counts in slots, each twice as wide as the one before.
    Log2Hist,
    /// Counts in slots of one width.
    LinearHist,
    /// Key and value.
    #[default]
    DefaultKv,
}

/// What is shown of a map.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportConfig {
    /// Nothing.
    #[default]
    NoExport,
    /// What the object says of a sampled map.
    Default,
    /// A type of the object.
    BtfTypeId(u32),
    /// Members of one's own.
    CustomMembers(Vec<CustomMember>),
}

/// A column of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct CustomMember {
    /// What it is called.
    pub name: String,
    /// Where it begins.
    pub offset: u64,
    /// Its type.
    pub btf_type_id: u32,
}

/// What records are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpreter {
    /// Structures.
    #[default]
    DefaultStruct,
    /// Stacks with what belongs to them.
    StackTrace {
        /// Which member of the structure is what.
        #[serde(default)]
        field_map: FieldMap,
        /// Whether addresses are shown by name.
        #[serde(default = "StackTraces::with_symbols")]
        with_symbols: bool,
    },
}

struct StackTraces;

impl StackTraces {
    fn with_symbols() -> bool {
        true
    }
}

/// Members of a record of stacks that are not called as they should be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[expect(missing_docs, reason = "each is the name of the member that is it")]
pub struct FieldMap {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kstack_sz: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ustack_sz: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kstack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ustack: Option<String>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Program {
    /// Its function.
    pub name: String,
    /// Its ELF section.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub attach: String,
    /// Whether attaching it makes a link.
    pub link: bool,
    /// Of an XDP program: the interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<i64>,
    /// Of an XDP program: how it is put there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<u32>,
    /// Of a program for traffic control: where it is put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tchook: Option<TcHook>,
    /// Of a program for traffic control: its place among others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcopts: Option<TcOptions>,
    /// Of a program for XDP: what it replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdpopts: Option<XdpOptions>,
    /// What else is said.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// Where a program for traffic control is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TcHook {
    /// The interface.
    pub ifindex: i64,
    /// Which way.
    pub attach_point: TcPoint,
}

impl Default for TcHook {
    fn default() -> TcHook {
        TcHook {
            ifindex: 1,
            attach_point: TcPoint::Ingress,
        }
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum TcPoint {
    /// In.
    #[serde(rename = "BPF_TC_INGRESS")]
    Ingress,
    /// Out.
    #[serde(rename = "BPF_TC_EGRESS")]
    Egress,
    /// By a parent of its own.
    #[serde(rename = "BPF_TC_CUSTOM")]
    Custom,
}

/// A filter's place among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TcOptions {
    /// Its number.
    pub handle: u32,
    /// Its rank.
    pub priority: u32,
}

impl Default for TcOptions {
    fn default() -> TcOptions {
        TcOptions {
            handle: 1,
            priority: 1,
        }
    }
}

/// What a program for XDP replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct XdpOptions {
    /// An fd of its loader's, 0 or less for none.
    pub old_prog_fd: i64,
}

/// A structure of records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ExportType {
    /// Its name.
    pub name: String,
    /// Its number among the object's types.
    #[serde(alias = "id")]
    pub type_id: u32,
    /// Its bytes.
    pub size: u32,
    /// Its members.
    pub members: Vec<ExportMember>,
}

/// A member of such a structure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ExportMember {
    /// Its name.
    pub name: String,
    /// Its type in C.
    #[serde(rename = "type")]
    pub ty: String,
}
