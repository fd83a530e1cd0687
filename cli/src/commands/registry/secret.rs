//! Where a password comes from: never from an argument, which everybody on the machine can read.

use std::io::Read;
use std::path::{Path, PathBuf};

use longshore_model::secret::Secret;

use crate::error::Error;

/// Bytes read of a password: more than the server takes, so that it says what is wrong.
const MAX_PASSWORD: u64 = 64 * 1024;

/// Variable that may hold it.
const VARIABLE: &str = "LONGSHORE_REGISTRY_PASSWORD";

/// Where to read a password.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// File to read the password from, `-` for standard input; else it is taken from LONGSHORE_REGISTRY_PASSWORD.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Source {
    /// Whether one was named: the file, or the variable.
    pub(super) fn is_given(&self) -> bool {
        self.password_file.is_some() || std::env::var_os(VARIABLE).is_some()
    }

    /// Reads it, from standard input when nothing else was named. One line's end after it is not part of it.
    pub(super) fn read(&self) -> Result<Secret, Error> {
        if let (None, Ok(text)) = (&self.password_file, std::env::var(VARIABLE)) {
            return read(text.as_bytes(), VARIABLE);
        }
        match self.password_file.as_deref().filter(|file| *file != Path::new("-")) {
            None => read(std::io::stdin().lock(), "standard input"),
            Some(file) => {
                let named = file.display().to_string();
                let opened = std::fs::File::open(file);
                read(opened.map_err(|error| Error::io(format!("cannot read {named}"), error))?, &named)
            }
        }
    }
}

fn read(from: impl Read, named: &str) -> Result<Secret, Error> {
    let mut text = String::new();
    let done = from.take(MAX_PASSWORD).read_to_string(&mut text);
    done.map_err(|error| Error::io(format!("cannot read the password from {named}"), error))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Error::new(format!(
            "{named} holds no password; it can be piped in, read with --password-file, or be in {VARIABLE}"
        )));
    }
    Ok(Secret::new(password.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_end_of_a_line_is_not_part_of_a_password() {
        for (text, password) in [("a b", "a b"), ("ab\n", "ab"), ("ab\r\n", "ab"), ("ab\n\n", "ab\n")] {
            assert_eq!(read(text.as_bytes(), "here").unwrap().reveal(), password, "{text:?}");
        }
        for empty in ["", "\n", "\r\n"] {
            assert!(read(empty.as_bytes(), "here").unwrap_err().to_string().contains("no password"), "{empty:?}");
        }
    }
}
