//! Where the values of config maps and secrets come from, and which of them an update is about.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use longshore_model::limits::MAX_CONFIGURATION;
use longshore_model::secret::SecretBytes;

use crate::error::Error;

/// Bytes read of a file: more than the server takes, so that it says what is wrong.
const READ: u64 = 2 * MAX_CONFIGURATION as u64;

/// Values by key.
pub(super) type Values = BTreeMap<String, SecretBytes>;

/// Files to read values from.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// File whose content is a value, as it is; `-` is standard input, and needs a key. The key is the file's name where none is given.
    #[arg(long = "file", value_name = "[KEY=]FILE")]
    files: Vec<String>,

    /// File with a key and its value on each line, as KEY=VALUE; `-` is standard input. Empty lines, and those that begin with `#`, do not count.
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<String>,
}

/// What an update does with the keys that it does not name.
#[derive(Debug, clap::Args)]
pub(super) struct Others {
    /// Key to remove.
    #[arg(long = "remove", value_name = "KEY", conflicts_with = "replace")]
    removed: Vec<String>,

    /// Remove every key that is not given.
    #[arg(long)]
    replace: bool,
}

/// The file of `KEY=FILE` or `FILE`; it may have `=` in its name.
fn file_of(given: &str) -> &str {
    given.split_once('=').map_or(given, |(_, file)| file)
}

impl Files {
    /// Reads all of them, after `values`. A key that comes twice is a mistake.
    pub(super) fn read(&self, mut values: Values) -> Result<Values, Error> {
        let from_stdin = self.files.iter().filter(|given| file_of(given) == "-").count()
            + self.env_files.iter().filter(|file| *file == "-").count();
        if from_stdin > 1 {
            return Err(Error::new("standard input can be read once only"));
        }
        for given in &self.files {
            let (key, file) = match given.split_once('=') {
                Some((key, file)) => (key.to_owned(), file),
                None if given == "-" => return Err(Error::new("standard input needs a key, as in KEY=-")),
                None => {
                    let name = Path::new(given).file_name().and_then(|name| name.to_str());
                    (name.unwrap_or_default().to_owned(), given.as_str())
                }
            };
            add(&mut values, key, content(file)?)?;
        }
        for file in &self.env_files {
            let bytes = content(file)?;
            let text =
                std::str::from_utf8(bytes.reveal()).map_err(|_| Error::new(format!("{} is no text", named(file))))?;
            for (index, line) in text.lines().enumerate() {
                if line.trim().is_empty() || line.starts_with('#') {
                    continue;
                }
                // Not the line itself, which may be a password.
                let no_pair = || Error::new(format!("line {} of {} is not KEY=VALUE", index + 1, named(file)));
                let (key, value) = line.split_once('=').ok_or_else(no_pair)?;
                add(&mut values, key.trim().to_owned(), SecretBytes::new(value.as_bytes().to_vec()))?;
            }
        }
        Ok(values)
    }
}

impl Others {
    /// The mask of an update that gives these values.
    pub(super) fn mask(&self, values: &Values) -> Result<Vec<String>, Error> {
        if self.replace && !values.is_empty() {
            return Ok(vec!["data".to_owned()]);
        }
        if let Some(key) = self.removed.iter().find(|key| values.contains_key(*key)) {
            return Err(Error::new(format!("the key {key} is both given and removed")));
        }
        let keys: Vec<String> = values.keys().chain(&self.removed).map(|key| format!("data.`{key}`")).collect();
        if keys.is_empty() {
            Err(Error::new("nothing to change was given; --help lists what there is"))
        } else {
            Ok(keys)
        }
    }
}

/// Values that stand on the command line.
pub(super) fn literals(given: &[String]) -> Result<Values, Error> {
    let mut values = Values::new();
    for literal in given {
        let no_pair = || Error::new(format!("{literal:?} is not KEY=VALUE"));
        let (key, value) = literal.split_once('=').ok_or_else(no_pair)?;
        add(&mut values, key.to_owned(), SecretBytes::new(value.as_bytes().to_vec()))?;
    }
    Ok(values)
}

