//! Bad lines, and mirrors: layers that break off, stall and drip, and where the rest of them comes from.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longshore_agent::runtime::image::RegistryConfig;
use longshore_agent::runtime::{Access, Purpose};
use longshore_demo_image::{Compression, DemoImage};
use longshore_model::failure::FailureReason;
use longshore_model::spec::PullPolicy;
use longshore_model::task::PullProgress;
use longshore_tests::https::{Https, Reply, Request, Way};
use longshore_tests::registry::{PASSWORD, Registry};

use super::{deploy, deploy_as, image, ring_for, store_trusting, store_with};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Bytes of the file in the large layer.
const LARGE: usize = 2 << 20;

/// An image with a large layer, and how that is called.
async fn push(registry: &Registry) -> (String, u64) {
    let content: Vec<u8> = (0..LARGE).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let demo = DemoImage::new().compression(Compression::None).layer(&[("large", &content)]);
    registry.push("shop/till:1", &demo).await;
    let layer = demo.parts().layers.remove(1);
    (layer.digest, layer.content.len() as u64)
}

/// Stands in front of a registry, and lets the requests for the layer through by these ways, the last one from then on.
fn front(registry: &Registry, layer: &str, ways: Vec<Way>) -> Https {
    let (asked, layer) = (AtomicUsize::new(0), layer.to_owned());
    Https::start(HERE, Some((registry.address(), registry.authority())), move |request| {
        let mut way = Way::Free;
        if request.target.ends_with(&layer) {
            way = ways[asked.fetch_add(1, Ordering::Relaxed).min(ways.len() - 1)];
        }
        async move { Reply::Forward(way) }
    })
}

/// The Range headers of the requests for the layer.
fn ranges(front: &Https, layer: &str) -> Vec<Option<String>> {
    let seen = front.seen().into_iter().filter(|request| request.target.ends_with(layer));
    seen.map(|request| request.header("range").map(str::to_owned)).collect()
}

fn from(start: u64) -> Option<String> {
    Some(format!("bytes={start}-"))
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_gone_on_with_where_it_ended() {
    let registry = Registry::start(false);
    let (layer, size) = push(&registry).await;
    let cuts = vec![Way::Cut(1_000_000), Way::Cut(500_000), Way::Cut(0), Way::Cut(1), Way::Free];
    let front = front(&registry, &layer, cuts);
    let store = store_trusting(&registry, vec![front.authority().to_vec()]);
    let wanted = image(&format!("{}/shop/till:1", front.address()), None);
    let resolved = store.resolve(&wanted, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let sink = Arc::new(move |pull: PullProgress| sink.lock().unwrap().push(pull.done));
    store.pull(&resolved, &Access::anonymous(), sink).await.unwrap();
    let expected = [None, from(1_000_000), from(1_500_000), from(1_500_000), from(1_500_001)];
    assert_eq!(ranges(&front, &layer), expected, "of {size} bytes");
    assert!(seen.lock().unwrap().is_sorted(), "nothing is counted twice, and nothing taken back");
}

#[tokio::test]
async fn a_registry_that_knows_no_ranges_is_asked_from_the_beginning() {
    let registry = Registry::start(false);
    let (layer, _) = push(&registry).await;
    let hex = layer.trim_start_matches("sha256:");
    let blob =
        registry.directory().join("storage/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
    let whole = std::fs::read(blob).unwrap();
    let (asked, wanted) = (AtomicUsize::new(0), layer.clone());
    let front = Https::start(HERE, Some((registry.address(), registry.authority())), move |request: Request| {
        let reply = match request.target.ends_with(&wanted).then(|| asked.fetch_add(1, Ordering::Relaxed)) {
            Some(0) => Reply::Forward(Way::Cut(700_000)),
            Some(_) => Reply::Own(200, Vec::new(), whole.clone()),
            None => Reply::Forward(Way::Free),
        };
        async move { reply }
    });
    let store = store_trusting(&registry, vec![front.authority().to_vec()]);
    deploy(&store, &image(&format!("{}/shop/till:1", front.address()), None)).await.unwrap();
    assert_eq!(ranges(&front, &layer), [None, from(700_000)]);
}

#[tokio::test]
async fn a_layer_of_which_nothing_comes_is_stalled_and_one_that_drips_is_not() {
    let registry = Registry::start(false);
    let (layer, _) = push(&registry).await;
    let ways = |first: Vec<Way>| front(&registry, &layer, first);
    let config = |front: &Https, seconds| RegistryConfig {
        ca_pems: vec![front.authority().to_vec()],
        stall_timeout: Duration::from_secs(seconds),
        ..RegistryConfig::default()
    };

    // Three connections fall silent, each for a third of the time.
    let stalling = ways(vec![Way::Stall(300_000), Way::Stall(0)]);
    let store = store_with(&registry, &config(&stalling, 3));
    let wanted = image(&format!("{}/shop/till:1", stalling.address()), Some(PullPolicy::Always));
    let error = deploy(&store, &wanted).await.unwrap_err();
    assert_eq!(error.reason, FailureReason::PullStalled, "{error}");
    assert!(error.message.contains(&stalling.address()) && error.message.contains("3s"), "{error}");
    let asked = ranges(&stalling, &layer);
    assert!(asked.len() >= 3 && asked[0].is_none(), "{asked:?}");
    assert!(asked[1..].iter().all(|range| *range == from(300_000)), "{asked:?}");
    drop(store);

    // Far longer on its way than the time within which something has to come.
    let dripping = ways(vec![Way::Drip(64 * 1024, Duration::from_millis(150))]);
    let store = store_with(&registry, &config(&dripping, 3));
    let begun = std::time::Instant::now();
    deploy(&store, &image(&format!("{}/shop/till:1", dripping.address()), None)).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(3), "it was not slow: {:?}", begun.elapsed());
}

#[tokio::test]
async fn mirrors_are_asked_in_turn_without_the_password_and_the_rest_comes_from_the_registry() {
    let origin = Registry::start(true);
    let (layer, _) = push(&origin).await;
    let (empty, copy) = (Registry::start(false), Registry::start(false));
    assert_eq!(push(&copy).await.0, layer);
    let dead = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().to_string();
    let without = front(&empty, &layer, vec![Way::Free]);
    let breaking = front(&copy, &layer, vec![Way::Cut(900_000)]);
    let before = front(&origin, &layer, vec![Way::Free]);
    let mirrors = [dead, without.address(), breaking.address()];
    let mirrors = mirrors.map(|mirror| format!("{}={mirror}", before.address()).parse().unwrap());
    let authorities = [without.authority(), breaking.authority(), before.authority()].concat();
    let config = RegistryConfig { ca_pems: vec![authorities], mirrors: mirrors.to_vec(), ..RegistryConfig::default() };
    let store = store_with(&origin, &config);
    let (_, access) = ring_for(&before.address(), PASSWORD, before.authority());
    let wanted = image(&format!("{}/shop/till:1", before.address()), None);
    deploy_as(&store, &wanted, &access).await.unwrap();

    assert!(!without.seen().is_empty(), "it was asked");
    assert!(ranges(&without, &layer).len() <= 1, "a mirror that has not one thing is not asked for it again");
    assert_eq!(ranges(&breaking, &layer), [None]);
    assert!(before.seen().iter().all(|request| !request.target.contains("/manifests/")), "a mirror has told that");
    assert!(ranges(&before, &layer).iter().all(|range| *range == from(900_000)));
    for mirror in [&without, &breaking] {
        assert!(mirror.seen().iter().all(|request| request.header("authorization").is_none()));
    }
}
