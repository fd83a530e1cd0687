//! Private registries: on hosts of their own, with an authority of their own and passwords, for nodes with the agent's own
//! runtime and with Docker. Away from loopback, where engines do without TLS.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_demo_image::{ARCHITECTURE, DemoImage};
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_tests::client::Client;
use longshore_tests::cluster::{Cluster, Node};
use longshore_tests::engine::{Engine, Kind};
use longshore_tests::host::{Host, Switch};
use longshore_tests::http;
use longshore_tests::https::{Https, Reply, Way};
use longshore_tests::process::{output, succeed};
use longshore_tests::registry::{Guard, PASSWORD, Registry, USERNAME};
use longshore_tests::spec::{app, tcp, with_ports};
use longshore_tests::tokens::TokenService;
use longshore_tests::wait;
use longshore_tls::{Credentials, KeepAlive};
use tonic::Code;
use v1::{FailureReason, JobState, PullPolicy, TaskState};

use crate::network::on_a_switch;

/// A server, a node and two registries with passwords, each on a host. Of the registries the node knows the authority of
/// one, `known`.
struct Site {
    node: Node,
    client: Client,
    cluster: Cluster,
    engine: Option<Engine>,
    node_host: Host,
    known: Registry,
    other: Registry,
    _registry_hosts: [Host; 2],
    images: u32,
}

impl Site {
    async fn build(switch: &Switch, server: &Host, engine: Option<Kind>) -> Self {
        let registry_hosts = [switch.host(), switch.host()];
        let [known, other] = registry_hosts.each_ref().map(|host| Registry::start_on(Some(host), Guard::Passwords));
        let cluster = Cluster::start_on(Some(server)).await;
        let node_host = switch.host();
        let engine = engine.map(|kind| Engine::start(kind, &node_host));
        let authority = cluster.file("known.crt", known.authority());
        let mut arguments = vec!["--registry-ca".to_owned(), authority];
        if let Some(engine) = &engine {
            arguments.extend(["--runtime", "docker", "--docker-socket"].map(str::to_owned));
            arguments.push(engine.address());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let node = cluster.node_with("node", &[], Some(&node_host), &arguments).await;
        let client = cluster.client().await;
        let _registry_hosts = registry_hosts;
        Self { node, client, cluster, engine, node_host, known, other, _registry_hosts, images: 0 }
    }

    /// `longshore registry` with a password.
    fn credential(&self, words: &[&str], password: Option<&str>) -> Command {
        let mut command = self.cluster.cli(&[&["registry"], words].concat());
        if let Some(password) = password {
            command.args(["--password-file", &self.cluster.file("password", password)]);
        }
        command
    }

    fn make_credential(&self, name: &str, registry: &Registry, password: &str) {
        let words = ["create", name, "--registry", registry.address(), "--username", USERNAME];
        succeed(&mut self.credential(&words, Some(password)));
    }

    /// An image that the node has not seen, in a registry.
    async fn image(&mut self, of: impl Fn(&Self) -> &Registry) -> v1::Image {
        self.images += 1;
        let name = format!("shop/till-{}:1", self.images);
        of(self).push(&name, &DemoImage::new().env("IMAGE", &self.images.to_string())).await;
        image(of(self).reference(&name))
    }

    async fn deploy(&self, image: v1::Image) -> v1::Job {
        let spec = with_ports(v1::AppSpec { image: Some(image), ..app("", &["serve"]) }, &[tcp(8080, 0)]);
        self.client.create(spec, &["node"]).await
    }

    /// Waits until the job has failed for this reason, which it tells with all these words.
    async fn fails(&self, job: &v1::Job, reason: FailureReason, words: &[&str]) {
        let done = self.client.rest(&job.job_id).await;
        let task = self.client.task(&job.job_id).await;
        assert_eq!(done.state(), JobState::Failed, "{task:?}");
        let failure = task.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (reason, TaskState::Checking), "{failure:?}");
        for word in words {
            assert!(failure.message.contains(word), "{word} is not in: {}", failure.message);
        }
        assert!(!failure.message.contains("canary"), "{}", failure.message);
    }

    fn has_engine(&self) -> bool {
        self.engine.is_some()
    }

