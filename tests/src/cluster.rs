//! A server and its nodes, from built binaries, in a directory of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use longshore_proto::v1;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::host::Host;
use crate::process::{Running, command, output, succeed};
use crate::wait;

/// A server with its data directory, and an archive of the demo image for its nodes.
///
/// Nodes are declared after the server they belong to, and so dropped before it.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    namespace: Option<String>,
    san: String,
    arguments: Vec<String>,
    addresses: Option<Addresses>,
    server: Option<Running>,
}

#[derive(Clone, Debug)]
struct Addresses {
    api: String,
    agents: String,
}

impl Cluster {
    /// Starts a server on this machine's loopback, on free ports.
    pub async fn start() -> Self {
        Self::start_on(None).await
    }

    /// Starts a server on a host; the calling thread must be on a host that reaches it.
    pub async fn start_on(host: Option<&Host>) -> Self {
        let mut cluster = Self::uninitialised(host);
        succeed(&mut cluster.init(&["--san", &cluster.san]));
        cluster.start_server().await;
        cluster
    }

    /// A directory for a server that is neither initialised nor started.
    pub fn uninitialised(host: Option<&Host>) -> Self {
        let directory = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
        std::fs::write(directory.path().join("image.tar"), longshore_demo_image::archive(None)).unwrap();
        let san = host.map_or("127.0.0.1".to_owned(), |host| host.address.to_string());
        Self {
            directory,
            namespace: host.map(|host| host.namespace().to_owned()),
            san,
            arguments: Vec::new(),
            addresses: None,
            server: None,
        }
    }

    /// `longshore-server init` for its directory.
    pub fn init(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("longshore-server");
        command.arg("init").arg("--data-dir").arg(self.server_dir()).args(arguments);
        command
    }

    fn command(&self, name: &str) -> Command {
        command(name, self.namespace.as_deref())
    }

    /// The directory in which everything of this cluster is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The server's data directory.
    pub fn server_dir(&self) -> PathBuf {
        self.directory.path().join("server")
    }

    /// Path of an archive of the demo image, for specs.
    pub fn image(&self) -> String {
        self.directory.path().join("image.tar").display().to_string()
    }

    /// Writes a file into the cluster's directory and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// Starts the server, after a kill on the ports that it had before.
    pub async fn start_server(&mut self) {
        let (api, agents) = match &self.addresses {
            Some(addresses) => (addresses.api.clone(), addresses.agents.clone()),
            None => (format!("{}:0", self.san), format!("{}:0", self.san)),
        };
        let file = self.server_dir().join("addresses.json");
        let _ = std::fs::remove_file(&file);
        let mut command = self.command("longshore-server");
        command.arg("run").arg("--data-dir").arg(self.server_dir());
        command.args(["--api-listen", &api, "--agent-listen", &agents]).args(&self.arguments);
        let mut server = Running::start(&mut command, &self.directory.path().join("server.log"));
        let addresses = wait::for_value("the server's addresses", || {
            assert!(server.ended().is_none(), "the server ended:\n{}", server.output());
            let text = std::fs::read(&file).ok();
            async move { text.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok()) }
        })
        .await;
        let field = |name: &str| addresses[name].as_str().unwrap().to_owned();
        self.addresses = Some(Addresses { api: field("api"), agents: field("agents") });
        self.server = Some(server);
    }

    /// Stops the server and starts it with these further arguments for `longshore-server run`.
    pub async fn restart_server_with(&mut self, arguments: &[&str]) {
        assert!(self.stop_server());
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.start_server().await;
    }

    /// Kills the server with SIGKILL.
    pub fn kill_server(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Ends the server with SIGTERM and returns whether it ended well.
    pub fn stop_server(&mut self) -> bool {
        self.server.take().unwrap().terminate().success()
    }

    /// Whether the server has ended, and how.
    pub fn server_ended(&mut self) -> Option<ExitStatus> {
        self.server.as_mut().unwrap().ended()
    }

    /// The server's process id.
    pub fn server_pid(&self) -> Pid {
        self.server.as_ref().unwrap().pid()
    }

    /// What the server logged.
    pub fn server_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Address of the listener for people.
    pub fn api_address(&self) -> &str {
        &self.addresses.as_ref().unwrap().api
    }

    /// Address where metrics are served, when the server was started with `--metrics-listen`.
    pub fn metrics_address(&self) -> String {
        let text = std::fs::read(self.server_dir().join("addresses.json")).unwrap();
        let addresses: serde_json::Value = serde_json::from_slice(&text).unwrap();
        addresses["metrics"].as_str().unwrap().to_owned()
    }

    /// Address of the listener for agents.
    pub fn agents_address(&self) -> &str {
        &self.addresses.as_ref().unwrap().agents
    }

    /// Directory with the first admin's credentials.
    pub fn admin(&self) -> PathBuf {
        self.server_dir().join("admin")
    }

    /// A client with the first admin's credentials.
    pub async fn client(&self) -> Client {
        Client::connect(self.api_address(), &self.admin()).await
    }

    /// The `longshore` command with this cluster's server and credentials.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("longshore");
        command.env("LONGSHORE_SERVER", self.api_address()).env("LONGSHORE_CREDENTIALS", self.admin());
        command.args(arguments);
        command
    }

    /// Makes an enrolment token with labels.
    pub async fn token(&self, labels: &[(&str, &str)]) -> String {
        let labels: BTreeMap<_, _> = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let request = v1::CreateEnrollmentTokenRequest { labels: labels.into_iter().collect(), ..Default::default() };
        self.client().await.nodes.create_enrollment_token(request).await.unwrap().into_inner().token
    }

    /// Makes an enrolment token for exactly this name.
    pub async fn token_for(&self, name: &str) -> String {
        let request = v1::CreateEnrollmentTokenRequest { node_name: name.to_owned(), ..Default::default() };
        self.client().await.nodes.create_enrollment_token(request).await.unwrap().into_inner().token
    }

    /// Enrols a node with the embedded runtime and waits until it is connected.
    pub async fn node(&self, name: &str) -> Node {
        self.node_with(name, &[], None, &[]).await
    }

    /// Enrols a node with labels, on a host, with further arguments for `longshore-agent run`, and waits until it is
    /// connected.
    pub async fn node_with(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        host: Option<&Host>,
        arguments: &[&str],
    ) -> Node {
        let mut node = self.enroll(name, labels, host, arguments).await;
        node.start();
        let client = self.client().await;
        wait::until(&format!("the session of {name}"), || {
            assert!(node.is_running(), "the agent ended:\n{}", node.log());
            let client = client.clone();
            let name = name.to_owned();
            async move { client.is_connected(&name).await }
        })
        .await;
        node
    }

    /// Enrols a node and leaves its agent off.
    pub async fn enroll(&self, name: &str, labels: &[(&str, &str)], host: Option<&Host>, arguments: &[&str]) -> Node {
        let token = self.token(labels).await;
        let directory = self.directory.path().join(name);
        let node = Node {
            name: name.to_owned(),
            namespace: host.map(|host| host.namespace().to_owned()),
            directory,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            agent: None,
        };
        let mut enroll = node.command();
        enroll.arg("enroll").arg("--data-dir").arg(&node.directory);
        succeed(enroll.args(["--server", self.agents_address(), "--token", &token, "--name", name]));
        node
    }
}

