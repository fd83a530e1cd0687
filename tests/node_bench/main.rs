//! Measures one node: how soon a container runs on it, beside what else could run that container, what its programs take of
//! memory and disk, and how soon an image is on it, beside what else could fetch that.
//!
//! Each round starts the same program once with every contender, in turn, so that whatever else the machine does meets all
//! of them alike. Server, node and engines each have a host made of a network namespace. Needs root; see
//! `docs/performance.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program whose output is its figures, and that should say where it cannot go on"
)]

mod engines;
mod longshore;
mod low_level;
mod pulls;
mod spread;
mod trial;

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use longshore_demo_image::DemoImage;
use longshore_tests::engine::Kind;
use longshore_tests::host::{Host, Switch};
use longshore_tests::process::binary;
use longshore_tests::usage::{self, Memory};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use crate::engines::EngineContender;
use crate::longshore::Longshore;
use crate::low_level::LowLevel;
use crate::spread::Spreads;
use crate::trial::{Trial, TrialKind};

/// The programs that are shipped.
const PROGRAMS: [&str; 3] = ["longshore-server", "longshore-agent", "longshore"];
/// Name of the image in every contender that gives names.
const IMAGE: &str = "longshore/demo:1";
/// Starts of each contender before those that count: they fetch what is fetched once.
const WARM_UP: usize = 2;

/// Measures one node.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each kind that count.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Containers that run while memory is read.
    #[arg(long, default_value_t = 10)]
    apps: usize,
    /// Seconds of quiet before memory is read.
    #[arg(long, default_value_t = 10)]
    quiet: u64,
    /// Images that each fetches and that count.
    #[arg(long, default_value_t = 10)]
    pulls: usize,
    /// Size of each of their layers before it is packed, in MiB.
    #[arg(long, default_value_t = 32)]
    layer_mib: usize,
}

/// Something that runs containers.
trait Contender {
    /// What it is, with its version.
    fn version(&self) -> String;

    /// Starts the trial's container and returns how long that took, from each beginning that can be told. Nothing where the
    /// contender has no such thing.
    fn start(&mut self, trial: &Trial) -> Vec<(&'static str, Duration)>;

    /// Removes all containers that it has started.
    fn remove(&mut self);

    /// Starts a container that does nothing.
    fn start_idle(&mut self);

    /// The processes that it keeps, those inside of containers excepted; none where it has no containers to look after
    /// when memory is read.
    fn processes(&self) -> Vec<Process>;
}

/// A process of a contender.
struct Process {
    pid: Pid,
    /// Whether there is one of it for each container.
    of_container: bool,
}

fn main() {
    let args = Args::parse();
    let load = usage::load();
    let switch = Switch::new();
    let home = switch.host();
    // Before any thread starts: all of them shall be on this host.
    setns(std::fs::File::open(home.namespace_file()).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
    let directory = tempfile::Builder::new().prefix("ls-bench-").tempdir().unwrap();
    std::fs::write(directory.path().join("docker.tar"), DemoImage::new().name(IMAGE).docker_archive()).unwrap();

    let mut contenders = contenders(&switch, &home, directory.path());
    let cores = std::thread::available_parallelism().unwrap();
    println!("{} rounds on {cores} cores; load before: {load}", args.rounds);
    println!("programs of {}:", binary(PROGRAMS[0]).parent().unwrap().display());
    for program in PROGRAMS {
        println!("  {program:20} {:11} bytes", std::fs::metadata(binary(program)).unwrap().len());
    }
    for contender in &contenders {
        println!("  {}", contender.version());
    }
    memory(&mut contenders, 0, &args);
    for kind in [TrialKind::Process, TrialKind::Port] {
        rounds(&mut contenders, kind, &args, directory.path());
    }
    memory(&mut contenders, args.apps, &args);
    drop(contenders);
    pulls::run(&switch, &home, directory.path(), &args);
    println!("load after: {}", usage::load());
}

/// Everything that can run containers on this machine.
fn contenders(switch: &Switch, home: &Host, directory: &Path) -> Vec<Box<dyn Contender>> {
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(Longshore::new(home, switch.host(), &[]))];
    for program in ["runc", "crun"] {
        match LowLevel::new(program, directory) {
            Ok(low_level) => contenders.push(Box::new(low_level)),
            Err(reason) => println!("without {program}: {reason}"),
        }
    }
    for kind in [Kind::Docker, Kind::Podman] {
        contenders.push(Box::new(EngineContender::new(kind, switch.host(), &directory.join("docker.tar"))));
    }
    contenders
}

fn rounds(contenders: &mut [Box<dyn Contender>], kind: TrialKind, args: &Args, directory: &Path) {
    let mut spreads = Spreads::default();
    let count = contenders.len();
    for round in 0..WARM_UP + args.rounds {
        for turn in 0..count {
            // Each begins as often as every other.
            let number = (round + turn) % count;
            let contender = &mut contenders[number];
            let trial = Trial::new(kind, directory);
            for (from, took) in contender.start(&trial) {
                if round >= WARM_UP {
                    spreads.add(number, from, took);
                }
            }
            contender.remove();
        }
    }
    println!("\n{kind}, ms:\n{spreads}");
}

/// What the contenders' processes take while so many containers of each run and nothing happens.
fn memory(contenders: &mut [Box<dyn Contender>], containers: usize, args: &Args) {
    println!("\nmemory with {containers} containers each, in KiB:");
    println!("  {:44} {:>9} {:>9} {:>9}", "", "processes", "private", "PSS");
    for contender in contenders {
        if contender.processes().is_empty() {
            continue;
        }
        for _ in 0..containers {
            contender.start_idle();
        }
        std::thread::sleep(Duration::from_secs(args.quiet));
        let (each, all): (Vec<Process>, Vec<Process>) =
            contender.processes().into_iter().partition(|process| process.of_container);
        let name = contender.version();
        tell(&format!("{name}: for all"), &all);
        tell(&format!("{name}: for each container"), &each);
        contender.remove();
    }
}

fn tell(name: &str, processes: &[Process]) {
    if processes.is_empty() {
        return;
    }
    let memory: Vec<Memory> = processes.iter().map(|process| Memory::of(process.pid)).collect();
    let sum = |of: fn(&Memory) -> u64| memory.iter().map(of).sum::<u64>() / 1024;
    let (private, pss) = (sum(|memory| memory.private), sum(|memory| memory.pss));
    println!("  {name:44} {:9} {private:9} {pss:9}", processes.len());
}
