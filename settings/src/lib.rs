//! Settings of a program: flags, environment, and a file, read as one, with every mistake told at once.
//!
//! A program declares its settings once, as the flags of one of its commands; everything else follows from there. A
//! setting's name in the file is its flag's without the dashes, its variable is the one that the flag names by `env`,
//! its default is the flag's, and its value is read by the flag's own parser, wherever it was given. So a new setting is
//! one more field of that command's arguments and nothing else.
//!
//! Flags come before variables, variables before the file, and the file before defaults.

mod check;
mod file;
mod mistakes;
mod origin;
pub mod yaml;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{Resettable, ValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use self::file::File;
pub use self::mistakes::Mistakes;
pub use self::origin::{Origin, Origins, Setting};

/// Name of the flag that names the file.
pub const CONFIG: &str = "config";
/// Flags that are not settings.
const NOT_SETTINGS: [&str; 3] = [CONFIG, "help", "version"];

/// A program whose settings are to be read.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its whole command line.
    pub command: Command,
    /// The command whose flags are the settings, beside the global ones; `None` where only global flags are settings.
    pub settings_of: Option<&'static str>,
    /// The file that is read when none is named, if it is there.
    pub default_file: PathBuf,
}

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The command line with every value from wherever it was given. With mistakes, what was given wrongly is as if it had
    /// not been given at all, and the rest holds; `None` when nothing can be read like that.
    pub matches: Option<ArgMatches>,
    /// Where each value comes from.
    pub origins: Origins,
    /// Everything that is wrong so far.
    pub mistakes: Mistakes,
}

