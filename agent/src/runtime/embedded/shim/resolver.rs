//! Where a container asks for names.

use std::net::IpAddr;

/// The resolvers behind systemd-resolved's own, which listens on the node's loopback only.
pub(super) const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// The text of a container's /etc/resolv.conf, in a network of its own: the node's, or that of the resolvers behind it
/// where the node's all listen on a loopback that is not the container's. `None` if there is nothing to ask.
pub(super) fn choose(own: &str, upstream: Option<&str>) -> Option<String> {
    [Some(own), upstream].into_iter().flatten().find_map(without_loopback)
}

/// The text without resolvers on loopback; `None` if no resolver is left.
fn without_loopback(text: &str) -> Option<String> {
    let resolver = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().and_then(|word| word.parse::<IpAddr>().ok()))
    };
    let mut kept = String::new();
    let mut is_useful = false;
    for line in text.lines() {
        match resolver(line) {
            Some(Some(address)) if address.is_loopback() => continue,
            Some(_) => is_useful = true,
            None => {}
        }
        kept.push_str(line);
        kept.push('\n');
    }
    is_useful.then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_the_nodes_loopback_are_left_out() {
        let own = "# comment\nnameserver 127.0.0.53\nsearch lan\n";
        assert_eq!(choose(own, Some("nameserver 192.0.2.1\n")).as_deref(), Some("nameserver 192.0.2.1\n"));
        assert_eq!(choose(own, None), None);
        assert_eq!(choose("nameserver ::1\n", Some("nameserver 127.0.0.1\n")), None);
        let mixed = "nameserver 127.0.0.1\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(choose(mixed, None).as_deref(), Some("nameserver 192.0.2.1\noptions edns0\n"));
    }
}
