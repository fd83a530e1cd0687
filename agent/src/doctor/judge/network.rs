//! The way out of containers with mapped ports.

use longshore_doctor::Finding;

use crate::runtime::embedded::{INTERFACE_PREFIX, WayOut};

/// Whether containers reach the outside; `None` where they are not meant to.
pub(in crate::doctor) fn egress(way_out: Option<Result<WayOut, String>>) -> Vec<Finding> {
    let check = "egress";
    let fine = |found: String| vec![Finding::fine(check, found)];
    let way_out = match way_out {
        None => return fine("switched off: apps with mapped ports do not reach the outside".to_owned()),
        Some(Ok(way_out)) => way_out,
        Some(Err(why)) => {
            let found = format!("apps with mapped ports do not reach the outside: {why}");
            let hint =
                "Install nftables, or choose a free range by --egress CIDR; --egress off says that none is wanted.";
            return vec![Finding::degraded(check, found, hint)];
        }
    };
    let closed = |chain: &str, [out, back]: [String; 2]| {
        let found = format!("{chain} drops what is forwarded: apps with mapped ports do not reach the outside");
        Finding::degraded(check, found, format!("Run `{out}` and `{back}`."))
    };
    let chains = closed_chains(&way_out.ruleset);
    let mut findings: Vec<Finding> = chains
        .iter()
        .map(|Closed { family, table, chain }| {
            let rule = |rest: &str| format!("nft insert rule {family} {table} {chain} {rest} accept");
            let out = rule(&format!("iifname \"{INTERFACE_PREFIX}*\""));
            let back = rule(&format!("oifname \"{INTERFACE_PREFIX}*\" ct state established,related"));
            closed(&format!("{family} {table} {chain}"), [out, back])
        })
        .collect();
    if is_closed(&way_out.legacy) {
        let rule = |rest: &str| format!("iptables-legacy -I FORWARD {rest} -j ACCEPT");
        let out = rule(&format!("-i {INTERFACE_PREFIX}+"));
        let back = rule(&format!("-o {INTERFACE_PREFIX}+ -m conntrack --ctstate ESTABLISHED,RELATED"));
        findings.push(closed("the chain FORWARD of iptables-legacy", [out, back]));
    }
    if findings.is_empty() { fine(format!("from {}", way_out.range)) } else { findings }
}

/// Whether what `iptables-legacy -S FORWARD` prints drops what no rule of it accepts, and says nothing of our interfaces.
fn is_closed(legacy: &str) -> bool {
    legacy.lines().any(|line| line.trim() == "-P FORWARD DROP") && !legacy.contains(&format!(" {INTERFACE_PREFIX}"))
}

/// A chain that drops forwarded packets which no rule of it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Closed {
    family: String,
    table: String,
    chain: String,
}

/// Chains of others that drop what is forwarded, and say nothing of our interfaces: from what `nft list ruleset` prints.
fn closed_chains(ruleset: &str) -> Vec<Closed> {
    let (mut table, mut chain) = (None::<(String, String)>, None::<String>);
    let (mut drops, mut speaks_of_us) = (false, false);
    let mut closed = Vec::new();
    for line in ruleset.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => table = Some(((*family).to_owned(), (*name).to_owned())),
            ["chain", name, "{"] => {
                chain = Some((*name).to_owned());
                (drops, speaks_of_us) = (false, false);
            }
            // Bridges forward frames, which is none of ours; a device's chains forward nothing.
            ["}"] => {
                if let (Some((family, table)), Some(chain)) = (&table, chain.take())
                    && drops
                    && !speaks_of_us
                    && matches!(family.as_str(), "ip" | "inet")
                {
                    closed.push(Closed { family: family.clone(), table: table.clone(), chain });
                }
            }
            _ if chain.is_some() => {
                drops |= line.contains("hook forward") && line.contains("policy drop");
                speaks_of_us |= line.contains(&format!("\"{INTERFACE_PREFIX}"));
            }
            _ => {}
        }
    }
    closed
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use longshore_doctor::Verdict;

    use super::*;

    /// As Docker and firewalld leave it, shortened.
    const DOCKER: &str = "table ip filter {
\tchain DOCKER {
\t}

\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t\tcounter packets 0 bytes 0 jump DOCKER-USER
\t\toifname \"docker0\" ct state related,established counter packets 0 bytes 0 accept
\t}
}
table ip nat {
\tchain POSTROUTING {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t}
}
table ip longshore {
\tset opened {
\t\ttype ifname
\t}

\tchain passing {
\t\ttype filter hook forward priority filter - 1; policy accept;
\t\tiifname \"ls-*\" accept
\t}
}
table ip6 filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
";

    fn way_out(ruleset: &str, legacy: &str) -> Vec<Finding> {
        let range = "10.213.0.0/16".parse().unwrap();
        egress(Some(Ok(WayOut { range, ruleset: ruleset.to_owned(), legacy: legacy.to_owned() })))
    }

    #[test]
    fn a_chain_that_drops_what_is_forwarded_is_named_with_the_rules_that_open_it() {
        let with = |ruleset: &str| way_out(ruleset, "");
        let found = with(DOCKER);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].verdict, Verdict::Degraded);
        assert!(found[0].found.starts_with("ip filter FORWARD drops"), "{found:?}");
        assert_eq!(
            found[0].hint,
            "Run `nft insert rule ip filter FORWARD iifname \"ls-*\" accept` and `nft insert rule ip filter FORWARD oifname \
             \"ls-*\" ct state established,related accept`."
        );
        let opened = DOCKER.replace("\t\tcounter packets", "\t\tiifname \"ls-*\" accept\n\t\tcounter packets");
        assert_eq!(with(&opened), [Finding::fine("egress", "from 10.213.0.0/16")]);
        assert_eq!(with(""), [Finding::fine("egress", "from 10.213.0.0/16")]);
        assert_eq!(with(&DOCKER.replace("policy drop", "policy accept"))[0].verdict, Verdict::Fine);
        let both = format!("{DOCKER}{}", DOCKER.replace("table ip filter", "table inet firewalld"));
        assert_eq!(with(&both).len(), 2);
    }

    #[test]
    fn the_older_kind_of_iptables_is_looked_at_too() {
        let closed = "-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n";
        let found = &way_out("", closed)[0];
        assert_eq!(found.verdict, Verdict::Degraded);
        assert!(found.hint.contains("`iptables-legacy -I FORWARD -i ls-+ -j ACCEPT`"), "{found:?}");
        assert_eq!(way_out(DOCKER, closed).len(), 2);
        for open in ["", "-P FORWARD ACCEPT\n", "-P FORWARD DROP\n-A FORWARD -i ls-+ -j ACCEPT\n"] {
            assert_eq!(way_out("", open)[0].verdict, Verdict::Fine, "{open}");
        }
    }

    #[test]
    fn a_node_without_a_way_out_says_why() {
        assert_eq!(egress(None)[0].verdict, Verdict::Fine);
        let none = &egress(Some(Err("nft is not installed".to_owned())))[0];
        assert_eq!(none.verdict, Verdict::Degraded);
        assert!(none.found.ends_with(": nft is not installed"), "{none:?}");
    }
}
