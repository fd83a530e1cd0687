//! Reads each value by its flag's own parser.

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::Setting;

/// What is wrong with the values of a setting, a sentence each.
pub(crate) fn values(arg: &Arg, setting: &Setting) -> Vec<String> {
    // An argument of its own: the real one may refer to others, which are not here.
    let alone =
        Arg::new("value").value_parser(arg.get_value_parser().clone()).action(ArgAction::Set).allow_hyphen_values(true);
    let command = Command::new("setting").no_binary_name(true).disable_help_flag(true).arg(alone);
    let wrong = |value: &OsString| {
        let error = command.clone().try_get_matches_from([OsString::from("--"), value.clone()]).err()?;
        let shown = if setting.is_secret { String::new() } else { format!(" {:?}", value.to_string_lossy()) };
        Some(format!("{}{shown}: {}", setting.named(), reason(&error)))
    };
    setting.values.iter().filter_map(wrong).collect()
}

fn reason(error: &clap::Error) -> String {
    let allowed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(all)) if !all.is_empty() => Some(all.join(", ")),
        _ => None,
    };
    match (error.kind(), allowed, error.source()) {
        (ErrorKind::InvalidUtf8, ..) => "not UTF-8".to_owned(),
        (_, Some(allowed), _) => format!("not one of {allowed}"),
        (_, _, Some(source)) => source.to_string(),
        _ => "no value".to_owned(),
    }
}

/// The values in a variable: those of a list stand between commas.
pub(crate) fn split(arg: &Arg, value: OsString) -> Vec<OsString> {
    match value.to_str() {
        Some(text) if super::is_list(arg) => {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(OsString::from).collect()
        }
        _ => vec![value],
    }
}
