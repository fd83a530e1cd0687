//! Passwords for registries: used on real ones, and then looked for wherever they must not be.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use longshore_demo_image::DemoImage;
use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::http;
use longshore_tests::process::{command, output, succeed};
use longshore_tests::registry::{Guard, PASSWORD, Registry, USERNAME};
use longshore_tests::spec::app;
use longshore_tests::tokens::TokenService;
use longshore_tests::wait;
use v1::JobState;

/// A password that is refused.
const WRONG: &str = "canary-wrong-8Rk";

/// Looks for secrets, in every form in which they might stand somewhere.
struct Search(Vec<(String, Vec<u8>)>);

impl Search {
    fn new(tokens: &[String]) -> Self {
        let mut wanted = BTreeSet::new();
        for password in [PASSWORD, WRONG] {
            let pair = format!("{USERNAME}:{password}");
            wanted.extend([
                password.to_owned(),
                STANDARD.encode(password),
                STANDARD.encode(&pair),
                URL_SAFE_NO_PAD.encode(&pair),
            ]);
            // As JSON writes it.
            wanted.insert(password.replace('>', "\\u003e"));
        }
        // The signature of a token alone would do for nothing, but stands nowhere else either.
        wanted.extend(tokens.iter().map(|token| token.rsplit('.').next().unwrap().to_owned()));
        Self(wanted.into_iter().map(|text| (text.clone(), text.into_bytes())).collect())
    }

    fn bytes(&self, place: &str, bytes: &[u8]) {
        for (text, wanted) in &self.0 {
            assert!(!holds(bytes, wanted), "{text:?} stands in {place}");
        }
    }

    /// Every file below a directory; returns how many.
    fn directory(&self, directory: &Path) -> usize {
        let mut files = 0;
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                files += self.directory(&path);
            } else if kind.is_file() {
                self.bytes(&path.display().to_string(), &std::fs::read(&path).unwrap_or_default());
                files += 1;
            }
        }
        files
    }

    /// Command lines and environments of all processes that can be seen.
    fn processes(&self) -> usize {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let processes =
            processes.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
        processes
            .map(|entry| {
                for name in ["cmdline", "environ"] {
                    let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
                    self.bytes(&entry.path().join(name).display().to_string(), &bytes);
                }
            })
            .count()
    }
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn said(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    [output.stdout, output.stderr].concat()
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one use of passwords, and one search after all of it")]
async fn a_used_password_stands_nowhere_but_sealed() {
    let service = TokenService::start(std::net::Ipv4Addr::LOCALHOST.into());
    let registries = [Registry::start(true), Registry::start_on(None, Guard::Tokens(&service))];
    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--log", "trace", "--metrics-listen", "127.0.0.1:0"]).await;
    let arguments = ["--log", "trace", "--metrics-listen", "127.0.0.1:0"];
    let node = cluster.node_with("node", &[], None, &arguments).await;
    let client = cluster.client().await;
    let [right, wrong] = [("right", PASSWORD), ("wrong", WRONG)].map(|(name, password)| cluster.file(name, password));
    let mut shown = Vec::new();
    for (number, registry) in registries.iter().enumerate() {
        registry.push("shop/till:1", &DemoImage::new().env("OF", &number.to_string())).await;
        let authorities = [registry.authority(), service.server().authority()].concat();
        let authorities = cluster.file("authorities.crt", authorities);
        let name = format!("shop-{number}");
        let create = ["registry", "create", &name, "--registry", registry.address(), "--username", USERNAME];
        let create = [create.as_slice(), &["--ca", &authorities, "-o", "json", "--password-file", &wrong]].concat();
        shown.extend(said(&mut cluster.cli(&create)));
        // Refused, since there is one of the name.
        shown.extend(said(&mut cluster.cli(&create)));
        let image = v1::Image {
            source: Some(v1::image::Source::Reference(registry.reference("shop/till:1"))),
            ..Default::default()
        };
        let spec = v1::AppSpec { image: Some(image), ..app("", &["sleep"]) };
        let job = client.create(spec, &["node"]).await;
        assert_eq!(client.rest(&job.job_id).await.state(), JobState::Failed);
        let update = ["registry", "update", &name, "--password-file", &right];
        shown.extend(said(&mut cluster.cli(&[update.as_slice(), &["-o", "json"]].concat())));
        shown.extend(said(&mut cluster.cli(&update)));
        client.retry(&job.job_id).await;
        let state = client.rest(&job.job_id).await.state();
        assert_eq!(state, JobState::Succeeded, "{:?}", client.task(&job.job_id).await);
        for words in [
            &["registry", "show", &name][..],
            &["registry", "show", &name, "-o", "json"],
            &["registry", "list"],
            &["registry", "list", "-o", "json"],
            &["job", "show", &job.job_id],
            &["job", "show", &job.job_id, "-o", "json"],
            &["app", "show", &job.app_name, "--node", "node", "-o", "json"],
            &["node", "show", "node", "-o", "json"],
            &["doctor"],
        ] {
            shown.extend(said(&mut cluster.cli(words)));
        }
    }
    let search = Search::new(&service.given());
    assert!(!service.given().is_empty());
    assert!(holds(&shown, b"shop-1") && holds(&shown, USERNAME.as_bytes()), "what is shown is looked at");
    search.bytes("what the command line shows", &shown);

    let of_agent = wait::for_value("the agent's address of metrics", || async {
        Some(node.log().split("metrics=").nth(1)?.split_whitespace().next()?.to_owned())
    });
    for address in [of_agent.await, cluster.metrics_address()] {
        let metrics = http::get(address.parse().unwrap(), "/metrics").await.unwrap();
        assert!(metrics.body.contains("longshore"));
        search.bytes("metrics", metrics.body.as_bytes());
    }
    let backup = cluster.directory().join("backup");
    succeed(
        command("longshore-server", None)
            .args(["backup", "--with-authority", "--data-dir"])
            .arg(cluster.server_dir())
            .arg("--to")
            .arg(&backup),
    );
    search.bytes("the backup", &std::fs::read(&backup).unwrap());
    // Database, write-ahead log, keys.
    assert!(search.directory(&cluster.server_dir()) > 3);
    let database = std::fs::read_dir(cluster.server_dir()).unwrap().flatten();
    let known = database.filter(|entry| holds(&std::fs::read(entry.path()).unwrap_or_default(), b"shop-1"));
    assert!(known.count() > 0, "the credential is in the database, and found there");
    assert!(search.directory(node.directory()) > 3);
    assert!(!node.shims().is_empty() && search.processes() > 3);
    let (server_log, agent_log) = (cluster.server_log(), node.log());
    assert!(server_log.contains("TRACE") && agent_log.contains("TRACE"), "logs tell all that they can");
    assert!(agent_log.contains(registries[1].address()));
    search.bytes("the server's log", server_log.as_bytes());
    search.bytes("the agent's log", agent_log.as_bytes());

    let mut deleted = Vec::new();
    for words in [["registry", "delete", "shop-0"], ["registry", "delete", "shop-1"]] {
        deleted.extend(said(&mut cluster.cli(&words)));
    }
    search.bytes("what the command line shows", &deleted);
    search.directory(&cluster.server_dir());
}
