//! The packet filter: one nftables table, shared by all agents of a network namespace.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{INTERFACE_PREFIX, Range};

/// Where nft is looked for: a shim has no PATH, and an agent's may lack the places for administrators.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// Longest name of an interface, with its terminator.
const NAME_SIZE: usize = 16;

/// The installed nft.
pub(super) fn program() -> Option<PathBuf> {
    installed("nft")
}

fn installed(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

/// The whole table, as one transaction that may be repeated: rules are replaced, sets only grow.
///
/// - Containers go out under the node's address.
/// - Only answers come in: not from containers to each other, not from hosts that take the node for a router.
/// - A container cannot lend itself another's address.
/// - What was opened for our sake does not make the node a router: of all that comes in there, only connections that
///   somebody's translation leads on are forwarded.
fn rules(range: Range, opened: &[String]) -> String {
    let opened: String = opened
        .iter()
        .filter(|name| is_plain(name))
        .map(|name| format!("add element ip longshore opened {{ \"{name}\" }}\n"))
        .collect();
    let ours = format!("\"{INTERFACE_PREFIX}*\"");
    format!(
        "\
add table ip longshore
add set ip longshore ranges {{ type ipv4_addr; flags interval; auto-merge; }}
add set ip longshore opened {{ type ifname; }}
add chain ip longshore leaving {{ type nat hook postrouting priority 100; policy accept; }}
add chain ip longshore passing {{ type filter hook forward priority -1; policy accept; }}
flush chain ip longshore leaving
flush chain ip longshore passing
add element ip longshore ranges {{ {range} }}
{opened}\
add rule ip longshore leaving ip saddr @ranges oifname != {ours} masquerade
add rule ip longshore passing iifname {ours} ip saddr != @ranges drop
add rule ip longshore passing oifname {ours} ct state != {{ established, related }} drop
add rule ip longshore passing iifname {ours} accept
add rule ip longshore passing ct status dnat accept
add rule ip longshore passing iifname @opened ct state new drop
"
    )
}

/// Whether a name can stand in a rule and in a path.
pub(super) fn is_plain(name: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b'+');
    !name.is_empty() && name.len() < NAME_SIZE && name != "." && name != ".." && name.bytes().all(is_good)
}

/// Whether nft and the kernel would take the rules; changes nothing.
pub(super) fn check(nft: &Path, range: Range) -> io::Result<()> {
    run(nft, &["-c", "-f", "-"], &rules(range, &[])).map(drop)
}

/// Makes the table, or adds to it.
pub(super) fn install(nft: &Path, range: Range, opened: &[String]) -> io::Result<()> {
    run(nft, &["-f", "-"], &rules(range, opened)).map(drop)
}

/// Interfaces that were opened for our sake; `None` without a table.
pub(super) fn opened(nft: &Path) -> io::Result<Option<Vec<String>>> {
    match run(nft, &["list", "set", "ip", "longshore", "opened"], "") {
        Ok(text) => Ok(Some(quoted(&text))),
        Err(error) if error.to_string().contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

/// All rules of the network namespace, whoever made them.
pub(super) fn ruleset(nft: &Path) -> io::Result<String> {
    run(nft, &["list", "ruleset"], "")
}

/// The rules of iptables' older kind for what is forwarded, which nft does not know; empty where it is not in use, or the
/// program is missing. Asked only where the kernel has its table: the program would make one.
pub(super) fn legacy_forward() -> io::Result<String> {
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    match installed("iptables-legacy") {
        Some(program) if tables.lines().any(|table| table == "filter") => run(&program, &["-S", "FORWARD"], ""),
        _ => Ok(String::new()),
    }
}

/// What stands in quotation marks.
fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).filter(|name| is_plain(name)).map(str::to_owned).collect()
}

/// Removes the table.
pub(super) fn remove(nft: &Path) -> io::Result<()> {
    run(nft, &["delete", "table", "ip", "longshore"], "").map(drop)
}

fn run(nft: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut command = Command::new(nft);
    command.args(arguments).env_clear().env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.lines().next().unwrap_or("nft failed without a word").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_a_set() {
        let text = "table ip longshore {\n\tset opened {\n\t\ttype ifname\n\t\telements = { \"eth0\",\n\t\t\t     \
                    \"wlan0\", \"a;b\" }\n\t}\n}\n";
        assert_eq!(quoted(text), ["eth0", "wlan0"]);
        assert!(quoted("table ip longshore {\n\tset opened {\n\t\ttype ifname\n\t}\n}\n").is_empty());
    }

    #[test]
    fn only_plain_names_get_into_rules() {
        for name in ["eth0", "enp3s0f1.100", "br-lan", "veth@x"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "a b", "a\"b", "a/b", "a;b", "0123456789abcdef"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
