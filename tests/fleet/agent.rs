//! A light agent: the real connection and the real protocol, and no apps, no disk and no supervisor behind them.

use std::sync::Arc;

use longshore_model::backoff;
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_tls::{Credentials, KeepAlive};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use v1::open_session_request::Message as Request;
use v1::open_session_response::Message as Response;

use crate::board::Board;

/// What an agent reports of each task: the last step but two, the last but one, and the end.
const REPORTS: [v1::TaskState; 3] = [v1::TaskState::Starting, v1::TaskState::Settling, v1::TaskState::Succeeded];
/// Requests between an agent and its connection: two tasks' reports.
const QUEUE: usize = 6;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One enrolled node.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) credentials: Credentials,
    pub(crate) server: Arc<str>,
    pub(crate) board: Arc<Board>,
}

impl Agent {
    /// Keeps a session open whenever `dial` says that there is a server, until the task is aborted.
    pub(crate) async fn run(self, mut dial: watch::Receiver<bool>) {
        let mut failures = 0;
        while dial.wait_for(|dial| *dial).await.is_ok() {
            let mut session = Session { board: &self.board, requests: None, sequence: 0, is_connected: false };
            let ended = session.run(&self).await;
            if session.is_connected {
                failures = 0;
            } else if *dial.borrow() {
                if self.board.failed.get() == 0 {
                    eprintln!("the first attempt that failed: {ended:?}");
                }
                self.board.failed.add(1);
                failures += 1;
                tokio::time::sleep(backoff::RECONNECT.jittered(failures, rand::random())).await;
            }
        }
    }
}

/// One session; counted as connected from its full set until it is dropped.
struct Session<'a> {
    board: &'a Board,
    requests: Option<mpsc::Sender<v1::OpenSessionRequest>>,
    sequence: u64,
    is_connected: bool,
}

impl Session<'_> {
    async fn run(&mut self, agent: &Agent) -> Result<(), Failure> {
        let channel = longshore_tls::connect_patiently(&agent.server, &agent.credentials, KeepAlive::default()).await?;
        let (requests, outbound) = mpsc::channel(QUEUE);
        self.requests = Some(requests);
        self.send(Request::Hello(hello())).await?;
        let mut client = AgentServiceClient::new(channel);
        let mut inbound = client.open_session(ReceiverStream::new(outbound)).await?.into_inner();
        while let Some(response) = inbound.message().await? {
            match response.message.ok_or("an empty response")? {
                Response::Welcome(_) | Response::Logs(_) | Response::Channel(_) | Response::Check(_) => {}
                Response::Full(full) => {
                    self.is_connected = true;
                    self.board.connected.add(1);
                    self.act_on(full.assignments).await?;
                }
                Response::Update(update) => self.act_on(update.set).await?,
                Response::Ack(ack) => self.board.acknowledged.add(ack.sequences.len()),
                Response::Drain(_) => break,
            }
        }
        Ok(())
    }

    async fn act_on(&mut self, assignments: Vec<v1::Assignment>) -> Result<(), Failure> {
        for assignment in assignments {
            if assignment.order() != v1::Order::Deploy {
                continue;
            }
            self.board.assigned.add(1);
            for state in REPORTS {
                self.sequence += 1;
                let report = v1::TaskReport {
                    job_id: assignment.job_id.clone(),
                    attempt: assignment.attempt,
                    state: state.into(),
                    ..Default::default()
                };
                let subject = Some(v1::report::Subject::Task(report));
                self.send(Request::Report(v1::Report { sequence: self.sequence, subject })).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, message: Request) -> Result<(), Failure> {
        let requests = self.requests.as_ref().ok_or("there is no session")?;
        Ok(requests.send(v1::OpenSessionRequest { message: Some(message) }).await?)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.is_connected {
            self.board.connected.subtract(1);
        }
    }
}

fn hello() -> v1::Hello {
    let info = v1::NodeInfo {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        architecture: "amd64".to_owned(),
        kernel_release: "6.1.0".to_owned(),
        cpus: 4,
        memory_bytes: 4 << 30,
        interfaces: vec![v1::NetworkInterface {
            name: "eth0".to_owned(),
            ipv4: vec!["192.0.2.17".to_owned()],
            ipv6: vec!["2001:db8::17".to_owned()],
        }],
        capabilities: Vec::new(),
        runtime: "fake".to_owned(),
        host_ip: "192.0.2.17".to_owned(),
        ..Default::default()
    };
    v1::Hello { min_protocol: 1, max_protocol: 1, info: Some(info) }
}
