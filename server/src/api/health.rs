//! `grpc.health.v1`: SERVING while the store answers.

use std::time::Duration;

use longshore_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::session::AgentApi;
use crate::store::Store;

use super::apps::AppApi;
use super::jobs::JobApi;
use super::nodes::NodeApi;

/// Time between two looks at the store.
const PERIOD: Duration = Duration::from_secs(5);
/// Time for the store to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The services whose health is told; the empty name stands for the server as a whole.
const SERVICES: [&str; 5] = [
    "",
    v1::job_service_server::JobServiceServer::<JobApi>::NAME,
    v1::node_service_server::NodeServiceServer::<NodeApi>::NAME,
    v1::app_service_server::AppServiceServer::<AppApi>::NAME,
    v1::agent_service_server::AgentServiceServer::<AgentApi>::NAME,
];

/// Looks at the store again and again until `end`, and tells what changes.
pub async fn run(reporter: &HealthReporter, store: &dyn Store, end: &CancellationToken) {
    let mut serving = None;
    loop {
        let answers = matches!(tokio::time::timeout(TIMEOUT, store.ping()).await, Ok(Ok(())));
        if end.is_cancelled() {
            return;
        }
        if serving != Some(answers) {
            if !answers {
                tracing::error!("the store does not answer: not serving");
            }
            serving = Some(answers);
            report(reporter, if answers { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        }
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Ends every watch of the health, so that open ones do not hold a shutdown up.
pub async fn end_watches(mut reporter: HealthReporter) {
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
}

/// Says that nothing is served (any more).
pub async fn not_serving(reporter: &HealthReporter) {
    report(reporter, ServingStatus::NotServing).await;
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as OnWire;
    use tonic_health::pb::health_server::Health;
    use tonic_health::server::HealthService;

    use super::*;
    use crate::failing_store::FailingStore;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_not_serving_until_it_does() {
        let (store, reporter, end) = (FailingStore::default(), HealthReporter::new(), CancellationToken::new());
        let service = HealthService::from_health_reporter(reporter.clone());
        let seen = async {
            let mut seen = Vec::new();
            for fails in [true, false, true] {
                store.fail(fails);
                tokio::time::sleep(2 * PERIOD).await;
                let answer = service.check(Request::new(HealthCheckRequest::default())).await.unwrap();
                seen.push(answer.into_inner().status());
            }
            end.cancel();
            seen
        };
        let ((), seen) = tokio::join!(run(&reporter, &store, &end), seen);
        assert_eq!(seen, [OnWire::NotServing, OnWire::Serving, OnWire::NotServing]);
    }
}
