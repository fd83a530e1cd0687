//! What the kernel says of a container's rights.

use longshore_demo_image::DemoImage;
use longshore_model::spec::Protocol;
use serde_json::json;

use super::node::{Node, free_port, http, port};

/// The capabilities of an ordinary container, as `docs/runtimes.md` has them.
const DOCUMENTED: &str = "00000000a00425fb";

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[tokio::test]
async fn an_ordinary_container_is_confined_as_documented() {
    assert!(include_str!("../../../docs/runtimes.md").contains(DOCUMENTED), "documented");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = u64::from_str_radix(field(&own, "CapBnd"), 16).unwrap();
    let expected = u64::from_str_radix(DOCUMENTED, 16).unwrap() & own;
    let node = Node::new();
    for (name, user) in [("root", ""), ("user", "demo")] {
        let host_port = free_port();
        let mut launch = node.launch(name, DemoImage::new().user(user), json!({})).await;
        launch.ports = vec![port(Protocol::Tcp, host_port, 8080)];
        node.run(&launch).await.unwrap();
        let status = http(host_port, "GET /read?path=/proc/self/status").await;
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
        assert_eq!(field(&status, "Seccomp"), "2", "{name}");
        let held = |set| u64::from_str_radix(field(&status, set), 16).unwrap();
        let effective = if user.is_empty() { expected } else { 0 };
        let bounding = held("CapBnd");
        assert!(bounding == expected || bounding == effective, "{name}: {status}");
        assert_eq!([held("CapEff"), held("CapPrm")], [effective; 2], "{name}: {status}");
        assert_eq!([held("CapInh"), held("CapAmb")], [0; 2], "{name}: {status}");
        assert_eq!(http(host_port, "GET /read?path=/proc/keys").await, "", "masked");
        assert_ne!(http(host_port, "POST /write?path=/proc/sys/kernel/domainname").await, "written");
    }
    node.end().await;
}
