//! Hosts made of network namespaces, on one switch.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::{output, succeed};

/// Makes the names of this process's hosts differ from each other's.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A switch: a namespace of its own with a bridge, so that nothing of it shows on the machine.
#[derive(Debug)]
pub struct Switch {
    namespace: String,
    hosts: AtomicU32,
}

/// A host: a namespace with a loopback and one interface `eth0` on the switch.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    switch: String,
    port: String,
    /// Its address on the switch, in 10.77.0.0/16.
    pub address: Ipv4Addr,
}

fn ip(arguments: &str) {
    succeed(Command::new("ip").args(arguments.split(' ')));
}

fn name(kind: &str) -> String {
    format!("ls-{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Switch {
    /// Makes a switch without hosts.
    pub fn new() -> Self {
        let namespace = name("sw");
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {namespace} link add br0 type bridge"));
        ip(&format!("-n {namespace} link set br0 up"));
        Self { namespace, hosts: AtomicU32::new(0) }
    }

    /// Plugs in a new host.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = name("h");
        let port = format!("p{number}");
        let address =
            Ipv4Addr::new(10, 77, u8::try_from(number / 250).unwrap(), u8::try_from(number % 250 + 1).unwrap());
        let switch = &self.namespace;
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {switch} link add {port} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {switch} link set {port} master br0"));
        ip(&format!("-n {switch} link set {port} up"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} addr add {address}/16 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        let host = Host { namespace, switch: switch.clone(), port, address };
        // A new namespace begins with what the machine has, and an engine on the machine switches forwarding on.
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
        host
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        output(Command::new("ip").args(["netns", "del", &self.namespace]));
    }
}

impl Host {
    /// Name of its namespace, under /run/netns.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The file that stands for its namespace.
    pub fn namespace_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Pulls the cable out.
    pub fn unplug(&self) {
        ip(&format!("-n {} link set {} down", self.switch, self.port));
    }

    /// Plugs it in again.
    pub fn plug(&self) {
        ip(&format!("-n {} link set {} up", self.switch, self.port));
    }

    /// Adds an interface whose cable leads to the switch's room but into no bridge, with the given address
    /// (`192.0.2.1/24`, `2001:db8::1/64`).
    pub fn add_interface(&self, interface: &str, address: &str) {
        let peer = format!("{}-{interface}", self.port);
        ip(&format!("-n {} link add {interface} type veth peer name {peer} netns {}", self.namespace, self.switch));
        ip(&format!("-n {} link set {peer} up", self.switch));
        ip(&format!("-n {} addr add {address} dev {interface}", self.namespace));
        ip(&format!("-n {} link set {interface} up", self.namespace));
    }

    /// Gives an interface another address beside those that it has.
    pub fn add_address(&self, interface: &str, address: &str) {
        ip(&format!("-n {} addr add {address} dev {interface}", self.namespace));
    }

    /// Takes an address from an interface.
    pub fn remove_address(&self, interface: &str, address: &str) {
        ip(&format!("-n {} addr del {address} dev {interface}", self.namespace));
    }

    /// Runs blocking work on a thread of this host, so that the sockets it makes are the host's.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.namespace_file();
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
        .join()
        .unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        output(Command::new("ip").args(["netns", "del", &self.namespace]));
    }
}
