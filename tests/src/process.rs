//! The built binaries as child processes.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Path of a built binary: beside the running program, or beside the directory of the running test.
///
/// # Panics
///
/// When it was not built: `cargo test` builds a package's own binaries only, so `cargo build --workspace` comes first.
pub fn binary(name: &str) -> PathBuf {
    let running = std::env::current_exe().unwrap();
    let mut directories = running.ancestors().skip(1).take(2);
    let found = directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()));
    found.unwrap_or_else(|| panic!("{name} is missing: run `cargo build --workspace` first"))
}

/// A command that runs a built binary, inside `host`'s network namespace where one is given.
pub fn command(name: &str, namespace: Option<&str>) -> Command {
    match namespace {
        None => Command::new(binary(name)),
        Some(namespace) => {
            // nsenter and not `ip netns exec`, which would mount a new /sys and hide the cgroups.
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{namespace}")).arg(binary(name));
            command
        }
    }
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command to its end and panics with its output unless it succeeded.
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed with {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// A child that runs until it is ended, with its output in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command whose output is appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program is on the PATH.
pub fn is_installed(program: impl AsRef<OsStr>) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program.as_ref()).exists())
}

/// Kills a process and all its descendants with SIGKILL, as the end of a machine would.
pub fn kill_tree(pid: u32) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    for child in children.split_whitespace() {
        kill_tree(child.parse().unwrap());
    }
}
