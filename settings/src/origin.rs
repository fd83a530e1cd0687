//! Where a value comes from.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The variable of this name.
    Variable(String),
    /// The file.
    File {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
    },
    /// Nobody gave one.
    Default,
}

/// One setting as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    id: String,
    /// Its name in the file, and with two dashes on the command line.
    pub name: String,
    /// Where its value comes from.
    pub origin: Origin,
    /// Its value, several of a list, none where there is none.
    pub(crate) values: Vec<OsString>,
    /// Whether its values may be shown.
    pub(crate) is_secret: bool,
    /// Whether its values can be read.
    pub(crate) is_good: bool,
}

impl Setting {
    pub(crate) fn new(id: &str, name: String, origin: Origin, values: Vec<OsString>, is_secret: bool) -> Self {
        Self { id: id.to_owned(), name, origin, values, is_secret, is_good: true }
    }

    /// What it was called where it was given, for the beginning of a sentence about it.
    #[must_use]
    pub fn named(&self) -> String {
        match &self.origin {
            Origin::Flag | Origin::Default => format!("--{}", self.name),
            Origin::Variable(name) => name.clone(),
            Origin::File { path, line, column } => format!("{}:{line}:{column}: {}", path.display(), self.name),
        }
    }
}

/// All settings of a command, as they were read.
///
/// As text it is a file that means the same, with the origin of each value as a comment. Secrets are left out.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<Setting>);

impl FromIterator<Setting> for Origins {
    fn from_iter<I: IntoIterator<Item = Setting>>(settings: I) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl Origins {
    /// The setting of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.name == name)
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.id == id)
    }

    /// What a setting was called where it was given: `--api-listen`, a variable, or a place in the file.
    #[must_use]
    pub fn named(&self, name: &str) -> String {
        self.get(name).map_or_else(|| format!("--{name}"), Setting::named)
    }

    /// Whether the setting's value could be read; nothing more can be said of one that could not.
    #[must_use]
    pub fn is_good(&self, name: &str) -> bool {
        self.get(name).is_none_or(|setting| setting.is_good)
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut settings: Vec<&Setting> = self.0.iter().collect();
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        for Setting { name, origin, values, is_secret, .. } in settings {
            let origin = match origin {
                Origin::Flag => format!("--{name}"),
                Origin::Variable(variable) => variable.clone(),
                Origin::File { path, line, .. } => format!("{}:{line}", path.display()),
                Origin::Default => "default".to_owned(),
            };
            match values.as_slice() {
                [] => writeln!(f, "# {name}: not set")?,
                _ if *is_secret => writeln!(f, "# {name}: hidden  # {origin}")?,
                [only] => writeln!(f, "{name}: {}  # {origin}", quoted(only))?,
                all => {
                    let all: Vec<String> = all.iter().map(quoted).collect();
                    writeln!(f, "{name}: [{}]  # {origin}", all.join(", "))?;
                }
            }
        }
        Ok(())
    }
}

/// A text as YAML, in quotes unless it needs none.
fn quoted(value: &OsString) -> String {
    let text = value.to_string_lossy();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./:_=+-".contains(&byte);
    let starts_plainly =
        text.as_bytes().first().is_some_and(|first| first.is_ascii_alphanumeric() || b"/.".contains(first));
    if starts_plainly && text.bytes().all(is_plain) && !text.ends_with(':') {
        return text.into_owned();
    }
    // Single quotes know one escape only; what cannot be printed needs the others.
    if text.chars().any(char::is_control) { format!("{text:?}") } else { format!("'{}'", text.replace('\'', "''")) }
}
