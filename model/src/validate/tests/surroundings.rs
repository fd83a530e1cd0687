//! Devices, aliases and resolvers: what is right, and what nobody should get through.

use super::*;
use crate::spec::{AcceleratorQuota, Device, DnsConfig, DnsOption, HostAlias};

fn device(host: &str, container: Option<&str>, permissions: &str) -> Device {
    let container_path = container.map(str::to_owned);
    Device { host_path: host.to_owned(), container_path, permissions: permissions.to_owned() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn of_devices(devices: &[Device]) -> Vec<String> {
    let found = fields(|spec| spec.devices = devices.to_vec());
    found.into_iter().map(|field| field.trim_start_matches("spec.devices").to_owned()).collect()
}

#[test]
fn devices_are_below_dev_and_not_the_runtimes_own() {
    let good = [
        device("/dev/ttyUSB0", None, "rwm"),
        device("//dev/./serial/by-id/usb-1", Some("/dev/scale"), "r"),
        device("/dev/zero", Some("/dev/mine"), "wr"),
        device("/dev/dri/renderD128", None, "m"),
        device("/dev/ttyS0", None, "rw"),
    ];
    assert!(of_devices(&good).is_empty());
    let long = format!("/dev/{}", "a".repeat(256));
    for wrong in [
        "",
        "dev/x",
        "/dev",
        "/dev/",
        "/",
        "/etc/shadow",
        "/device/x",
        "/dev/../etc/shadow",
        "/dev/x\0",
        "/dev/x\n",
        "/dev/\u{202e}x",
        "/d\u{435}v/x",
        "/dev/pts/0",
        "/dev/shm/x",
        "/dev/mqueue/x",
        "/dev/fd/3",
        "/dev/${node.name}",
        "/dev/${node.labels.scale}",
        "/dev/$${node.name}",
        &long,
    ] {
        let found = of_devices(&[device(wrong, Some("/dev/x"), "rw")]);
        assert!(!found.is_empty() && found.iter().all(|field| field == "[0].host_path"), "{wrong:?}: {found:?}");
    }
    for wrong in [
        "",
        "x",
        "/dev",
        "/app",
        "/dev/null",
        "/dev/zero",
        "/dev/pts/ptmx",
        "/dev/shm/x",
        "/dev/tty",
        "/dev/a/../b",
        "/dev/${node.name}",
    ] {
        let found = of_devices(&[device("/dev/x", Some(wrong), "rw")]);
        assert!(!found.is_empty() && found.iter().all(|field| field == "[0].container_path"), "{wrong:?}: {found:?}");
    }
    assert_eq!(of_devices(&[device("/dev/null", None, "rw")]), ["[0].host_path"]);
}

#[test]
fn devices_have_permissions_and_places_of_their_own() {
    for wrong in ["", "x", "rr", "rwmx", "RW", "r w", "rw\0", "\u{433}w"] {
        assert_eq!(of_devices(&[device("/dev/x", None, wrong)]), ["[0].permissions"], "{wrong:?}");
    }
    let twice = [device("/dev/a", None, "rw"), device("/dev/b", Some("/dev//a"), "rw"), device("/dev/a", None, "r")];
    assert_eq!(of_devices(&twice), ["[1].container_path", "[2].host_path"]);
    let nested = [device("/dev/a", None, "rw"), device("/dev/b", Some("/dev/a/b"), "rw")];
    assert_eq!(of_devices(&nested), ["[1].container_path"]);
    assert_eq!(of_devices(&vec![device("/dev/a", None, "rw"); 5000])[0], "");
    let privileged = |spec: &mut AppSpec| (spec.privileged, spec.devices) = (true, vec![device("/dev/a", None, "rw")]);
    assert_eq!(fields(privileged), ["spec.devices"]);
}

#[test]
fn accelerators_are_of_one_kind() {
    let quota = |kind: &str, count| AcceleratorQuota { kind: kind.to_owned(), count };
    let found = |quotas: &[AcceleratorQuota]| fields(|spec| spec.accelerators = quotas.to_vec());
    assert!(found(&[quota("nvidia.com/gpu", 1)]).is_empty());
    assert!(found(&[quota("huawei.com/npu", 64)]).is_empty());
    for wrong in
        ["", "gpu", "nvidia.com/gpu=0", "nvidia.com/gpu\0", "nvidi\u{430}.com/gpu", "../gpu", "${node.name}/gpu"]
    {
        assert_eq!(found(&[quota(wrong, 1)]), ["spec.accelerators[0].kind"], "{wrong:?}");
    }
    for wrong in [0, 65, u32::MAX] {
        assert_eq!(found(&[quota("nvidia.com/gpu", wrong)]), ["spec.accelerators[0].count"], "{wrong}");
    }
    let two = [quota("nvidia.com/gpu", 1), quota("huawei.com/npu", 1)];
    let expected = "spec.accelerators: has two kinds, \"nvidia.com/gpu\" and \"huawei.com/npu\"; an app has accelerators of one \
                    kind";
    assert_eq!(wrong(|spec| spec.accelerators = two.to_vec()).to_string(), expected);
    assert_eq!(found(&vec![quota("nvidia.com/gpu", 1); 5000]), ["spec.accelerators"]);
}

#[test]
fn aliases_are_names_of_addresses() {
    let alias = |ip: &str, names: &[&str]| HostAlias { ip: ip.to_owned(), hostnames: words(names) };
    let found = |aliases: &[HostAlias]| fields(|spec| spec.host_aliases = aliases.to_vec());
    let good = [
        alias("192.0.2.7", &["db", "db.example.com", "Till_1"]),
        alias("2001:db8::7", &["db"]),
        alias("0.0.0.0", &["advertisements.example.com"]),
        alias("192.0.2.8", &["db"]),
    ];
    assert!(found(&good).is_empty());
    for ip in [
        "",
        "db",
        "192.0.2",
        "192.0.2.07",
        "192.0.2.7 ",
        "192.0.2.7/24",
        "fe80::1%eth0",
        "[::1]",
        "0x7f000001",
        "127.1",
        "192.0.2.7\n192.0.2.8",
        "${node.host_ip}",
        "１92.0.2.7",
    ] {
        assert_eq!(found(&[alias(ip, &["a"])]), ["spec.host_aliases[0].ip"], "{ip:?}");
    }
    let long = "a.".repeat(127);
    for name in [
        "",
        " ",
        "a b",
        "a\tb",
        "a\nb",
        "a\0",
        "a#b",
        "#",
        ".",
        "a..b",
        "-a",
        "a.",
        "ex\u{430}mple.com",
        "a/b",
        "a=b",
        "192.0.2.9",
        "::1",
        "${node.name}",
        "*",
        &"a".repeat(64),
        &long,
    ] {
        assert_eq!(found(&[alias("192.0.2.7", &["ok", name])]), ["spec.host_aliases[0].hostnames[1]"], "{name:?}");
    }
    let twice = [alias("::1", &["a", "A"]), alias("0:0:0:0:0:0:0:1", &["a"])];
    assert_eq!(found(&twice), ["spec.host_aliases[0].hostnames[1]", "spec.host_aliases[1].hostnames[0]"]);
    assert_eq!(found(&[alias("::1", &[])]), ["spec.host_aliases[0].hostnames"]);
    assert_eq!(found(&vec![alias("::1", &["a"]); 5000])[0], "spec.host_aliases");
    assert_eq!(found(&[alias("::1", &vec!["a"; 5000])])[0], "spec.host_aliases[0].hostnames");
}

#[test]
fn resolvers_are_few_and_their_words_are_plain() {
    let found = |config: DnsConfig| fields(|spec| spec.dns_config = config);
    let option = |name: &str, value: Option<&str>| DnsOption { name: name.to_owned(), value: value.map(str::to_owned) };
    let good = DnsConfig {
        nameservers: words(&["192.0.2.53", "2001:db8::53", "127.0.0.1"]),
        searches: words(&["example.com", "lan", "example.org."]),
        options: vec![option("ndots", Some("2")), option("edns0", None), option("single-request-reopen", None)],
    };
    assert!(found(good).is_empty());
    let server = |text: &str| found(DnsConfig { nameservers: words(&[text]), ..DnsConfig::default() });
    for wrong in ["", "dns.example.com", "192.0.2.53:53", "192.0.2.53\noptions debug", "0.0.0.0", "::", "224.0.0.251"] {
        assert_eq!(server(wrong), ["spec.dns_config.nameservers[0]"], "{wrong:?}");
    }
    let servers = words(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
    assert_eq!(found(DnsConfig { nameservers: servers, ..DnsConfig::default() }), ["spec.dns_config.nameservers"]);
    let twice = words(&["::1", "0::1"]);
    assert_eq!(found(DnsConfig { nameservers: twice, ..DnsConfig::default() }), ["spec.dns_config.nameservers[1]"]);
    let search = |text: &str| found(DnsConfig { searches: words(&[text]), ..DnsConfig::default() });
    for wrong in ["", ".", "..", "a b", "a\nnameserver 192.0.2.1", "a;b", "\u{435}xample.com", &"a.".repeat(128)] {
        assert_eq!(search(wrong), ["spec.dns_config.searches[0]"], "{wrong:?}");
    }
    let options = |options: Vec<DnsOption>| found(DnsConfig { options, ..DnsConfig::default() });
    for wrong in ["", "NDOTS", "a b", "a\n", "a:b", "\u{43e}ptions", &"a".repeat(64)] {
        assert_eq!(options(vec![option(wrong, None)]), ["spec.dns_config.options[0].name"], "{wrong:?}");
        assert_eq!(options(vec![option("a", Some(wrong))]), ["spec.dns_config.options[0].value"], "{wrong:?}");
    }
    let twice = vec![option("ndots", Some("1")), option("ndots", Some("2"))];
    assert_eq!(options(twice), ["spec.dns_config.options[1].name"]);
    assert_eq!(options(vec![option("a", None); 5000])[0], "spec.dns_config.options");
}
