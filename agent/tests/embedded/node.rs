//! A node for one test: its own data directory, its own cgroups, and a check at the end that nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use longshore_agent::runtime::embedded::{EgressChoice, EmbeddedRuntime, Settings, reset};
use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{InstanceKey, Launch, LogLine, LogQuery, Rotation, Runtime, RuntimeError};
use longshore_demo_image::DemoImage;
use longshore_model::app::{BoundPort, InstanceExit};
use longshore_model::name::AppName;
use longshore_model::spec::{AppSpec, Image, ImageSource, Protocol};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A wait that lasts longer is a failed test.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Node {
    directory: TempDir,
    pub uid: String,
    data_dir: PathBuf,
    runtime: Option<EmbeddedRuntime>,
    runs: AtomicU32,
}

/// A failed test must not leave containers on the machine.
impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.runtime = None;
            let _ = reset(&self.data_dir);
        }
    }
}

impl Node {
    pub fn new() -> Self {
        Self::with(Rotation::default(), "data")
    }

    /// With its own rotation of output, and the name of its data directory.
    pub fn with(rotation: Rotation, data_dir: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("longshore").rand_bytes(10).tempdir().unwrap();
        let uid = directory.path().file_name().unwrap().to_str().unwrap().to_owned();
        let data_dir = directory.path().join(data_dir);
        let mut node = Self { directory, uid, data_dir, runtime: None, runs: AtomicU32::new(0) };
        node.runtime = Some(node.open(rotation));
        node
    }

    fn open(&self, rotation: Rotation) -> EmbeddedRuntime {
        let settings = Settings {
            data_dir: self.data_dir(),
            node_uid: self.uid.clone(),
            shim: PathBuf::from(env!("CARGO_BIN_EXE_longshore-agent")),
            rotation,
            // These tests run in the machine's own network, whose packet filter is none of their business.
            egress: EgressChoice::Off,
        };
        EmbeddedRuntime::open(settings, &RegistryConfig::default()).unwrap()
    }

    /// As when the agent is restarted: all that was in memory is gone.
    pub fn restart(&mut self) {
        self.runtime = None;
        self.runtime = Some(self.open(Rotation::default()));
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    pub fn runtime(&self) -> &EmbeddedRuntime {
        self.runtime.as_ref().unwrap()
    }

    pub fn key(&self, app: &str) -> InstanceKey {
        InstanceKey { app: AppName::parse(app).unwrap(), index: 0 }
    }

    /// A launch of the demo image, with parts of the spec replaced by `spec`.
    pub async fn launch(&self, app: &str, image: DemoImage, spec: Value) -> Launch {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let archive = self.path().join(format!("image-{run}.tar"));
        fs::write(&archive, image.oci_archive()).unwrap();
        let image = Image { source: ImageSource::Archive(archive.to_str().unwrap().to_owned()), pull_policy: None };
        let mut whole = json!({ "name": "t", "image": image });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: AppSpec = serde_json::from_value(whole).unwrap();
        let image = self.runtime().resolve(&image).await.unwrap();
        self.runtime().pull(&image, Arc::new(|_| {})).await.unwrap();
        Launch { instance: self.key(app), revision: 7, run, image, spec: Arc::new(spec), env: vec![], ports: vec![] }
    }

    /// Creates and starts.
    pub async fn run(&self, launch: &Launch) -> Result<InstanceKey, RuntimeError> {
        self.runtime().create(launch).await?;
        self.runtime().start(&launch.instance).await?;
        Ok(launch.instance.clone())
    }

    /// Creates, starts and waits for the end of the demo program with these words.
    pub async fn outcome(&self, app: &str, args: &[&str], spec: Value) -> InstanceExit {
        let mut spec = spec;
        spec["args"] = json!(args);
        let launch = self.launch(app, DemoImage::new(), spec).await;
        let key = self.run(&launch).await.unwrap();
        self.wait(&key).await
    }

    pub async fn wait(&self, key: &InstanceKey) -> InstanceExit {
        tokio::time::timeout(PATIENCE, self.runtime().wait(key)).await.expect("the container ends").unwrap()
    }

    pub async fn lines(&self, key: &InstanceKey, tail: Option<u32>) -> Vec<LogLine> {
        let query = LogQuery { instance: key.clone(), tail, follow: false };
        match self.runtime().logs(query).await.unwrap() {
            Some(stream) => stream.collect().await,
            None => Vec::new(),
        }
    }

    pub async fn texts(&self, key: &InstanceKey) -> Vec<String> {
        let lines = self.lines(key, None).await;
        lines.into_iter().map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect()
    }

    /// The pid of the instance's shim, read from the lock's owner as the kernel tells it.
    pub fn shim_pid(&self, launch: &Launch) -> i32 {
        let directory = self.container(launch);
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|pid: &i32| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let mut words = words.split(|&byte| byte == 0);
                words.nth(1) == Some(b"shim") && words.next() == Some(directory.as_os_str().as_encoded_bytes())
            })
            .expect("the shim lives")
    }

    pub fn container(&self, launch: &Launch) -> PathBuf {
        let InstanceKey { app, index } = &launch.instance;
        let data = fs::canonicalize(self.data_dir()).unwrap();
        data.join(format!("runtime/containers/{app}-{index}-{}", launch.run))
    }

    /// Cgroups, mounts and processes of this node.
    pub fn leftovers(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let here = self.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}")));
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = hierarchy.path().join("longshore").join(&self.uid);
            let containers = fs::read_dir(&group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
            found.extend(containers.map(|container| format!("cgroup {}", container.path().display())));
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains(&format!("shim\0{here}")) {
                found.insert(format!("process {}", process.path().display()));
            }
        }
        found
    }

    /// Removes the node, and fails the test if that leaves anything.
    pub async fn end(mut self) {
        self.runtime = None;
        let data = self.data_dir();
        reset(&data).unwrap();
        reset(&data).unwrap();
        eventually("nothing is left", || self.leftovers().is_empty()).await;
        assert!(!data.join("runtime").exists());
        assert!(!Path::new("/sys/fs/cgroup/memory/longshore").join(&self.uid).exists());
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port that is free at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

pub fn port(protocol: Protocol, host_port: u16, container_port: u16) -> BoundPort {
    BoundPort { instance: 0, container_port, host_port, protocol, host_ip: Ipv4Addr::LOCALHOST }
}

/// Sends an HTTP request, again until it is answered, and returns the body.
pub async fn http(port: u16, request: &'static str) -> String {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    tokio::task::spawn_blocking(move || {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match once(address, request) {
                Ok(body) => return body,
                Err(error) if std::time::Instant::now() >= deadline => panic!("{request} on {port}: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    })
    .await
    .unwrap()
}

fn once(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{request} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(body.trim_end().to_owned())
}

/// Sends a datagram, again until it comes back.
pub async fn udp_echo(port: u16, text: &'static str) {
    tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut buffer = [0; 1500];
        loop {
            let _ = socket.send(text.as_bytes());
            if let Ok(length) = socket.recv(&mut buffer) {
                assert_eq!(&buffer[..length], text.as_bytes());
                return;
            }
            assert!(std::time::Instant::now() < deadline, "no echo on {port}");
        }
    })
    .await
    .unwrap();
}
