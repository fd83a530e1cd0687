//! How soon an image from a registry is on a node, beside what else could fetch it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_demo_image::DemoImage;
use longshore_tests::engine::{Engine, Kind};
use longshore_tests::host::{Host, Switch};
use longshore_tests::process::succeed;
use longshore_tests::registry::{Guard, Registry};
use longshore_tests::tmpfs::Tmpfs;
use rand::Rng;
use rand::rngs::ThreadRng;

use crate::engines::version;
use crate::longshore::Longshore;
use crate::spread::Spreads;
use crate::{Args, WARM_UP};

/// Layers of the image, each with one file.
const LAYERS: usize = 6;
/// Where Docker's daemon looks for the authorities of registries.
const DOCKER_AUTHORITIES: &str = "/etc/docker/certs.d";

/// Something that fetches images.
trait Fetcher {
    /// What it is, with its version.
    fn version(&self) -> String;

    /// Fetches an image that it does not have, and returns how long that took.
    fn fetch(&mut self, reference: &str) -> Duration;

    /// Removes what it has fetched, where that is what keeps the disk from filling up.
    fn forget(&mut self, reference: &str);
}

/// Fetches so many images once with each of them, in turn.
pub(crate) fn run(switch: &Switch, home: &Host, directory: &Path, args: &Args) {
    let registry = Registry::start_on(Some(home), Guard::None);
    let authority = directory.join("registry");
    fs::create_dir(&authority).unwrap();
    fs::write(authority.join("ca.crt"), registry.authority()).unwrap();
    // Seen by nobody outside of this program's own mounts.
    let _authorities = Tmpfs::mount(DOCKER_AUTHORITIES.into(), "1m");
    let of_docker = Path::new(DOCKER_AUTHORITIES).join(registry.address());
    fs::create_dir(&of_docker).unwrap();
    fs::copy(authority.join("ca.crt"), of_docker.join("ca.crt")).unwrap();

    let ca = authority.join("ca.crt").display().to_string();
    let mut fetchers: Vec<Box<dyn Fetcher>> = vec![
        Box::new(Longshore::new(home, switch.host(), &["--registry-ca", &ca])),
        Box::new(Skopeo { host: switch.host(), authority: authority.clone(), target: directory.join("skopeo") }),
    ];
    for kind in [Kind::Docker, Kind::Podman] {
        let host = switch.host();
        let engine = Engine::start(kind, &host);
        fetchers.push(Box::new(EngineFetcher { kind, engine, authority: authority.clone(), _host: host }));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut spreads, mut bytes) = (Spreads::default(), 0);
    for round in 0..WARM_UP + args.pulls {
        let image = image(args.layer_mib);
        let parts = image.parts();
        bytes = parts.layers.iter().map(|layer| layer.content.len()).sum();
        drop(parts);
        // Its own name for each, so that nobody has anything of it.
        let name = format!("bench/image:{round}");
        runtime.block_on(registry.push(&name, &image));
        let reference = registry.reference(&name);
        let count = fetchers.len();
        for turn in 0..count {
            let number = (round + turn) % count;
            let took = fetchers[number].fetch(&reference);
            if round >= WARM_UP {
                spreads.add(number, ROWS[number], took);
            }
            fetchers[number].forget(&reference);
        }
    }
    let mebibytes = bytes as f64 / 1024.0 / 1024.0;
    println!("\nuntil an image of {LAYERS} layers, {mebibytes:.0} MiB as they are packed, is fetched, ms:");
    for fetcher in &fetchers {
        println!("  {}", fetcher.version());
    }
    println!("{spreads}");
    println!("  {:44} {:>9}", "", "MiB/s");
    for (name, median) in spreads.medians() {
        println!("  {name:44} {:9.0}", mebibytes / median.as_secs_f64());
    }
}

/// Names of the fetchers' rows, in their order.
const ROWS: [&str; 4] =
    ["longshore, PULL job until SUCCEEDED", "skopeo copy, to a directory", "docker pull", "podman pull"];

/// An image of which nobody has any layer. Half of it cannot be packed, and the other half well, as with programs and texts.
fn image(layer_mib: usize) -> DemoImage {
    let mut random = rand::rng();
    (0..LAYERS).fold(DemoImage::new(), |image, layer| {
        let content: Vec<u8> = (0..layer_mib * 256).flat_map(|_| block(&mut random)).collect();
        image.layer(&[(&format!("data/{layer}"), &content)])
    })
}

/// 4 KiB.
fn block(random: &mut ThreadRng) -> [u8; 4096] {
    let mut block = [0; 4096];
    let (noise, text) = block.split_at_mut(2048);
    random.fill(noise);
    for word in text.chunks_mut(8) {
        let number = random.random_range(0..512_u32);
        word.copy_from_slice(format!("word-{number:03x}").as_bytes());
    }
    block
}

impl Fetcher for Longshore {
    fn version(&self) -> String {
        crate::Contender::version(self)
    }

    fn fetch(&mut self, reference: &str) -> Duration {
        self.pull(reference)
    }

    // An image that a job fetched stays until the disk fills up.
    fn forget(&mut self, _reference: &str) {}
}

/// The program that copies images, here to a directory as it is: nothing is unpacked.
struct Skopeo {
    host: Host,
    authority: PathBuf,
    target: PathBuf,
}

impl Fetcher for Skopeo {
    fn version(&self) -> String {
        succeed(Command::new("skopeo").arg("--version")).trim().to_owned()
    }

    fn fetch(&mut self, reference: &str) -> Duration {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.host.namespace()));
        command.args(["skopeo", "copy", "--quiet", "--src-cert-dir"]).arg(&self.authority);
        command.arg(format!("docker://{reference}")).arg(format!("oci:{}:image", self.target.display()));
        timed(&mut command)
    }

    fn forget(&mut self, _reference: &str) {
        fs::remove_dir_all(&self.target).unwrap();
    }
}

/// An engine's own command line.
struct EngineFetcher {
    kind: Kind,
    engine: Engine,
    authority: PathBuf,
    /// Where the engine is; goes after it.
    _host: Host,
}

impl Fetcher for EngineFetcher {
    fn version(&self) -> String {
        version(self.kind, &self.engine)
    }

    fn fetch(&mut self, reference: &str) -> Duration {
        let mut command = self.engine.command();
        command.args(["pull", "--quiet"]);
        if self.kind == Kind::Podman {
            command.arg("--cert-dir").arg(&self.authority);
        }
        timed(command.arg(reference))
    }

    fn forget(&mut self, reference: &str) {
        succeed(self.engine.command().args(["rmi", reference]));
    }
}

fn timed(command: &mut Command) -> Duration {
    let begun = Instant::now();
    succeed(command);
    begun.elapsed()
}