/// An enrolled node. Dropping it kills the agent and resets the node.
#[derive(Debug)]
pub struct Node {
    name: String,
    namespace: Option<String>,
    directory: PathBuf,
    arguments: Vec<String>,
    agent: Option<Running>,
}

impl Node {
    fn command(&self) -> Command {
        command("longshore-agent", self.namespace.as_deref())
    }

    fn log_file(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The agent's data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The node's doctor, with the settings that its agent has.
    pub fn doctor(&self) -> Command {
        let mut command = self.command();
        self.with_settings("doctor", &mut command);
        command
    }

    /// Adds the words that run the agent.
    fn run(&self, command: &mut Command) {
        self.with_settings("run", command);
    }

    fn with_settings(&self, word: &str, command: &mut Command) {
        command.arg(word).arg("--data-dir").arg(&self.directory).args(&self.arguments);
        if self.namespace.is_none() {
            // The machine's own packet filter is none of the tests' business.
            command.args(["--egress", "off"]);
        }
    }

    /// Replaces the further arguments of `longshore-agent run`, from its next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        let mut command = self.command();
        self.run(&mut command);
        self.agent = Some(Running::start(&mut command, &self.log_file()));
    }

    /// Starts the agent as the first process but one of PID and mount namespaces of its own: killing it then ends
    /// everything that it started, and its mounts are gone, as when a machine is switched off.
    pub fn start_as_machine(&mut self) {
        let agent = self.command();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--fork", "--mount-proc", "--kill-child=KILL"]);
        command.arg(agent.get_program()).args(agent.get_args());
        self.run(&mut command);
        self.agent = Some(Running::start(&mut command, &self.log_file()));
    }

    /// Whether the agent runs.
    pub fn is_running(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| agent.ended().is_none())
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(&mut self) {
        self.agent.take().unwrap().kill();
    }

    /// The agent's process id.
    pub fn pid(&self) -> Pid {
        self.agent.as_ref().unwrap().pid()
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        self.agent.as_ref().unwrap().signal(signal);
    }

    /// Ends the agent with SIGTERM and returns whether it ended well.
    pub fn stop(&mut self) -> bool {
        self.agent.take().unwrap().terminate().success()
    }

    /// What the agent logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until the agent itself has written that its session is complete: the server knows of it earlier.
    pub async fn has_its_set(&self) {
        let has_set = || async { self.log().contains("the full set of assignments is here") };
        wait::until("the agent's own word of its session", has_set).await;
    }

    /// Pids of the processes whose cgroup or command line names this node's data directory.
    pub fn shims(&self) -> Vec<u32> {
        let wanted = self.directory.display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
                (line.contains("shim") && line.contains(&wanted)).then_some(pid)
            })
            .collect()
    }
}

impl Node {
    /// Instances, such as `app-x1-0`, whose containers run, each once for each of them.
    pub fn containers(&self) -> Vec<String> {
        let wanted = format!("{}/runtime/containers/", self.directory.display());
        let instance = |pid: u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let (_, container) = line.split_once(&wanted)?;
            let (instance, _run) = container.trim_end_matches('\0').rsplit_once('-')?;
            Some(instance.to_owned())
        };
        self.shims().into_iter().filter_map(instance).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.agent.take());
        assert!(std::thread::panicking() || self.directory.exists(), "a node must be dropped before its cluster");
        let reset = output(self.command().arg("reset").arg("--data-dir").arg(&self.directory));
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        } else {
            assert!(reset.status.success(), "reset failed: {}", String::from_utf8_lossy(&reset.stderr));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.server.take());
        if std::thread::panicking() {
            eprintln!("--- log of the server:\n{}", self.server_log());
        }
    }
}
