//! What can be changed of a spec by flags.

use longshore_model::quantity;
use longshore_model::spec::{AppSpec, EnvSource, EnvVar, ImageSource};

use crate::error::Error;

/// Changes of a spec; what is `None` or empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Changes")]
pub(crate) struct Changes {
    /// Another image, by tag or digest in a registry.
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,

    /// A variable of the environment, new or with another value; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// A variable that goes; may be given several times.
    #[arg(long, value_name = "NAME")]
    unset_env: Vec<String>,

    /// Other arguments of the program, split as a shell does; an empty text for those of the image.
    #[arg(long, value_name = "WORDS", value_parser = words, allow_hyphen_values = true)]
    args: Option<Words>,

    /// Copies to run on each node.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    instances: Option<u32>,

    /// Limit of CPU of each instance, such as 2, 0.5 or 500m.
    #[arg(long, value_name = "AMOUNT", value_parser = quantity::cpu::parse)]
    cpu: Option<u32>,

    /// Limit of memory of each instance, such as 128Mi.
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes::parse)]
    memory: Option<u64>,
}

/// Words of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words(Vec<String>);

fn words(text: &str) -> Result<Words, &'static str> {
    shlex::split(text).map(Words).ok_or("ends inside quotes or with a backslash")
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("is not NAME=VALUE"),
    }
}

impl Changes {
    /// Whether everything stays as it is.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Makes them. Whether the result is a spec is for the server to say.
    ///
    /// # Errors
    ///
    /// A variable that shall go is not there, or shall be set as well.
    pub(crate) fn apply(self, spec: &mut AppSpec) -> Result<(), Error> {
        for name in &self.unset_env {
            let before = spec.env.len();
            spec.env.retain(|variable| variable.name != *name);
            if spec.env.len() == before {
                return Err(Error::usage(format!("--unset-env {name}: the app's spec has no variable of this name")));
            }
            if self.env.iter().any(|(other, _)| other == name) {
                return Err(Error::usage(format!("--unset-env {name}: --env sets it as well")));
            }
        }
        for (name, value) in self.env {
            let source = EnvSource::Value(value);
            match spec.env.iter_mut().find(|variable| variable.name == name) {
                Some(variable) => variable.source = source,
                None => spec.env.push(EnvVar { name, source }),
            }
        }
        if let Some(reference) = self.image {
            spec.image.source = ImageSource::Reference(reference);
        }
        if let Some(Words(words)) = self.args {
            spec.args = words;
        }
        spec.instances = self.instances.unwrap_or(spec.instances);
        spec.resources.cpu = self.cpu.or(spec.resources.cpu);
        spec.resources.memory = self.memory.or(spec.resources.memory);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot read its input shall fail")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        changes: Changes,
    }

    fn changed(words: &[&str]) -> Result<AppSpec, String> {
        let mut spec = AppSpec::new("till", ImageSource::Reference("till:1".to_owned()));
        let variable = |name: &str| EnvVar { name: name.to_owned(), source: EnvSource::Value("1".to_owned()) };
        spec.env = vec![variable("A"), variable("B")];
        spec.args = vec!["serve".to_owned()];
        spec.resources.memory = Some(1 << 20);
        let line = Line::try_parse_from(["x"].iter().chain(words)).map_err(|error| error.to_string())?;
        line.changes.apply(&mut spec).map_err(|error| error.text())?;
        Ok(spec)
    }

    fn environment(spec: &AppSpec) -> Vec<(&str, &str)> {
        spec.env
            .iter()
            .map(|variable| match &variable.source {
                EnvSource::Value(text) => (variable.name.as_str(), text.as_str()),
                other => unreachable!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let same = changed(&[]).unwrap();
        assert_eq!(environment(&same), [("A", "1"), ("B", "1")]);
        assert_eq!((same.args.len(), same.instances, same.resources.memory), (1, 1, Some(1 << 20)));
        assert!(Line::try_parse_from(["x"]).unwrap().changes.is_nothing());
        assert!(!Line::try_parse_from(["x", "--args", ""]).unwrap().changes.is_nothing());
    }

    #[test]
    fn variables_are_set_in_their_place_added_and_removed() {
        let spec = changed(&["--env", "B=x=y", "--env", "C=", "--unset-env", "A"]).unwrap();
        assert_eq!(environment(&spec), [("B", "x=y"), ("C", "")]);
    }

    #[test]
    fn the_rest_of_the_flags() {
        let flags = ["--image", "till:2", "--args", "-v 'a b'", "--instances", "3", "--cpu", "500m", "--memory", "2Mi"];
        let spec = changed(&flags).unwrap();
        assert_eq!(spec.image.source, ImageSource::Reference("till:2".to_owned()));
        assert_eq!(spec.args, ["-v", "a b"]);
        assert_eq!((spec.instances, spec.resources.cpu, spec.resources.memory), (3, Some(500), Some(2 << 20)));
        assert!(changed(&["--args", ""]).unwrap().args.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (flags, told) in [
            (&["--unset-env", "X"][..], "no variable of this name"),
            (&["--unset-env", "A", "--env", "A=2"], "--env sets it as well"),
            (&["--env", "A"], "is not NAME=VALUE"),
            (&["--env", "=1"], "is not NAME=VALUE"),
            (&["--args", "'a"], "ends inside quotes"),
            (&["--memory", "much"], "much"),
            (&["--instances", "0"], "0 is not in"),
        ] {
            let error = changed(flags).unwrap_err();
            assert!(error.contains(told), "{flags:?}: {error}");
        }
    }
}
