//! The last step inside the container: find the program, and become it.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use longshore_model::failure::FailureReason;
use longshore_model::spec::Ulimit;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};

use super::super::failure;
use super::super::seccomp::Filter;
use super::super::state::Failure;
use super::super::sys;
use super::pty::Pty;
use super::ulimits;
use crate::runtime::RuntimeError;

/// Where programs are looked up when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes the program, and tells the shim through a pipe why it cannot.
///
/// The pipe is closed by exec: an end of file without a word means that the program runs.
#[derive(Clone)]
pub(super) struct Exec {
    /// Words to execute.
    pub(super) args: Vec<String>,
    /// Whole environment.
    pub(super) env: Vec<(String, String)>,
    /// Limits of the program, each within what the shim has raised its own to.
    pub(super) ulimits: Vec<Ulimit>,
    /// What the program runs under.
    pub(super) filter: Option<Filter>,
    /// The terminal that it has instead of the streams of this process.
    pub(super) terminal: Option<Pty>,
    /// Takes a [`Failure`] as JSON.
    pub(super) report: Rc<File>,
}

impl Exec {
    fn tell(&self, error: RuntimeError) -> String {
        let message = error.message.clone();
        if let Ok(json) = serde_json::to_vec(&Failure::from(error)) {
            // If the shim is gone there is nobody left to tell.
            let _ = (&*self.report).write_all(&json);
        }
        message
    }

    fn find(&self) -> Result<PathBuf, RuntimeError> {
        let Some(program) = self.args.first() else { return Err(not_found("", "there is no command")) };
        if program.contains('/') {
            return check(Path::new(program)).map_err(|why| not_found(program, &why));
        }
        let path = self.env.iter().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value.as_str());
        let mut why = format!("it is not in the container's PATH ({path})");
        for directory in path.split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            match check(&Path::new(directory).join(program)) {
                Ok(found) => return Ok(found),
                Err(unfit) if unfit != MISSING => why = format!("{directory}/{program}: {unfit}"),
                Err(_) => {}
            }
        }
        Err(not_found(program, &why))
    }

    fn become_program(&self) -> Result<Infallible, RuntimeError> {
        let path = self.find()?;
        let program = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        let args = words(self.args.iter().cloned());
        let env = words(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        sys::default_signals().map_err(|e| failure::io("resetting signals", e))?;
        // Here and not by the library, which would have to make the rest of the container under them.
        ulimits::set(&self.ulimits)?;
        if let Some(terminal) = &self.terminal {
            terminal.take().map_err(|e| failure::io("opening a terminal in the container", e))?;
        }
        if let Some(filter) = &self.filter {
            // Last of all: the filter has to allow only what the program may do, and what tells of its absence.
            filter.install().map_err(|e| failure::other(format!("the filter of system calls is not taken: {e}")))?;
        }
        execve(&program, &args, &env).map_err(|error| {
            let why = match error {
                Errno::ENOEXEC => "it is no program for this machine",
                Errno::ENOENT => "the interpreter or loader that it names is missing",
                Errno::EACCES => "it may not be executed by the container's user",
                other => other.desc(),
            };
            not_found(&path.display().to_string(), why)
        })
    }
}

const MISSING: &str = "there is no such file in the container";

/// Whether the file can be executed by the user that the container runs as.
fn check(path: &Path) -> Result<PathBuf, String> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Err(MISSING.to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    if meta.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if meta.permissions().mode() & 0o111 == 0 || access(path, AccessFlags::X_OK).is_err() {
        return Err("it may not be executed by the container's user".to_owned());
    }
    Ok(path.to_owned())
}

fn not_found(program: &str, why: &str) -> RuntimeError {
    failure::because(FailureReason::CommandNotFound, format!("the command {program:?} cannot be executed: {why}"))
}

fn words(texts: impl Iterator<Item = String>) -> Vec<CString> {
    // The API and the image parser refuse a zero byte; one that came through all the same ends the word.
    texts.map(|text| CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()).collect()
}

impl Executor for Exec {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        match self.find() {
            Ok(_) => Ok(()),
            Err(error) => Err(ExecutorValidationError::ArgValidationError(self.tell(error))),
        }
    }

    /// The environment is given to execve; the shim's own stays behind by itself.
    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), libcontainer::workload::ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let Err(error) = self.become_program();
        Err(ExecutorError::Other(self.tell(error)))
    }
}
