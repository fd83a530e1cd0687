//! What a process and the loopback have used, as the kernel counts it.

use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// CPU time of a process, of all its threads, in user and kernel.
pub fn cpu(pid: Pid) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the program's name in parentheses, and may hold spaces.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u32 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs(1) * ticks / u32::try_from(per_second).unwrap()
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, pages that are shared with others counted in parts.
    pub pss: u64,
    /// Resident, and nobody else's: what would be free without the process.
    pub private: u64,
}

impl Memory {
    /// What a process has now.
    pub fn of(pid: Pid) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
        };
        let private = field("Private_Clean:") + field("Private_Dirty:");
        Self { rss: field("Rss:"), pss: field("Pss:"), private }
    }
}

/// Bytes that the loopback of this network namespace has carried, headers included.
pub fn wire() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The machine's load over the last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').next().unwrap().to_owned()
}
