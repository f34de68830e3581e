//! Global variables of an object as options of the command line.

use clap::{Arg, ArgAction, Command};
use loader::Opened;
use loader::globals::{self, Variable};
use object::btf::Btf;

use super::here::Asked;
use crate::problem::Problem;

/// What compilers and loaders put among the variables for themselves.
const HIDDEN: [&str; 3] = ["__eunomia_dummy", "__bpf_usdt", "____"];

/// Sets the variables that the user names.
pub fn apply(asked: &Asked<'_>, opened: &mut Opened, btf: Option<&Btf>) -> Result<(), Problem> {
    let variables = btf.map(options).unwrap_or_default();
    let name = format!("bpftime run {}", asked.file.display());
    let mut command = Command::new(name.clone())
        .bin_name(name)
        .no_binary_name(true)
        .about("Global variables of the object, which are set before it is loaded");
    for variable in &variables {
        command = command.arg(option(variable, btf));
    }
    let matches = match command.try_get_matches_from(asked.settings()) {
        Ok(matches) => matches,
        // Help goes to stdout with status 0, mistakes to stderr with 2.
        Err(error) => error.exit(),
    };
    for variable in &variables {
        let (Some(btf), Some(words)) = (btf, matches.get_one::<String>(&variable.name)) else {
            continue;
        };
        let refuse = |reason: &str| {
            let option = format!("--{} {words}", variable.name);
            Problem::new(option, reason, "see the list by --help").with_status(2)
        };
        let bytes = variable
            .bytes(btf, words)
            .map_err(|reason| refuse(&reason))?;
        let place = variable.offset..variable.offset + variable.size;
        opened
            .section_mut(&variable.section)
            .and_then(|section| section.get_mut(place))
            .ok_or_else(|| refuse("is not in the object's section"))?
            .copy_from_slice(&bytes);
    }
    Ok(())
}

/// The variables that are the user's business.
pub fn options(btf: &Btf) -> Vec<Variable> {
    let hidden = |name: &str| HIDDEN.iter().any(|start| name.starts_with(start));
    let mut variables = globals::variables(btf);
    variables.retain(|variable| !hidden(&variable.name) && variable.is_settable(btf));
    variables
}

fn option(variable: &Variable, btf: Option<&Btf>) -> Arg {
    let kind = btf.map_or_else(String::new, |btf| variable.type_name(btf));
    let arg = Arg::new(variable.name.clone())
        .long(variable.name.clone())
        .value_name(kind)
        .action(ArgAction::Set)
        .allow_hyphen_values(true)
        .help(format!("in {}", variable.section));
    match btf.is_some_and(|btf| variable.is_bool(btf)) {
        true => arg
            .num_args(0..=1)
            .default_missing_value("true")
            .require_equals(true),
        false => arg,
    }
}
