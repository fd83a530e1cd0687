//! Registries that want a token, and what is shown to whom.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use longshore_agent::runtime::image::ImageStore;
use longshore_agent::runtime::{Access, Purpose, RuntimeError};
use longshore_demo_image::DemoImage;
use longshore_model::failure::FailureReason;
use longshore_tests::https::{Https, Reply, Request, Way};
use longshore_tests::registry::{Guard, PASSWORD, Registry, USERNAME};
use longshore_tests::tokens::{LEEWAY, SERVICE, TokenService};
use longshore_tests::wait;

use super::{deploy, deploy_as, image, ring_for, store_trusting};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A registry that wants tokens, and the service that gives them.
struct Bed {
    service: TokenService,
    registry: Registry,
}

impl Bed {
    async fn new() -> Self {
        let service = TokenService::start(HERE);
        let registry = Registry::start_on(None, Guard::Tokens(&service));
        for name in ["shop/till:1", "public/till:1"] {
            let demo = DemoImage::new().layer(&[("one", b"1")]).layer(&[("two", b"2")]).env("NAME", name);
            registry.push(name, &demo).await;
        }
        Self { service, registry }
    }

    fn authorities(&self) -> Vec<u8> {
        [self.registry.authority(), self.service.server().authority()].concat()
    }

    /// A node that knows both authorities.
    fn store(&self) -> ImageStore {
        store_trusting(&self.registry, vec![self.authorities()])
    }

    fn access(&self, password: &str) -> Access {
        ring_for(self.registry.address(), password, &self.authorities()).1
    }

    /// What the service was asked since it had seen so many requests.
    fn asked(&self, since: usize) -> Vec<Request> {
        self.service.server().seen().split_off(since)
    }
}

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{password}")))
}

fn reason<T: std::fmt::Debug>(result: Result<T, RuntimeError>, words: &[&str]) -> FailureReason {
    let error = result.unwrap_err();
    for word in words {
        assert!(error.message.contains(word), "{word} is not in: {error}");
    }
    error.reason
}

#[tokio::test]
async fn a_password_buys_a_token_for_one_repository_and_is_shown_to_the_service_alone() {
    let bed = Bed::new().await;
    let before = bed.asked(0).len();
    // In front of the registry, to see what it is shown; the credential is for this place.
    let front = Https::start(HERE, Some((bed.registry.address(), bed.registry.authority())), async |_| {
        Reply::Forward(Way::Free)
    });
    let authorities = [front.authority(), &bed.authorities()].concat();
    let (_, access) = ring_for(&front.address(), PASSWORD, &authorities);
    let wanted = image(&format!("{}/shop/till:1", front.address()), None);
    let store = store_trusting(&bed.registry, vec![authorities]);
    deploy_as(&store, &wanted, &access).await.unwrap();

    let asked = bed.asked(before);
    // One for the manifests, and one for all layers, which are fetched at the same time.
    assert_eq!(asked.len(), 2, "{asked:?}");
    for request in &asked {
        assert_eq!(request.query("scope").as_deref(), Some("repository:shop/till:pull"));
        assert_eq!(request.query("service").as_deref(), Some(SERVICE));
        assert_eq!(request.header("authorization"), Some(basic(PASSWORD).as_str()));
    }
    let told: BTreeSet<_> =
        front.seen().iter().filter_map(|request| request.header("authorization").map(str::to_owned)).collect();
    let given: BTreeSet<_> = bed.service.given()[before..].iter().map(|token| format!("Bearer {token}")).collect();
    assert_eq!(told, given, "the registry is shown tokens, and never the password");
}