    /// What stands in the way of an image where the node looks for itself, and the bytes that it would fetch.
    async fn would_fetch(&self, image: &v1::Image) -> (Vec<FailureReason>, Option<u64>) {
        let spec = v1::AppSpec { image: Some(image.clone()), ..app("", &["serve"]) };
        let targets = v1::Targets { node_names: vec!["node".to_owned()], ..Default::default() };
        let job = v1::CreateJobRequest { spec: Some(spec), targets: Some(targets), ..Default::default() };
        let request = v1::PlanJobRequest { job: Some(job), live: true };
        let mut plan = self.client.jobs.clone().plan_job(request).await.unwrap().into_inner();
        let node = plan.message().await.unwrap().unwrap().nodes.remove(0);
        assert_eq!(node.check(), v1::NodeCheck::Done, "{node:?}");
        (node.obstacles.iter().map(v1::PlanObstacle::reason).collect(), node.fetch_bytes)
    }

    async fn retry(&self, job: &v1::Job) {
        self.client.retry(&job.job_id).await;
    }

    async fn succeeds(&self, job: &v1::Job) {
        let done = self.client.rest(&job.job_id).await;
        assert_eq!(done.state(), JobState::Succeeded, "{:?}", self.client.task(&job.job_id).await);
    }

    /// What the job's app says of its environment.
    async fn env(&self, job: &v1::Job, name: &str) -> String {
        let port = wait::for_value("the app's port", || async {
            let status = self.client.app("node", &job.app_name).await.status?;
            status.ports.first().map(|port| port.host_port)
        });
        let address = SocketAddr::new(IpAddr::V4(self.node_host.address), u16::try_from(port.await).unwrap());
        let path = format!("/env/{name}");
        let answer = wait::for_value("the app to answer", || async { http::get(address, &path).await.ok() }).await;
        answer.body.trim_end().to_owned()
    }
}

fn image(reference: String) -> v1::Image {
    v1::Image { source: Some(v1::image::Source::Reference(reference)), ..Default::default() }
}

fn with(policy: PullPolicy, image: &v1::Image) -> v1::Image {
    v1::Image { pull_policy: policy.into(), ..image.clone() }
}

fn on_a_site<F: Future<Output = ()>>(engine: Option<Kind>, test: impl FnOnce(Site) -> F + Send + 'static) {
    on_a_switch(move |switch, server| async move { test(Site::build(&switch, &server, engine).await).await });
}

#[test]
fn private_images_run_on_the_agents_own_runtime() {
    on_a_site(None, private_images_run);
}

#[test]
fn private_images_run_on_docker() {
    on_a_site(Some(Kind::Docker), private_images_run);
}

async fn private_images_run(mut site: Site) {
    site.make_credential("known", &site.known, PASSWORD);
    let version = |version: &str| DemoImage::new().env("VERSION", version);
    let index = [("sparc", &version("foreign")), (ARCHITECTURE, &version("index"))];
    let (_, index) = site.known.push_index("shop/many:1", &index).await;
    let digest = site.known.push("shop/one:1", &version("digest")).await;
    site.known.push("shop/tagged:1", &version("tag")).await;
    let names = [
        ("shop/tagged:1".to_owned(), "tag"),
        (format!("shop/one@{digest}"), "digest"),
        ("shop/many:1".to_owned(), "index"),
        (format!("shop/many@{index}"), "index"),
    ];
    for (name, expected) in names {
        let job = site.deploy(with(PullPolicy::Always, &image(site.known.reference(&name)))).await;
        site.succeeds(&job).await;
        assert_eq!(site.env(&job, "VERSION").await, expected, "{name}");
    }

    let till = image(site.known.reference("shop/till:1"));
    let first = version("1").layer(&[("etc/motd", &[7; 3000])]);
    site.known.push("shop/till:1", &first).await;
    // The agent's own runtime has all but the last of its layers; engines are given all of an image.
    let sizes: Vec<u64> = first.parts().layers.iter().map(|layer| layer.content.len() as u64).collect();
    let bytes = if site.has_engine() { sizes.iter().sum() } else { sizes[1] };
    assert_eq!(site.would_fetch(&till).await, (vec![], Some(bytes)));
    let absent = image(site.known.reference("shop/absent:1"));
    assert_eq!(site.would_fetch(&absent).await, (vec![FailureReason::ImageNotFound], None));
    let job = site.deploy(with(PullPolicy::Never, &till)).await;
    site.fails(&job, FailureReason::ImageNotFound, &["shop/till:1", "Never"]).await;
    let runs = async |site: &Site, policy, expected: &str| {
        let job = site.deploy(with(policy, &till)).await;
        site.succeeds(&job).await;
        assert_eq!(site.env(&job, "VERSION").await, expected, "{policy:?}");
    };
    runs(&site, PullPolicy::IfNotPresent, "1").await;
    assert_eq!(site.would_fetch(&with(PullPolicy::Always, &till)).await, (vec![], Some(0)));
    site.retry(&job).await;
    site.succeeds(&job).await;
    site.known.push("shop/till:1", &version("2")).await;
    runs(&site, PullPolicy::IfNotPresent, "1").await;
    runs(&site, PullPolicy::Never, "1").await;
    runs(&site, PullPolicy::Always, "2").await;
    site.known.stop();
    runs(&site, PullPolicy::IfNotPresent, "2").await;
    runs(&site, PullPolicy::Never, "2").await;
    let job = site.deploy(with(PullPolicy::Always, &till)).await;
    site.fails(&job, FailureReason::RegistryUnreachable, &[site.known.address(), "refused"]).await;
    site.known.begin();
    site.retry(&job).await;
    site.succeeds(&job).await;
}

