//! Which server to talk to, and as whom.

use std::path::PathBuf;

/// Where a server listens for people unless it is told otherwise.
const DEFAULT_SERVER: &str = "localhost:7440";

/// Which server, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Connection {
    /// Address of the server, HOST:PORT.
    #[arg(long, global = true, env = "LONGSHORE_SERVER", default_value = DEFAULT_SERVER, value_name = "HOST:PORT")]
    pub(crate) server: String,

    /// Directory with root.crt, client.crt and client.key [default: ~/.config/longshore].
    #[arg(long, global = true, env = "LONGSHORE_CREDENTIALS", value_name = "DIR")]
    pub(crate) credentials: Option<PathBuf>,
}

impl Connection {
    /// The directory with the credentials.
    pub(crate) fn credentials(&self) -> PathBuf {
        match &self.credentials {
            Some(directory) => directory.clone(),
            None => directory(),
        }
    }

    /// The beginning of a command line that reaches the same server, for advice on what to run next.
    pub(crate) fn command(&self) -> String {
        self.command_of(&program())
    }

    fn command_of(&self, program: &str) -> String {
        let from_environment = |name: &str| std::env::var(name).ok();
        let mut words = vec![program.to_owned()];
        if self.server != DEFAULT_SERVER && from_environment("LONGSHORE_SERVER").as_ref() != Some(&self.server) {
            words.extend(["--server".to_owned(), self.server.clone()]);
        }
        if let Some(directory) = self.credentials.as_ref().map(|path| path.display().to_string())
            && from_environment("LONGSHORE_CREDENTIALS").as_ref() != Some(&directory)
        {
            words.extend(["--credentials".to_owned(), directory]);
        }
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }
}

/// Where a person's credentials and settings are, unless they say otherwise.
pub(crate) fn directory() -> PathBuf {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().unwrap_or_default().join(".config");
    config.unwrap_or_else(home).join("longshore")
}

/// This program as it was called, so that advice can be copied: `longshore`, or a path where it is not on PATH.
pub(crate) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "longshore".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_repeats_what_was_given() {
        let connection =
            Connection { server: "ship:7440".to_owned(), credentials: Some(PathBuf::from("/tmp/with blank")) };
        assert_eq!(connection.command_of("longshore"), "longshore --server ship:7440 --credentials '/tmp/with blank'");
        let default = Connection { server: DEFAULT_SERVER.to_owned(), credentials: None };
        assert_eq!(default.command_of("./longshore"), "./longshore");
    }
}
