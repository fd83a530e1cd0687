//! Rules of what a spec says of names and addresses: its own lines of /etc/hosts and /etc/resolv.conf.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Path, Violations, at_most, quoted};
use crate::limits;
use crate::spec::{DnsConfig, DnsOption, HostAlias};

/// Whether a text is a name as the DNS has them, or one of a machine; without a dot at its end.
pub(super) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= limits::MAX_DNS_NAME && name.split('.').all(is_label)
}

pub(super) fn host_aliases(aliases: &[HostAlias], path: Path<'_>, bad: &mut Violations) {
    at_most(aliases.len(), limits::MAX_HOST_ALIASES, path, bad);
    let mut seen = HashMap::new();
    for (index, alias) in aliases.iter().enumerate().take(limits::MAX_HOST_ALIASES) {
        let entry = path.index(index);
        let ip = address(&alias.ip, entry.field("ip"), bad);
        let names = entry.field("hostnames");
        if alias.hostnames.is_empty() {
            bad.add(names, "is needed: at least one name for the address");
        }
        at_most(alias.hostnames.len(), limits::MAX_ALIAS_NAMES, names, bad);
        for (at, name) in alias.hostnames.iter().enumerate().take(limits::MAX_ALIAS_NAMES) {
            let place = names.index(at);
            if !is_dns_name(name) || name.parse::<IpAddr>().is_ok() {
                bad.add(place, format!("{} is no name of a host such as db.example.com", quoted(name)));
            } else if let Some(ip) = ip
                && let Some((first, first_at)) = seen.insert((ip, name.to_ascii_lowercase()), (index, at))
            {
                bad.add(place, format!("is the same as host_aliases[{first}].hostnames[{first_at}]"));
            }
        }
    }
}

fn address(given: &str, path: Path<'_>, bad: &mut Violations) -> Option<IpAddr> {
    given
        .parse()
        .map_err(|_| bad.add(path, format!("{} is no IP address such as 192.0.2.7 or 2001:db8::7", quoted(given))))
        .ok()
}

pub(super) fn dns_config(config: &DnsConfig, path: Path<'_>, bad: &mut Violations) {
    nameservers(&config.nameservers, path.field("nameservers"), bad);
    let searches = path.field("searches");
    at_most(config.searches.len(), limits::MAX_DNS_SEARCHES, searches, bad);
    for (index, domain) in config.searches.iter().enumerate().take(limits::MAX_DNS_SEARCHES) {
        if !is_dns_name(domain.strip_suffix('.').unwrap_or(domain)) {
            bad.add(searches.index(index), format!("{} is no domain such as example.com", quoted(domain)));
        }
    }
    let options = path.field("options");
    at_most(config.options.len(), limits::MAX_DNS_OPTIONS, options, bad);
    let mut seen = HashMap::new();
    for (index, option) in config.options.iter().enumerate().take(limits::MAX_DNS_OPTIONS) {
        let entry = options.index(index);
        one_option(option, entry, bad);
        if let Some(first) = seen.insert(&option.name, index) {
            bad.add(entry.field("name"), format!("is the same as that of options[{first}]"));
        }
    }
}

fn nameservers(servers: &[String], path: Path<'_>, bad: &mut Violations) {
    at_most(servers.len(), limits::MAX_NAMESERVERS, path, bad);
    let mut seen = HashMap::new();
    for (index, server) in servers.iter().enumerate().take(limits::MAX_NAMESERVERS) {
        let place = path.index(index);
        let Some(ip) = address(server, place, bad) else { continue };
        if ip.is_unspecified() || ip.is_multicast() {
            bad.add(place, format!("is {ip}, where no name server can be"));
        } else if let Some(first) = seen.insert(ip, index) {
            bad.add(place, format!("is the same as nameservers[{first}]"));
        }
    }
}

fn one_option(option: &DnsOption, path: Path<'_>, bad: &mut Violations) {
    let fits = |text: &str| {
        (1..=limits::MAX_DNS_OPTION).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !fits(&option.name) {
        bad.add(path.field("name"), format!("{} is no option of a resolver such as ndots", quoted(&option.name)));
    }
    if let Some(value) = option.value.as_deref().filter(|value| !fits(value)) {
        bad.add(path.field("value"), format!("{} is no value such as 2", quoted(value)));
    }
}
