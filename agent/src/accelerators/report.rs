//! Tells the server how many accelerators are free, whenever that changes while a session is live.

use std::convert::Infallible;
use std::time::Duration;

use longshore_model::accelerator::Stock;
use longshore_model::backoff::Backoff;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_proto::v1::{AcceleratorStock, ReportAcceleratorsRequest};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Time for one attempt.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Between attempts that fail while the session is live.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// Tells the server of each change, the newest only. What it was told with the hello may be older than the session: so
/// whatever there is, unless it is nothing, is told once more with each new one. Dropping the future ends it.
pub async fn run(mut stock: watch::Receiver<Vec<Stock>>, mut live: watch::Receiver<Option<Channel>>) -> Infallible {
    let (mut told, mut failures) = (Some(Vec::new()), 0_u32);
    loop {
        let channel = live.borrow_and_update().clone();
        let newest = stock.borrow_and_update().clone();
        if let Some(channel) = channel.filter(|_| told.as_ref() != Some(&newest)) {
            match tell(channel, &newest).await {
                Ok(()) => (told, failures) = (Some(newest), 0),
                Err(status) => {
                    // It may have taken it all the same.
                    told = None;
                    failures = failures.saturating_add(1);
                    tracing::debug!(%status, "the server does not take word of the accelerators");
                    if status.code() == Code::Unimplemented {
                        // An older server: the next session may be with another one.
                        (told, failures) = (Some(newest), 0);
                    }
                }
            }
        }
        let again = async {
            match failures {
                0 => std::future::pending().await,
                failures => tokio::time::sleep(RETRY.delay(failures)).await,
            }
        };
        tokio::select! {
            changed = stock.changed() => if changed.is_err() { std::future::pending().await },
            changed = live.changed() => match changed {
                Ok(()) => (told, failures) = (Some(Vec::new()), 0),
                Err(_) => std::future::pending().await,
            },
            () = again => {}
        }
    }
}

async fn tell(channel: Channel, stocks: &[Stock]) -> Result<(), Status> {
    let mut request = tonic::Request::new(ReportAcceleratorsRequest {
        accelerators: stocks.iter().map(AcceleratorStock::from).collect(),
    });
    request.set_timeout(CALL_TIMEOUT);
    AgentServiceClient::new(channel).report_accelerators(request).await.map(drop)
}
