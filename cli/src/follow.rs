//! Following a job to its end, whatever happens to the connection meanwhile.

use std::time::Duration;

use longshore_model::backoff::Backoff;
use longshore_proto::v1::WatchJobRequest;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status};

use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::View;

/// Pauses between attempts to reach a server that went away: short at first, since one that restarts is back within a
/// second, and bounded, since people watch.
const PAUSE: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(3) };
/// Without a word from the server for so long the command gives up: the job goes on without it.
const MAX_SILENCE: Duration = Duration::from_secs(120);
/// How often the progress is drawn anew for the sake of its clock.
const REDRAW: Duration = Duration::from_secs(1);

/// How following a job ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// It came to rest: final, or STOPPED.
    AtRest(Box<View>),
    /// Somebody pressed Ctrl-C: the job goes on.
    Detached,
}

/// Follows a job and shows how it goes on, until it is at rest or somebody presses Ctrl-C.
///
/// A broken watch is taken up where it broke off, with pauses that grow. A server that does not know that place any more,
/// because its database was put back to an older state, tells everything anew.
pub(crate) async fn follow(client: &mut Client, job_id: &str, output: &mut Output) -> Result<Followed, Error> {
    let mut view = View::default();
    let result = tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map(|()| false).map_err(|error| Error::io("cannot wait for Ctrl-C", error))
        }
        watched = watch_until_rest(client, job_id, &mut view, output) => watched.map(|()| true),
    };
    output.end_progress();
    Ok(if result? { Followed::AtRest(Box::new(view)) } else { Followed::Detached })
}

async fn watch_until_rest(
    client: &mut Client,
    job_id: &str,
    view: &mut View,
    output: &mut Output,
) -> Result<(), Error> {
    let mut heard = Instant::now();
    let mut failures = 0;
    loop {
        let mut has_spoken = false;
        let ended = watch(client, job_id, view, output, &mut has_spoken).await;
        if has_spoken {
            heard = Instant::now();
            failures = 0;
        }
        let status = match ended {
            Ok(()) if view.is_at_rest() => return Ok(()),
            Ok(()) => Status::unavailable("the server ended the watch"),
            Err(status) if status.code() == Code::OutOfRange && !view.cursor.is_empty() => {
                *view = View::default();
                continue;
            }
            Err(status) if is_lasting(status.code()) => return Err(status.into()),
            Err(status) => status,
        };
        if heard.elapsed() > MAX_SILENCE {
            return Err(given_up(&Error::from(status)));
        }
        if failures == 0 {
            output.note("The connection to the server is lost; the job goes on, and so does the wait for it.");
        }
        failures += 1;
        tokio::time::sleep(PAUSE.jittered(failures, rand::random())).await;
    }
}

fn given_up(error: &Error) -> Error {
    let minutes = MAX_SILENCE.as_secs() / 60;
    let message = format!("nothing heard of the server for {minutes} minutes: {}", error.text());
    Error::Plain { message, exit: Exit::Unreachable }
}

/// One watch, to its end or the connection's.
async fn watch(
    client: &mut Client,
    job_id: &str,
    view: &mut View,
    output: &mut Output,
    has_spoken: &mut bool,
) -> Result<(), Status> {
    let request = WatchJobRequest { job_id: job_id.to_owned(), cursor: view.cursor.clone() };
    let mut messages = client.jobs.watch_job(request).await?.into_inner();
    let mut clock = tokio::time::interval(REDRAW);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.message() => match message? {
                Some(message) => {
                    *has_spoken = true;
                    output.progress(view, message);
                }
                None => return Ok(()),
            },
            _ = clock.tick() => output.redraw(view),
        }
    }
}

/// Whether asking again would bring the same answer.
fn is_lasting(code: Code) -> bool {
    matches!(
        code,
        Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::DataLoss
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot start its server shall fail")]
mod tests;
