//! Where a container asks for names.

use std::net::IpAddr;

use longshore_model::spec::{DnsConfig, HostAlias};

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

/// The text with what a spec says in the place of the node's.
pub(super) fn configured(text: &str, config: &DnsConfig) -> String {
    let is_replaced = |line: &&str| match line.split_whitespace().next() {
        Some("nameserver") => !config.nameservers.is_empty(),
        Some("search" | "domain") => !config.searches.is_empty(),
        Some("options") => !config.options.is_empty(),
        _ => false,
    };
    let mut lines: Vec<String> = text.lines().filter(|line| !is_replaced(line)).map(str::to_owned).collect();
    lines.extend(config.nameservers.iter().map(|server| format!("nameserver {server}")));
    let options: Vec<String> = config.options.iter().map(ToString::to_string).collect();
    for (word, values) in [("search", &config.searches), ("options", &options)] {
        if !values.is_empty() {
            lines.push(format!("{word} {}", values.join(" ")));
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Lines of /etc/hosts for names of a spec's own.
pub(super) fn aliases(aliases: &[HostAlias]) -> String {
    aliases.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join(" "))).collect()
}

#[cfg(test)]
mod tests {
    use longshore_model::spec::DnsOption;

    use super::*;

    #[test]
    fn what_the_spec_says_takes_the_place_of_the_nodes() {
        let own = "# comment\nnameserver 192.0.2.1\nsearch lan\noptions edns0\n";
        assert_eq!(configured(own, &DnsConfig::default()), own);
        let text = |text: &str| vec![text.to_owned()];
        let servers = DnsConfig { nameservers: text("192.0.2.53"), ..DnsConfig::default() };
        let expected = "# comment\nsearch lan\noptions edns0\nnameserver 192.0.2.53\n";
        assert_eq!(configured(own, &servers), expected);
        let option =
            |name: &str, value: Option<&str>| DnsOption { name: name.to_owned(), value: value.map(str::to_owned) };
        let searches = vec!["a.example".to_owned(), "b.example".to_owned()];
        let options = vec![option("ndots", Some("2")), option("rotate", None)];
        let all = DnsConfig { searches, options, ..servers };
        let expected = "nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2 rotate\n";
        assert_eq!(configured("domain lan\nnameserver ::1\noptions edns0", &all), expected);
    }

    #[test]
    fn each_alias_is_a_line() {
        let alias = |ip: &str, names: &[&str]| HostAlias {
            ip: ip.to_owned(),
            hostnames: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let text = aliases(&[alias("192.0.2.7", &["db", "db.example.com"]), alias("2001:db8::7", &["db"])]);
        assert_eq!(text, "192.0.2.7\tdb db.example.com\n2001:db8::7\tdb\n");
    }

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
