//! A node for one test, whatever its runtime: its own data directory, and a check at the end that nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use longshore_agent::accelerators::Attached;
use longshore_agent::runtime::{
    Access, Allowances, InstanceKey, Launch, LogLine, LogQuery, Purpose, Rotation, Runtime, RuntimeError, Selection,
};
use longshore_demo_image::DemoImage;
use longshore_model::app::{BoundPort, InstanceExit};
use longshore_model::name::AppName;
use longshore_model::spec::{AppSpec, Image, ImageSource, Protocol};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A wait that lasts longer is a failed test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is different from runtime to runtime.
pub trait Backend: Sized {
    type Runtime: Runtime;
    /// Network devices of a container with mapped ports, in these tests.
    const DEVICES: usize;
    /// Bytes of text that are left at least of a flood, rotated at three files of 200,000 bytes.
    const LEFT_OF_A_FLOOD: usize;
    /// Capabilities that the runtime does not know, bit by number.
    const UNKNOWN_CAPABILITIES: u64;
    /// What specs can need that the runtime does not offer, on any machine.
    const LACKS: &'static [&'static str];

    fn new() -> Self;
    /// A runtime on a data directory, as of an agent that was just started.
    fn open(&self, data_dir: &Path, uid: &str, rotation: Rotation, allowances: Allowances) -> Self::Runtime;
    /// Removes all that a data directory's agent has made; it does not run.
    fn reset(&self, data_dir: &Path);
    /// What is there of the node: containers that run, cgroups, processes.
    fn leftovers(&self, uid: &str, directory: &str) -> BTreeSet<String>;
    /// The directory of the container's cgroup below a hierarchy.
    fn cgroup(&self, uid: &str, launch: &Launch) -> String;
}

pub struct Node<B: Backend> {
    directory: TempDir,
    pub uid: String,
    data_dir: PathBuf,
    runtime: Option<B::Runtime>,
    runs: AtomicU32,
    pub backend: B,
}

/// A failed test must not leave containers on the machine.
impl<B: Backend> Drop for Node<B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.runtime = None;
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.backend.reset(&self.data_dir)));
        }
    }
}

impl<B: Backend> Node<B> {
    pub fn new() -> Self {
        Self::with(Rotation::default(), "data")
    }

    /// With its own rotation of output, and the name of its data directory.
    pub fn with(rotation: Rotation, data_dir: &str) -> Self {
        let backend = B::new();
        let directory = tempfile::Builder::new().prefix("longshore").rand_bytes(10).tempdir().unwrap();
        let uid = directory.path().file_name().unwrap().to_str().unwrap().to_owned();
        let data_dir = directory.path().join(data_dir);
        let mut node = Self { directory, uid, data_dir, runtime: None, runs: AtomicU32::new(0), backend };
        node.runtime = Some(node.backend.open(&node.data_dir, &node.uid, rotation, Allowances::all()));
        node
    }

    /// As when the agent is restarted: all that was in memory is gone.
    pub fn restart(&mut self) {
        self.restart_allowing(Allowances::all());
    }

    /// The same, with a configuration that allows so much.
    pub fn restart_allowing(&mut self, allowances: Allowances) {
        self.runtime = None;
        self.runtime = Some(self.backend.open(&self.data_dir, &self.uid, Rotation::default(), allowances));
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    pub fn lacks(&self) -> &'static [&'static str] {
        B::LACKS
    }

    pub fn runtime(&self) -> &B::Runtime {
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
        let image = Image {
            source: ImageSource::Archive(archive.to_str().unwrap().to_owned()),
            pull_policy: None,
            credential: None,
            keep_for: None,
        };
        let mut whole = json!({ "name": "t", "image": image });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: AppSpec = serde_json::from_value(whole).unwrap();
        let image = self.runtime().resolve(&image, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
        self.runtime().pull(&image, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
        Launch {
            instance: self.key(app),
            revision: 7,
            run,
            image,
            spec: Arc::new(spec),
            env: vec![],
            secret_env: vec![],
            configuration: Arc::default(),
            ports: vec![],
            attached: Attached::default(),
        }
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
        let query = LogQuery { instance: key.clone(), wanted: Selection { tail, ..Selection::default() } };
        match self.runtime().logs(query).await.unwrap() {
            Some(stream) => stream.collect().await,
            None => Vec::new(),
        }
    }

    pub async fn texts(&self, key: &InstanceKey) -> Vec<String> {
        let lines = self.lines(key, None).await;
        lines.into_iter().map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect()
    }

    /// What is there of this node: mounts, and what the backend knows.
    pub fn leftovers(&self) -> BTreeSet<String> {
        let here = self.path().to_str().unwrap();
        let mut found = self.backend.leftovers(&self.uid, here);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}")));
        found
    }

    /// The CPU quota of a container and what follows it, as the kernel tells it.
    pub fn cpu_quota(&self, launch: &Launch) -> String {
        let group = self.backend.cgroup(&self.uid, launch);
        let v1 = Path::new("/sys/fs/cgroup/cpu").join(&group).join("cpu.cfs_quota_us");
        let v2 = Path::new("/sys/fs/cgroup").join(&group).join("cpu.max");
        fs::read_to_string(v1).or_else(|_| fs::read_to_string(v2)).unwrap()
    }

    /// The directory of a container's cgroup below a hierarchy.
    pub fn cgroup(&self, launch: &Launch) -> String {
        self.backend.cgroup(&self.uid, launch)
    }

    /// Network devices of a container with mapped ports.
    pub fn devices(&self) -> usize {
        B::DEVICES
    }

    /// Bytes of text that are left at least of a flood.
    pub fn left_of_a_flood(&self) -> usize {
        B::LEFT_OF_A_FLOOD
    }

    /// Capabilities that a privileged container gets on this machine, bit by number.
    pub fn all_capabilities(&self) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        u64::from_str_radix(bounding.trim(), 16).unwrap() & !B::UNKNOWN_CAPABILITIES
    }

    /// Removes the node, and fails the test if that leaves anything.
    pub async fn end(mut self) {
        self.runtime = None;
        let data = self.data_dir();
        self.backend.reset(&data);
        self.backend.reset(&data);
        eventually("nothing is left", || self.leftovers().is_empty()).await;
        assert!(!data.join("runtime").exists());
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
    BoundPort {
        instance: 0,
        container_port,
        host_port,
        protocol,
        host_ip: Ipv4Addr::LOCALHOST,
        shared: false,
        host_interface: None,
    }
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