#[tokio::test]
async fn everybody_gets_a_token_for_what_everybody_may_read_and_for_nothing_else() {
    let bed = Bed::new().await;
    let before = bed.asked(0).len();
    let store = bed.store();
    deploy(&store, &image(&bed.registry.reference("public/till:1"), None)).await.unwrap();
    assert!(bed.asked(before).iter().all(|request| request.header("authorization").is_none()));

    let private = image(&bed.registry.reference("shop/till:1"), None);
    let refused = store.resolve(&private, &Access::anonymous(), Purpose::Pull).await;
    assert_eq!(reason(refused, &["shop/till", "everyone"]), FailureReason::ImageAccessDenied);
    let refused = store.resolve(&private, &bed.access("canary-wrong"), Purpose::Pull).await;
    assert_eq!(reason(refused, &["shop/till", "credential shop"]), FailureReason::ImageAccessDenied);
    let absent = image(&bed.registry.reference("shop/none:1"), None);
    let refused = store.resolve(&absent, &bed.access(PASSWORD), Purpose::Pull).await;
    assert_eq!(reason(refused, &["shop/none:1"]), FailureReason::ImageNotFound);
    deploy_as(&store, &private, &bed.access(PASSWORD)).await.unwrap();
}

#[tokio::test]
async fn a_token_that_expires_during_a_pull_is_followed_by_another() {
    let bed = Bed::new().await;
    let before = bed.service.given().len();
    // The first token of a pull is good for two seconds more, and layers are held back until it is good no longer.
    let dead = Arc::new(Mutex::new(None::<Timestamp>));
    let until = Arc::clone(&dead);
    let front = Https::start(HERE, Some((bed.registry.address(), bed.registry.authority())), move |request| {
        let until = Arc::clone(&until);
        async move {
            if request.target.contains("/blobs/") && request.header("authorization").is_some() {
                let is_over = || async { until.lock().unwrap().is_none_or(|end| Timestamp::now() > end) };
                wait::until("the end of the first token", is_over).await;
            }
            Reply::Forward(Way::Free)
        }
    });
    let authorities = [front.authority(), &bed.authorities()].concat();
    let (_, access) = ring_for(&front.address(), PASSWORD, &authorities);
    let store = store_trusting(&bed.registry, vec![authorities]);
    let wanted = image(&format!("{}/shop/till:1", front.address()), None);
    let resolved = store.resolve(&wanted, &access, Purpose::Pull).await.unwrap().image;
    let resolving = bed.service.given().len() - before;

    bed.service.set_life(2 - LEEWAY);
    *dead.lock().unwrap() = Some(Timestamp::MAX);
    let pull = store.pull(&resolved, &access, Arc::new(|_| {}));
    let renewed = async {
        // By the time that the service is asked again its tokens are good once more.
        let has_asked = || async { bed.service.given().len() > before + resolving };
        wait::until("the pull's first question for a token", has_asked).await;
        bed.service.set_life(300);
        // Times in tokens are whole seconds.
        *dead.lock().unwrap() = Some(Timestamp::now() + jiff::SignedDuration::from_secs(3));
    };
    let (pulled, ()) = tokio::join!(pull, renewed);
    pulled.unwrap();
    assert_eq!(bed.service.given().len(), before + resolving + 2, "one that expired, one more, for all layers");
}

