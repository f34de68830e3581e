//! Options that a package makes of its variables, by its annotations:
//! `--NAME VALUE`, `-S VALUE`, and for what is true or false `--NAME`, or
//! `--enable-NAME` and `--disable-NAME` if it is said which is usual.

use std::collections::HashSet;

use clap::{Arg, ArgAction, ArgMatches, Command};
use loader::Opened;
use loader::globals::{self, Variable};
use object::btf::Btf;
use package::Meta;
use package::meta;
use serde_json::Value;

use super::super::here::Asked;
use crate::problem::Problem;

const ABOUT: &str = "A simple eBPF program";
const VERSION: &str = "0.1.0";
/// Our own option; no variable has a space in its name.
const VERBOSE: &str = " verbose";

/// A variable as an option.
struct Setting<'a> {
    said: &'a meta::Variable,
    /// Where it lies; `None` if the object does not have it.
    found: Option<Variable>,
    /// The option's name.
    long: String,
    short: Option<char>,
    /// Of what is true or false, what it is if nothing is said.
    flag: Option<Option<bool>>,
}

/// Sets the object's variables: to what the package says, then to what the
/// user says.
pub fn apply(
    asked: &Asked<'_>,
    meta: &Meta,
    opened: &mut Opened,
    btf: Option<&Btf>,
) -> Result<(), Problem> {
    let settings = settings(meta, btf);
    let matches = match command(asked, meta, &settings).try_get_matches_from(asked.settings()) {
        Ok(matches) => matches,
        // Help goes to stdout with status 0, mistakes to stderr with 2.
        Err(error) => error.exit(),
    };
    if matches!(matches.try_get_one(VERBOSE), Ok(Some(true))) {
        loader::speak();
    }
    let Some(btf) = btf else {
        return Ok(());
    };
    for setting in &settings {
        let name = &setting.said.name;
        let usual = meta.runtime_args.get(name).or(setting.said.default());
        if let (Some(words), Some(_)) = (usual.and_then(words), &setting.found) {
            setting.set(opened, btf, &words).map_err(|reason| {
                let who = format!("{}: {name} = {words}", asked.file.display());
                Problem::new(who, reason, "correct the package")
            })?;
        }
        if let Some(words) = setting.given(&matches) {
            setting.set(opened, btf, &words).map_err(|reason| {
                let option = format!("--{} {words}", setting.long);
                Problem::new(option, reason, "see the list by --help").with_status(2)
            })?;
        }
    }
    Ok(())
}

impl Setting<'_> {
    fn given(&self, matches: &ArgMatches) -> Option<String> {
        match self.flag {
            Some(usual) => {
                let opposite = !usual.unwrap_or(false);
                let asked_for = matches.get_flag(&self.long);
                asked_for.then(|| opposite.to_string())
            }
            None => matches.get_one::<String>(&self.long).cloned(),
        }
    }

    fn set(&self, opened: &mut Opened, btf: &Btf, words: &str) -> Result<(), String> {
        let missing = || "the object has no such variable".to_owned();
        let variable = self.found.as_ref().ok_or_else(missing)?;
        let bytes = variable.bytes(btf, words)?;
        let place = variable.offset..variable.offset + variable.size;
        opened
            .section_mut(&variable.section)
            .and_then(|section| section.get_mut(place))
            .ok_or_else(missing)?
            .copy_from_slice(&bytes);
        Ok(())
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.long.clone())
            .long(self.long.clone())
            .help(help(self.said));
        let arg = match self.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        match self.flag {
            Some(_) => arg.action(ArgAction::SetTrue),
            None => arg.action(ArgAction::Set).allow_hyphen_values(true),
        }
    }
}

fn help(said: &meta::Variable) -> String {
    let text = said.cmdarg.help.clone().or(said.description.clone());
    let text = text.unwrap_or_else(|| format!("Set value of `{}` variable {}", said.ty, said.name));
    match said.default().and_then(words) {
        Some(words) => format!("{text} [default: {words}]"),
        None => text,
    }
}

/// A value of JSON as a user would type it.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) => {
            let words: Option<Vec<String>> = values.iter().map(words).collect();
            words.map(|words| words.join(","))
        }
        value => Some(value.to_string()),
    }
}

fn settings<'a>(meta: &'a Meta, btf: Option<&Btf>) -> Vec<Setting<'a>> {
    let globals = btf.map(globals::variables).unwrap_or_default();
    let said = meta
        .bpf_skel
        .data_sections
        .iter()
        .flat_map(|section| &section.variables);
    // What is taken twice is the first's.
    let mut names = HashSet::from(["help".to_owned(), "version".to_owned()]);
    let mut letters = HashSet::new();
    let mut settings = Vec::new();
    for said in said.filter(|said| !said.is_hidden()) {
        let found = globals.iter().find(|global| global.name == said.name);
        let is_bool = match (btf, found) {
            (Some(btf), Some(found)) => found.is_bool(btf),
            _ => matches!(said.ty.as_str(), "bool" | "_Bool"),
        };
        let flag = is_bool.then(|| said.default().and_then(Value::as_bool));
        let name = said.cmdarg.long.as_ref().unwrap_or(&said.name);
        let long = match flag {
            Some(Some(true)) => format!("disable-{name}"),
            Some(Some(false)) => format!("enable-{name}"),
            _ => name.clone(),
        };
        if name.is_empty() || !names.insert(long.clone()) {
            continue;
        }
        let letter = said.cmdarg.short.as_deref().and_then(only);
        settings.push(Setting {
            said,
            found: found.cloned(),
            long,
            short: letter.filter(|letter| letters.insert(*letter)),
            flag,
        });
    }
    settings
}

fn only(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

fn command(asked: &Asked<'_>, meta: &Meta, settings: &[Setting<'_>]) -> Command {
    let doc = meta.bpf_skel.doc.clone().unwrap_or_default();
    let name = format!("bpftime run {}", asked.file.display());
    let about = doc.brief.or(doc.description);
    let taken = |letter| settings.iter().any(|setting| setting.short == Some(letter));
    let mut help = Arg::new(" help")
        .long("help")
        .help("Print help")
        .action(ArgAction::Help);
    if !taken('h') {
        help = help.short('h');
    }
    let mut version = Arg::new(" version")
        .long("version")
        .help("Print version")
        .action(ArgAction::Version);
    if !taken('V') {
        version = version.short('V');
    }
    let mut command = Command::new(meta.bpf_skel.obj_name.clone())
        .bin_name(name)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .version(doc.version.unwrap_or_else(|| VERSION.to_owned()))
        .about(about.unwrap_or_else(|| ABOUT.to_owned()))
        .args(settings.iter().map(Setting::arg));
    if !settings.iter().any(|setting| setting.long == "verbose") {
        let verbose = Arg::new(VERBOSE).long("verbose");
        command = command.arg(
            verbose
                .help("Say what libbpf says")
                .action(ArgAction::SetTrue),
        );
    }
    if let Some(details) = doc.details {
        command = command.after_help(details);
    }
    command.arg(help).arg(version)
}
