//! What is started, and the moment at which it runs.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use longshore_tests::wait::PATIENCE;

/// Time between two looks: well below what is measured.
const INTERVAL: Duration = Duration::from_micros(200);
/// Time for an answer, where nothing refuses the connection while nobody listens.
const ANSWER: Duration = Duration::from_millis(100);
/// Where the directory is mounted in the container.
pub(crate) const MOUNT: &str = "/out";
/// Where the container listens, and the port of the host that leads there.
pub(crate) const PORT: u16 = 8080;

/// When a container is said to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrialKind {
    /// Its own process has made a file in a directory of the host.
    Process,
    /// It answers HTTP on a mapped port.
    Port,
}

impl fmt::Display for TrialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "until the container's own process has made a file",
            Self::Port => "until it answers HTTP on a mapped port",
        })
    }
}

/// One container to start.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) kind: TrialKind,
    /// Names what belongs to it.
    pub(crate) number: u32,
    /// The directory to mount at [`MOUNT`].
    pub(crate) directory: PathBuf,
}

impl Trial {
    /// The next one.
    pub(crate) fn new(kind: TrialKind, directory: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = directory.join("out");
        std::fs::create_dir_all(&directory).unwrap();
        Self { kind, number: NEXT.fetch_add(1, Ordering::Relaxed), directory }
    }

    /// The words that the container's program gets.
    pub(crate) fn args(&self) -> Vec<String> {
        match self.kind {
            TrialKind::Process => ["fill", &format!("{MOUNT}/{}", self.number), "1"].map(str::to_owned).to_vec(),
            TrialKind::Port => vec!["serve".to_owned()],
        }
    }

    /// Looks from now on, on a thread of its own, until the container runs on `host`, and returns when that was.
    pub(crate) fn watch(&self, host: Ipv4Addr) -> JoinHandle<Timestamp> {
        let (kind, file) = (self.kind, self.directory.join(self.number.to_string()));
        std::thread::spawn(move || {
            let begin = Timestamp::now();
            loop {
                let runs = match kind {
                    TrialKind::Process => file.exists(),
                    TrialKind::Port => answers(SocketAddr::from((host, PORT))).unwrap_or(false),
                };
                let now = Timestamp::now();
                if runs {
                    return now;
                }
                assert!(now.duration_since(begin).unsigned_abs() < PATIENCE, "the container does not run");
                std::thread::sleep(INTERVAL);
            }
        })
    }
}

fn answers(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// From one moment to another.
pub(crate) fn between(begin: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(begin)).unwrap()
}
