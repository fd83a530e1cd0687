//! Makes nodes as machines become nodes: a token each, a key each, and the server's own enrolment.

use std::sync::Arc;

use longshore_proto::v1;
use longshore_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use longshore_tests::client::Client;
use longshore_tests::cluster::Cluster;
use longshore_tls::{Credentials, EnrollmentToken, connect_pinned, make_key_and_csr};
use tokio::task::JoinSet;

/// Nodes that enrol at once, each over a connection of its worker: enrolment is not what is measured.
const WORKERS: usize = 64;
/// Label of every node, by which jobs are sent to all.
pub(crate) const LABEL: (&str, &str) = ("fleet", "load");

/// Enrols `count` nodes over the real RPCs and returns their credentials.
pub(crate) async fn enroll(cluster: &Cluster, count: usize) -> Vec<Credentials> {
    let admin = cluster.client().await;
    let server: Arc<str> = cluster.agents_address().into();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS.min(count) {
        workers.spawn(work(admin.clone(), Arc::clone(&server), (worker..count).step_by(WORKERS)));
    }
    workers.join_all().await.into_iter().flatten().collect()
}

async fn work(mut admin: Client, server: Arc<str>, numbers: impl Iterator<Item = usize>) -> Vec<Credentials> {
    let mut enrolled = Vec::new();
    let mut client = None;
    for number in numbers {
        let labels = [(LABEL.0.to_owned(), LABEL.1.to_owned())].into_iter().collect();
        let request = v1::CreateEnrollmentTokenRequest { labels, ..Default::default() };
        let token = admin.nodes.create_enrollment_token(request).await.unwrap().into_inner().token;
        let client = match &mut client {
            Some(client) => client,
            None => {
                let pin = token.parse::<EnrollmentToken>().unwrap().pin();
                client.insert(EnrollmentServiceClient::new(connect_pinned(&server, pin).await.unwrap()))
            }
        };
        let made = make_key_and_csr().unwrap();
        let request = v1::EnrollRequest { token, node_name: format!("edge-{number:05}"), csr_der: made.csr_der };
        let answer = client.enroll(request).await.unwrap().into_inner();
        let (root, chain) = (answer.root_certificate_pem, answer.certificate_chain_pem);
        enrolled.push(Credentials::from_pem(root.as_bytes(), chain.as_bytes(), made.key_pem.as_bytes()).unwrap());
    }
    enrolled
}