#[tokio::test]
async fn a_token_service_without_tls_is_shown_nothing() {
    let plain = std::net::TcpListener::bind((HERE, 0)).unwrap();
    plain.set_nonblocking(true).unwrap();
    let realm = format!("http://{}/token", plain.local_addr().unwrap());
    let challenge = format!(r#"Bearer realm="{realm}",service="{SERVICE}""#);
    let registry = Https::start(HERE, None, move |_| {
        let headers = vec![("www-authenticate", challenge.clone())];
        async move { Reply::Own(401, headers, Vec::new()) }
    });
    let bed = Registry::start(false);
    let store = store_trusting(&bed, vec![registry.authority().to_vec()]);
    let wanted = image(&format!("{}/shop/till:1", registry.address()), None);
    let (_, access) = ring_for(&registry.address(), PASSWORD, registry.authority());
    for access in [access, Access::anonymous()] {
        let refused = store.resolve(&wanted, &access, Purpose::Pull).await;
        assert_eq!(reason(refused, &[&realm, "without TLS"]), FailureReason::ImageAccessDenied);
    }
    assert_eq!(plain.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody has called");
}

#[tokio::test]
async fn nothing_is_shown_to_whom_a_registry_or_its_token_service_sends_on() {
    // Sends everybody on once they have shown a password or a token.
    let elsewhere = Https::start(HERE, None, async |_: Request| {
        Reply::Own(401, vec![("www-authenticate", r#"Basic realm="give it to me""#.to_owned())], Vec::new())
    });
    let away = format!("https://{}/taken", elsewhere.address());
    let sends_on = move |challenge: String| {
        let away = away.clone();
        move |request: Request| {
            let headers = match request.header("authorization") {
                Some(_) => (307, vec![("location", away.clone())]),
                None => (401, vec![("www-authenticate", challenge.clone())]),
            };
            async move { Reply::Own(headers.0, headers.1, Vec::new()) }
        }
    };
    let service = Https::start(HERE, None, sends_on(r#"Basic realm="tokens""#.to_owned()));
    let of_service = format!(r#"Bearer realm="https://{}/token""#, service.address());
    let registries = [
        Https::start(HERE, None, sends_on(r#"Basic realm="registry""#.to_owned())),
        Https::start(HERE, None, sends_on(of_service)),
    ];
    let bed = Registry::start(false);
    for registry in &registries {
        let authorities = [registry.authority(), service.authority(), elsewhere.authority()].concat();
        let (_, access) = ring_for(&registry.address(), PASSWORD, &authorities);
        let store = store_trusting(&bed, Vec::new());
        let refused =
            store.resolve(&image(&format!("{}/shop/till:1", registry.address()), None), &access, Purpose::Pull).await;
        assert_eq!(reason(refused, &[&registry.address()]), FailureReason::RegistryUnreachable);
    }
    // The registry's own redirection is followed, without what it was told.
    assert!(registries[0].seen().iter().any(|request| request.header("authorization") == Some(&basic(PASSWORD))));
    let followed = elsewhere.seen();
    assert!(!followed.is_empty());
    for request in followed {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    assert!(service.seen().iter().any(|request| request.header("authorization") == Some(&basic(PASSWORD))));
}

#[tokio::test]
async fn a_token_service_that_does_not_do_its_work_is_named() {
    let bed = Registry::start(false);
    let replies = [
        (Reply::Own(200, Vec::new(), b"no token".to_vec()), "gives no token"),
        (Reply::Own(200, Vec::new(), br#"{"token":"a\nb"}"#.to_vec()), "gives no token"),
        (Reply::Own(200, Vec::new(), vec![b' '; 1 << 20]), "sends too much"),
        (Reply::Own(404, Vec::new(), Vec::new()), "404"),
        (Reply::Own(302, vec![("location", "/token".to_owned())], Vec::new()), "302"),
    ];
    for (reply, word) in replies {
        let service = Https::start(HERE, None, move |_| {
            let reply = reply.clone();
            async move { reply }
        });
        let challenge = format!(r#"Bearer realm="https://{}/token""#, service.address());
        let registry = Https::start(HERE, None, move |_| {
            let headers = vec![("www-authenticate", challenge.clone())];
            async move { Reply::Own(401, headers, Vec::new()) }
        });
        let store = store_trusting(&bed, vec![[registry.authority(), service.authority()].concat()]);
        let wanted = image(&format!("{}/shop/till:1", registry.address()), None);
        let refused = store.resolve(&wanted, &Access::anonymous(), Purpose::Pull).await;
        let words = ["token service 127.0.0.1", &registry.address(), word];
        assert_eq!(reason(refused, &words), FailureReason::RegistryUnreachable);
    }
}

#[tokio::test]
async fn a_manifest_without_an_end_is_not_read_to_it() {
    let endless = Https::start(HERE, None, async |_: Request| Reply::Own(200, Vec::new(), vec![b' '; 16 << 20]));
    let bed = Registry::start(false);
    let store = store_trusting(&bed, vec![endless.authority().to_vec()]);
    let refused =
        store.resolve(&image(&format!("{}/a:1", endless.address()), None), &Access::anonymous(), Purpose::Pull).await;
    assert_eq!(reason(refused, &["the image's manifest", "larger"]), FailureReason::ImageInvalid);
}