#[test]
fn each_refusal_has_its_reason_and_can_be_mended_on_the_agents_own_runtime() {
    on_a_site(None, each_refusal_has_its_reason_and_can_be_mended);
}

#[test]
fn each_refusal_has_its_reason_and_can_be_mended_on_docker() {
    on_a_site(Some(Kind::Docker), each_refusal_has_its_reason_and_can_be_mended);
}

async fn each_refusal_has_its_reason_and_can_be_mended(mut site: Site) {
    use FailureReason::{ImageAccessDenied, RegistryUnreachable};
    let known = site.known.address().to_owned();
    let other = site.other.address().to_owned();
    let authority = site.cluster.file("other.crt", site.other.authority());
    let image_of_known = site.image(|site| &site.known).await;

    // No credential, then one with a wrong password.
    let job = site.deploy(image_of_known).await;
    site.fails(&job, ImageAccessDenied, &[&known, "does not let everyone"]).await;
    site.make_credential("known", &site.known, "canary-wrong");
    site.retry(&job).await;
    site.fails(&job, ImageAccessDenied, &[&known, "credential known"]).await;
    succeed(&mut site.credential(&["update", "known"], Some(PASSWORD)));
    site.retry(&job).await;
    site.succeeds(&job).await;

    // An authority that nobody knows, then a credential that does not bring it either.
    let image_of_other = site.image(|site| &site.other).await;
    let job = site.deploy(image_of_other).await;
    site.fails(&job, RegistryUnreachable, &[&other, "certificate"]).await;
    site.make_credential("other", &site.other, PASSWORD);
    site.retry(&job).await;
    site.fails(&job, RegistryUnreachable, &[&other, "certificate"]).await;
    succeed(&mut site.credential(&["update", "other", "--ca", &authority], None));
    site.retry(&job).await;
    site.succeeds(&job).await;

    // A credential that was changed, and then deleted, since it was last good.
    let image_of_known = site.image(|site| &site.known).await;
    succeed(&mut site.credential(&["update", "known", "--username", "somebody"], None));
    let job = site.deploy(image_of_known).await;
    site.fails(&job, ImageAccessDenied, &[&known, "credential known"]).await;
    succeed(&mut site.credential(&["delete", "known"], None));
    site.retry(&job).await;
    site.fails(&job, ImageAccessDenied, &[&known, "does not let everyone"]).await;
    site.make_credential("known", &site.known, PASSWORD);
    site.retry(&job).await;
    site.succeeds(&job).await;

    // One that the spec names, deleted or turned to another registry while the node was away.
    let image_of_known = site.image(|site| &site.known).await;
    assert!(site.node.stop());
    let job = site.deploy(v1::Image { credential: "known".to_owned(), ..image_of_known }).await;
    succeed(&mut site.credential(&["delete", "known"], None));
    site.node.start();
    site.fails(&job, ImageAccessDenied, &["no registry credential", "known"]).await;
    site.make_credential("known", &site.other, PASSWORD);
    site.retry(&job).await;
    site.fails(&job, ImageAccessDenied, &["known", &other, &known]).await;
    succeed(&mut site.credential(&["update", "known", "--registry", &known], None));
    site.retry(&job).await;
    site.succeeds(&job).await;
}