impl Program {
    /// Reads the command line `line`, whose first word is the program's name, the variables that `variable` answers for,
    /// and the file.
    ///
    /// # Errors
    ///
    /// What is no command line at all, such as an unknown flag, or one that asks for help: clap's own answer.
    pub fn read(
        &self,
        line: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Reading, clap::Error> {
        let line: Vec<OsString> = line.into_iter().collect();
        let settings = self.settings();
        let is_setting = |arg: &Arg| settings.iter().any(|setting| setting.get_id() == arg.get_id());
        let lenient = each_arg(self.command.clone(), &|arg| if is_setting(&arg) { as_text(arg) } else { arg });
        let given = lenient.try_get_matches_from(&line).map_err(|error| self.in_full(error, &line))?;
        let (words, given) = deepest(&given);

        let mut mistakes = Mistakes::default();
        let file = self.file(given, &mut mistakes);
        let names: Vec<&str> = settings.iter().filter_map(|setting| setting.get_long()).collect();
        file.check_names(&names, &mut mistakes);
        let origins: Origins = settings
            .iter()
            .filter(|setting| given.try_contains_id(setting.get_id().as_str()).is_ok())
            .map(|setting| resolve(setting, given, &variable, &file, &mut mistakes))
            .collect();

        let whole = each_arg(self.command.clone(), &|arg| {
            origins.by_id(arg.get_id().as_str()).map_or(arg.clone(), |setting| with_value(arg, setting))
        });
        let matches = if mistakes.0.is_empty() {
            Some(whole.try_get_matches_from(&line)?)
        } else {
            let program = line.first().cloned().into_iter();
            let good = self.good_words(&words, given, &origins);
            whole.try_get_matches_from(program.chain(words.into_iter().map(OsString::from)).chain(good)).ok()
        };
        Ok(Reading { matches, origins, mistakes })
    }

    /// What the command line gives to the command of these words, without the settings that are wrong.
    fn good_words(&self, words: &[String], given: &ArgMatches, origins: &Origins) -> Vec<OsString> {
        let below = |at: &'_ Command, word: &String| at.find_subcommand(word).cloned();
        let command = words.iter().try_fold(self.command.clone(), |at, word| below(&at, word));
        let own = command.iter().flat_map(Command::get_arguments);
        let globals = self.command.get_arguments().filter(|arg| arg.is_global_set() && !words.is_empty());
        let mut good = Vec::new();
        for arg in own.chain(globals) {
            let id = arg.get_id().as_str();
            let is_given = matches!(given.try_contains_id(id), Ok(true))
                && given.value_source(id) == Some(ValueSource::CommandLine)
                && origins.by_id(id).is_none_or(|setting| setting.is_good);
            let flag = arg.get_long().map(|name| OsString::from(format!("--{name}")));
            match (is_given, flag) {
                (false, _) => {}
                (true, Some(flag)) if is_switch(arg) => good.push(flag),
                (true, flag) => {
                    let values = given.try_get_raw(id).ok().flatten().into_iter().flatten();
                    good.extend(values.map(|value| match &flag {
                        Some(flag) => [flag.as_os_str(), OsStr::new("="), value].into_iter().collect(),
                        None => value.to_owned(),
                    }));
                }
            }
        }
        good
    }

    /// The answer to one who asks for help, with the defaults and variables that reading has set aside.
    fn in_full(&self, error: clap::Error, line: &[OsString]) -> clap::Error {
        let asks = [ErrorKind::DisplayHelp, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
        let in_full = || self.command.clone().try_get_matches_from(line).err();
        asks.contains(&error.kind()).then(in_full).flatten().unwrap_or(error)
    }

    fn settings(&self) -> Vec<Arg> {
        let globals = self.command.get_arguments().filter(|arg| arg.is_global_set());
        let of = self.settings_of.and_then(|name| self.command.find_subcommand(name));
        let all = of.into_iter().flat_map(Command::get_arguments).chain(globals);
        all.filter(|arg| arg.get_long().is_some_and(|name| !NOT_SETTINGS.contains(&name))).cloned().collect()
    }

    /// The file that was named, or the usual one if it is there.
    fn file(&self, given: &ArgMatches, mistakes: &mut Mistakes) -> File {
        let named = given.try_get_one::<PathBuf>(CONFIG).ok().flatten();
        let read = match named {
            Some(path) => File::read(path).map(Some),
            None => File::read_if_there(&self.default_file),
        };
        match read {
            Ok(file) => file.unwrap_or_default(),
            Err(mistake) => {
                mistakes.0.push(mistake);
                File::default()
            }
        }
    }
}

/// The command that was asked for, as its words and its matches.
fn deepest(matches: &ArgMatches) -> (Vec<String>, &ArgMatches) {
    let (mut words, mut at) = (Vec::new(), matches);
    while let Some((name, next)) = at.subcommand() {
        words.push(name.to_owned());
        at = next;
    }
    (words, at)
}

/// Changes every argument of a command and of those below it.
fn each_arg(command: Command, change: &impl Fn(Arg) -> Arg) -> Command {
    command.mut_args(change).mut_subcommands(|below| each_arg(below, change))
}

/// The argument with whatever text it is given, and nothing else: neither its variable nor its default.
fn as_text(arg: Arg) -> Arg {
    let bare = arg.env(Resettable::Reset).default_value(Resettable::Reset).required(false);
    if is_switch(&bare) { bare } else { bare.value_parser(ValueParser::os_string()) }
}

/// The argument with the value that holds unless the command line gives it.
fn with_value(arg: Arg, setting: &Setting) -> Arg {
    let bare = arg.env(Resettable::Reset).required(false);
    match &setting.origin {
        Origin::Variable(_) | Origin::File { .. } if setting.is_good => {
            bare.default_values(setting.values.iter().map(clap::builder::OsStr::from))
        }
        _ => bare,
    }
}

/// An argument that is given without a value.
fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// An argument that can be given several times.
fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn resolve(
    arg: &Arg,
    given: &ArgMatches,
    variable: &impl Fn(&str) -> Option<OsString>,
    file: &File,
    mistakes: &mut Mistakes,
) -> Setting {
    let name = arg.get_long().unwrap_or_default().to_owned();
    let id = arg.get_id().as_str();
    let environment = arg.get_env().and_then(|name| Some((name.to_str()?, variable(name.to_str()?)?)));
    let (origin, values) = if given.value_source(id) == Some(ValueSource::CommandLine) {
        let raw = given.try_get_raw(id).ok().flatten().map(|values| values.map(OsString::from).collect());
        (Origin::Flag, if is_switch(arg) { vec![OsString::from("true")] } else { raw.unwrap_or_default() })
    } else if let Some((variable, value)) = environment {
        (Origin::Variable(variable.to_owned()), check::split(arg, value))
    } else if let Some(found) = file.get(&name) {
        let origin = Origin::File { path: file.path().to_owned(), line: found.line, column: found.column };
        match found.texts(is_list(arg)) {
            Ok(texts) => (origin, texts.into_iter().map(OsString::from).collect()),
            Err(wrong) => {
                let mut setting = Setting::new(id, name, origin, Vec::new(), arg.is_hide_env_values_set());
                mistakes.0.push(format!("{}: {wrong}", setting.named()));
                setting.is_good = false;
                return setting;
            }
        }
    } else {
        (Origin::Default, arg.get_default_values().iter().map(|value| value.to_os_string()).collect())
    };
    let mut setting = Setting::new(id, name, origin, values, arg.is_hide_env_values_set());
    for mistake in check::values(arg, &setting) {
        mistakes.0.push(mistake);
        setting.is_good = false;
    }
    setting
}
