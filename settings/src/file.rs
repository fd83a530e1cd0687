//! The file: YAML, one key for each setting.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::Mistakes;
use crate::yaml::sentence;

/// Bytes of a file: a hundred times what all settings need, and nothing that hurts to read.
const MAX_FILE: u64 = 1024 * 1024;

/// A file that was read.
#[derive(Debug, Default)]
pub(crate) struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One key and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    /// Where the key is, counted from 1.
    pub(crate) line: u64,
    pub(crate) column: u64,
    value: Value,
}

/// A value as far as it matters here; what a text means is for the flag's parser to say.
#[derive(Debug)]
enum Value {
    Nothing,
    Text(String),
    List(Vec<Value>),
    Map,
}

impl File {
    /// Reads a file that must be there; else one sentence about what is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let named = path.display();
        Self::read_if_there(path)?.ok_or_else(|| format!("{named}: there is no such file"))
    }

    /// Reads a file if it is there.
    pub(crate) fn read_if_there(path: &Path) -> Result<Option<Self>, String> {
        let named = path.display();
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        match read {
            Ok(_) if text.len() as u64 > MAX_FILE => Err(format!("{named}: is larger than {MAX_FILE} bytes")),
            Ok(_) => Self::parse(path, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{named}: {error}")),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let Entries(entries) = serde_saphyr::from_str(text).map_err(|error| explain(path, &error))?;
        Ok(Self { path: path.to_owned(), entries })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name && !matches!(entry.value, Value::Nothing))
    }

    /// Notes every key that is none of these.
    pub(crate) fn check_names(&self, names: &[&str], mistakes: &mut Mistakes) {
        for Entry { name, line, column, .. } in &self.entries {
            if !names.contains(&name.as_str()) {
                let mut known = names.to_vec();
                known.sort_unstable();
                let (path, known) = (self.path.display(), known.join(", "));
                mistakes.0.push(format!("{path}:{line}:{column}: there is no setting {name:?}; there are {known}"));
            }
        }
    }
}

impl Entry {
    /// The value as texts: several only of a list.
    pub(crate) fn texts(&self, is_list: bool) -> Result<Vec<&str>, &'static str> {
        match &self.value {
            Value::Text(text) => Ok(vec![text]),
            Value::List(all) if is_list => all
                .iter()
                .map(|value| match value {
                    Value::Text(text) => Ok(text.as_str()),
                    _ => Err("must be a list of texts"),
                })
                .collect(),
            _ if is_list => Err("must be a text or a list of texts"),
            _ => Err("must be one text, number, true or false"),
        }
    }
}

/// The keys of the file in their order.
struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings, each as `name: value`")
            }

            fn visit_unit<E>(self) -> Result<Entries, E> {
                Ok(Entries(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<Spanned<String>, Value>()? {
                    let (line, column) = (key.referenced.line(), key.referenced.column());
                    entries.push(Entry { name: key.value, line, column, value });
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_any(EntriesVisitor)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nothing)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut all = Vec::new();
                while let Some(value) = seq.next_element()? {
                    all.push(value);
                }
                Ok(Value::List(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Map)
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

fn explain(path: &Path, error: &serde_saphyr::Error) -> String {
    let (path, text) = (path.display(), sentence(error));
    match error.location() {
        Some(place) => format!("{path}:{}:{}: {text}", place.line(), place.column()),
        // The document as a whole.
        None => format!("{path}:1:1: {text}"),
    }
}