/// Values as texts.
pub(super) fn texts(values: Values) -> Result<BTreeMap<String, String>, Error> {
    let text = |(key, value): (String, SecretBytes)| match String::from_utf8(value.reveal().to_vec()) {
        Ok(text) => Ok((key, text)),
        Err(_) => Err(Error::new(format!("the value of {key} is no text; only secrets hold other bytes"))),
    };
    values.into_iter().map(text).collect()
}

/// Values as bytes, for the wire.
pub(super) fn bytes(values: Values) -> BTreeMap<String, Vec<u8>> {
    values.into_iter().map(|(key, value)| (key, value.reveal().to_vec())).collect()
}

fn add(values: &mut Values, key: String, value: SecretBytes) -> Result<(), Error> {
    if values.contains_key(&key) {
        return Err(Error::new(format!("the key {key} is given twice")));
    }
    values.insert(key, value);
    Ok(())
}

fn named(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

fn content(file: &str) -> Result<SecretBytes, Error> {
    let fail = |error| Error::io(format!("cannot read {}", named(file)), error);
    let mut bytes = Vec::new();
    let done = if file == "-" {
        std::io::stdin().lock().take(READ).read_to_end(&mut bytes)
    } else {
        File::open(file).map_err(fail)?.take(READ).read_to_end(&mut bytes)
    };
    done.map_err(fail)?;
    Ok(SecretBytes::new(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn shown(values: &Values) -> Vec<(&str, &[u8])> {
        values.iter().map(|(key, value)| (key.as_str(), value.reveal())).collect()
    }

    #[test]
    fn values_come_from_literals_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("key.pem"), b"\xff\n").unwrap();
        std::fs::write(path("env"), "# a comment\n\nB=x=y\n C =\n").unwrap();
        let files =
            Files { files: vec![path("key.pem"), format!("k={}", path("key.pem"))], env_files: vec![path("env")] };
        let values = files.read(literals(&["A=1".to_owned()]).unwrap()).unwrap();
        let expected: [(&str, &[u8]); 5] =
            [("A", b"1"), ("B", b"x=y"), ("C", b""), ("k", b"\xff\n"), ("key.pem", b"\xff\n")];
        assert_eq!(shown(&values), expected);
        assert!(texts(values).unwrap_err().to_string().contains("the value of k is no text"));
    }

    #[test]
    fn mistakes_are_named_without_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let env = dir.path().join("env").to_str().unwrap().to_owned();
        std::fs::write(&env, "A=1\ncanary\n").unwrap();
        let read = |files: &[&str], env_files: &[&str]| {
            let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Files { files: own(files), env_files: own(env_files) }.read(Values::new()).unwrap_err().to_string()
        };
        assert_eq!(read(&[], &[&env]), format!("line 2 of {env} is not KEY=VALUE"));
        assert_eq!(read(&["-"], &[]), "standard input needs a key, as in KEY=-");
        assert_eq!(read(&["a=-"], &["-"]), "standard input can be read once only");
        assert!(literals(&["A=1".to_owned(), "A=2".to_owned()]).unwrap_err().to_string().contains("given twice"));
    }

    #[test]
    fn an_update_is_about_what_it_names() {
        let values = literals(&["a.b=1".to_owned()]).unwrap();
        let mask = |removed: &[&str], replace, values: &Values| {
            Others { removed: removed.iter().map(|key| (*key).to_owned()).collect(), replace }.mask(values)
        };
        assert_eq!(mask(&["c"], false, &values).unwrap(), ["data.`a.b`", "data.`c`"]);
        assert_eq!(mask(&[], true, &values).unwrap(), ["data"]);
        assert!(mask(&["a.b"], false, &values).is_err());
        assert!(mask(&[], false, &Values::new()).is_err());
    }
}