#[test]
fn a_registry_that_wants_tokens_is_read_by_password_and_by_everybody() {
    on_a_switch(|switch, server| async move {
        let service = TokenService::start(server.address.into());
        let registry_host = switch.host();
        let registry = Registry::start_on(Some(&registry_host), Guard::Tokens(&service));
        registry.push("shop/till:1", &DemoImage::new().env("OF", "shop")).await;
        registry.push("public/till:1", &DemoImage::new().env("OF", "everybody")).await;
        let cluster = Cluster::start_on(Some(&server)).await;
        let authorities = [registry.authority(), service.server().authority()].concat();
        let authorities = cluster.file("authorities.crt", authorities);
        let node_host = switch.host();
        let _node = cluster.node_with("node", &[], Some(&node_host), &["--registry-ca", &authorities]).await;
        let client = cluster.client().await;
        let ends =
            async |job: &v1::Job| (client.rest(&job.job_id).await.state(), client.task(&job.job_id).await.failure);
        let deploy = async |name: &str| {
            let spec = v1::AppSpec { image: Some(image(registry.reference(name))), ..app("", &["sleep"]) };
            client.create(spec, &["node"]).await
        };

        let public = deploy("public/till:1").await;
        assert_eq!(ends(&public).await, (JobState::Succeeded, None));
        let private = deploy("shop/till:1").await;
        let (_, failure) = ends(&private).await;
        assert_eq!(failure.unwrap().reason(), FailureReason::ImageAccessDenied);
        let words = ["create", "shop", "--registry", registry.address(), "--username", USERNAME];
        let credential = |words: &[&str], password: &str| {
            let file = ["--password-file", &cluster.file("password", password)];
            succeed(&mut cluster.cli(&[&["registry"], words, &file].concat()));
        };
        credential(&words, "canary-wrong");
        client.retry(&private.job_id).await;
        let (_, failure) = ends(&private).await;
        let failure = failure.unwrap();
        assert_eq!(failure.reason(), FailureReason::ImageAccessDenied);
        assert!(failure.message.contains("credential shop"), "{failure:?}");
        credential(&["update", "shop"], PASSWORD);
        client.retry(&private.job_id).await;
        assert_eq!(ends(&private).await, (JobState::Succeeded, None));
    });
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_for_what_it_does_not_have() {
    on_a_switch(|switch, server| async move {
        let hosts = [switch.host(), switch.host()];
        let origin = Registry::start_on(Some(&hosts[0]), Guard::Passwords);
        let mut mirror = Registry::start_on(Some(&hosts[1]), Guard::None);
        for registry in [&origin, &mirror] {
            registry.push("shop/till:1", &DemoImage::new().env("OF", "both")).await;
        }
        origin.push("shop/till:2", &DemoImage::new().env("OF", "origin")).await;
        let cluster = Cluster::start_on(Some(&server)).await;
        let authorities = cluster.file("authorities.crt", [origin.authority(), mirror.authority()].concat());
        let instead = format!("{}={}", origin.address(), mirror.address());
        let node_host = switch.host();
        let arguments = ["--registry-ca", &authorities, "--registry-mirror", &instead];
        let _node = cluster.node_with("node", &[], Some(&node_host), &arguments).await;
        let client = cluster.client().await;
        let deploy = async |name: &str| {
            let always = with(PullPolicy::Always, &image(origin.reference(name)));
            let spec = v1::AppSpec { image: Some(always), ..app("", &["sleep"]) };
            let job = client.create(spec, &["node"]).await;
            let failure = |task: v1::Task| task.failure.map(|failure| failure.reason());
            (client.rest(&job.job_id).await.state(), failure(client.task(&job.job_id).await))
        };

        // Nobody has given a password: it can only come from the mirror.
        assert_eq!(deploy("shop/till:1").await, (JobState::Succeeded, None));
        let denied = (JobState::Failed, Some(FailureReason::ImageAccessDenied));
        assert_eq!(
            deploy("shop/till:2").await,
            denied,
            "the mirror does not have it, and the registry wants a password"
        );
        mirror.stop();
        assert_eq!(deploy("shop/till:1").await, denied, "without a mirror only the registry is left");
        let words = ["registry", "create", "shop", "--registry", origin.address(), "--username", USERNAME];
        succeed(&mut cluster.cli(&[&words[..], &["--password-file", &cluster.file("password", PASSWORD)]].concat()));
        for name in ["shop/till:1", "shop/till:2"] {
            assert_eq!(deploy(name).await, (JobState::Succeeded, None), "{name}");
        }
    });
}

#[test]
fn a_pull_of_which_nothing_comes_fails_within_the_nodes_patience() {
    on_a_switch(|switch, server| async move {
        let registry_host = switch.host();
        let registry = Registry::start_on(Some(&registry_host), Guard::None);
        registry.push("shop/till:1", &DemoImage::new()).await;
        let is_silent = Arc::new(AtomicBool::new(true));
        let silence = Arc::clone(&is_silent);
        // Enough for an image's configuration, and not for its layer, of which no later connection brings more.
        let front =
            Https::start(server.address.into(), Some((registry.address(), registry.authority())), move |asked| {
                let falls_silent = asked.target.contains("/blobs/") && silence.load(Ordering::Relaxed);
                let through = if asked.header("range").is_some() { 0 } else { 10_000 };
                let way = if falls_silent { Way::Stall(through) } else { Way::Free };
                async move { Reply::Forward(way) }
            });
        let cluster = Cluster::start_on(Some(&server)).await;
        let authority = cluster.file("front.crt", front.authority());
        let node_host = switch.host();
        let arguments = ["--registry-ca", &authority, "--pull-stall-timeout", "2s"];
        let _node = cluster.node_with("node", &[], Some(&node_host), &arguments).await;
        let client = cluster.client().await;
        let reference = format!("{}/shop/till:1", front.address());
        let spec = v1::AppSpec { image: Some(image(reference)), ..app("", &["sleep"]) };
        let job = client.create(spec, &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let failure = client.task(&job.job_id).await.failure.unwrap();
        assert_eq!((failure.reason(), failure.step()), (FailureReason::PullStalled, TaskState::Pulling), "{failure:?}");
        assert!(failure.message.contains(&front.address()) && failure.message.contains("2s"), "{failure:?}");
        is_silent.store(false, Ordering::Relaxed);
        client.retry(&job.job_id).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Succeeded);
    });
}

#[test]
fn a_node_gets_no_credential_but_for_what_it_shall_run() {
    on_a_site(None, |mut site| async move {
        site.make_credential("known", &site.known, PASSWORD);
        let stranger = site.cluster.enroll("stranger", &[], None, &[]).await;
        let agents = site.cluster.agents_address().to_owned();
        let fetch = async |node: &Node, app: &str| {
            let identity = node.directory().join("identity");
            let pair = identity.join("node.pem");
            let credentials = Credentials::load(&identity.join("root.crt"), &pair, &pair).unwrap();
            let channel = longshore_tls::connect(&agents, &credentials, KeepAlive::default()).await.unwrap();
            let request = v1::FetchRegistryCredentialRequest { app_name: app.to_owned(), ..Default::default() };
            AgentServiceClient::new(channel).fetch_registry_credential(request).await.map(tonic::Response::into_inner)
        };
        let of_known = site.image(|site| &site.known).await;
        let private = site.deploy(of_known).await;
        site.succeeds(&private).await;
        let archive = v1::image::Source::Archive(site.cluster.image());
        let public = site.deploy(v1::Image { source: Some(archive), ..Default::default() }).await;
        site.succeeds(&public).await;

        let answer = fetch(&site.node, &private.app_name).await.unwrap();
        assert_eq!((answer.name.as_str(), answer.password.as_str()), ("known", PASSWORD));
        assert_eq!(fetch(&site.node, &public.app_name).await.unwrap().password, "", "its image needs none");
        for app in [&private.app_name, &public.app_name] {
            let refused = fetch(&stranger, app).await.unwrap_err();
            assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
        }
        let remove = v1::RemoveAppRequest { app_name: private.app_name.clone(), ..Default::default() };
        site.client.apps.clone().remove_app(remove).await.unwrap();
        let refused = fetch(&site.node, &private.app_name).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "it shall run there no more: {refused:?}");

        // A person's certificate is no node's.
        let admin = site.cluster.admin();
        let admin = Credentials::load(&admin.join("root.crt"), &admin.join("client.crt"), &admin.join("client.key"));
        if let Ok(channel) = longshore_tls::connect(&agents, &admin.unwrap(), KeepAlive::default()).await {
            let request =
                v1::FetchRegistryCredentialRequest { app_name: public.app_name.clone(), ..Default::default() };
            assert!(AgentServiceClient::new(channel).fetch_registry_credential(request).await.is_err());
        }
        let listed = output(&mut site.cluster.cli(&["registry", "list", "-o", "json"]));
        assert!(!String::from_utf8_lossy(&listed.stdout).contains("canary"));
    });
}
