//! Output of containers, copied from the engine into the node's own files while they run.
//!
//! So it outlives the container and the app, goes on over restarts, and is read in one way whatever runs the containers.
//! The engine's own copy is what a restarted agent goes on from.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures::StreamExt;
use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::RECONNECT;
use super::engine::{Engine, is_absent, patiently};
use crate::durable;
use crate::runtime::layout::FILE_MODE;
use crate::runtime::logs::{self, LogWriter, Rotation};
use crate::runtime::{LogLine, RuntimeError, Selection, failure};

/// In an instance's directory: the container whose output was copied last.
const SOURCE: &str = "source";
/// Bytes that are gathered before they are written.
const BATCH: usize = 64 * 1024;
/// How long the engine may take to tell the rest of a container's output after its end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines looked through for the place where a copy broke off; more have hardly the same time, even where an engine tells
/// whole seconds.
const MAX_SAME_TIME: u32 = 20_000;

/// The copies that are under way, by container.
#[derive(Default)]
pub(super) struct Copies {
    running: Mutex<HashMap<String, JoinHandle<()>>>,
}

/// A container's output and where it is copied to.
#[derive(Clone)]
pub(super) struct Copy {
    pub(super) engine: Arc<Engine>,
    pub(super) container: String,
    pub(super) run: u32,
    pub(super) directory: PathBuf,
    pub(super) rotation: Rotation,
}

impl Copies {
    /// Copies from now on, if that is not so already.
    pub(super) fn begin(&self, copy: Copy) {
        let mut running = self.running();
        running.retain(|_, task| !task.is_finished());
        running.entry(copy.container.clone()).or_insert_with(|| tokio::spawn(copy.follow()));
    }

    /// Waits until all output of a container that has ended is copied, for a while at most.
    pub(super) async fn finish(&self, copy: Copy) -> Result<(), RuntimeError> {
        if let Some(mut task) = self.take(&copy.container)
            && tokio::time::timeout(END_TIMEOUT, &mut task).await.is_err()
        {
            task.abort();
            // Cancelled is what it is expected to be.
            let _ = task.await;
        }
        // Whatever it has missed.
        tokio::time::timeout(END_TIMEOUT, copy.once(false))
            .await
            .unwrap_or_else(|_| Err(failure::other("the container engine does not tell the container's output")))
    }

    fn take(&self, container: &str) -> Option<JoinHandle<()>> {
        self.running().remove(container)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, JoinHandle<()>>> {
        // Insertions and removals are whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.running().values().for_each(JoinHandle::abort);
    }
}

/// Where in a container's output a copy goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Time of the last line that was copied.
    time: Option<Timestamp>,
    /// Lines of that time that were copied.
    count: u32,
}

impl Place {
    /// Takes note of a line that was copied.
    fn pass(&mut self, time: Timestamp) {
        self.count = if self.time == Some(time) { self.count + 1 } else { 1 };
        self.time = Some(time);
    }

    /// Whether a line is new; `seen` counts those of the place's own time.
    fn is_new(&self, time: Timestamp, seen: &mut u32) -> bool {
        match self.time {
            Some(last) if time < last => false,
            Some(last) if time == last => {
                *seen += 1;
                *seen > self.count
            }
            _ => true,
        }
    }
}

impl Copy {
    async fn follow(self) {
        let mut failures: u32 = 0;
        loop {
            match self.once(true).await {
                Ok(()) if self.has_ended().await => return,
                Ok(()) => failures = failures.saturating_add(1),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(container = self.container, %error, "copying output broke off");
                }
            }
            tokio::time::sleep(RECONNECT.delay(failures)).await;
        }
    }

    /// Whether there is nothing more to come.
    async fn has_ended(&self) -> bool {
        let Ok(docker) = self.engine.client().await else { return false };
        match patiently(|| docker.inspect_container(&self.container, None)).await {
            Ok(container) => container.state.and_then(|state| state.running) != Some(true),
            Err(error) => is_absent(&error),
        }
    }

    /// Copies what is not copied yet; with `follow` until the container has ended.
    async fn once(&self, follow: bool) -> Result<(), RuntimeError> {
        let place = self.place().await?;
        let docker = self.engine.client().await?;
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).follow(follow).build();
        // What has gathered meanwhile is written at once: a batch is a bound and no delay.
        let mut frames = Box::pin(docker.logs(&self.container, Some(options))).ready_chunks(64);
        let mut sink = Sink::open(&self.directory, self.rotation).await?;
        let (mut joiner, mut seen, mut records) = (Joiner::default(), 0, Vec::new());
        while let Some(chunk) = frames.next().await {
            for frame in chunk {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) if is_absent(&error) => return Ok(()),
                    Err(error) => return Err(self.engine.failed("reading output", &error)),
                };
                if let Some(line) = joiner.push(&frame).filter(|line| place.is_new(line.time, &mut seen)) {
                    logs::record(&line, self.run, &mut records);
                }
                if records.len() >= BATCH {
                    sink = sink.write(std::mem::take(&mut records)).await?;
                }
            }
            sink = sink.write(std::mem::take(&mut records)).await?;
        }
        for line in joiner.rest().filter(|line| place.is_new(line.time, &mut seen)) {
            logs::record(&line, self.run, &mut records);
        }
        sink.write(records).await.map(drop)
    }

    /// Where to go on; from now on the directory's newest output is this container's.
    async fn place(&self) -> Result<Place, RuntimeError> {
        let (directory, container) = (self.directory.clone(), self.container.clone());
        let known = blocking(move || {
            fs::create_dir_all(&directory)?;
            let source = directory.join(SOURCE);
            let known = fs::read_to_string(&source).is_ok_and(|known| known == container);
            if !known {
                durable::replace(&source, container.as_bytes(), FILE_MODE)?;
            }
            Ok(known)
        });
        let mut place = Place::default();
        if known.await? {
            let directory = self.directory.clone();
            let wanted = Selection { tail: Some(MAX_SAME_TIME), ..Selection::default() };
            let copied = blocking(move || logs::stream(directory, &wanted, None)).await?;
            let Some(mut copied) = copied else { return Ok(place) };
            while let Some(line) = copied.next().await {
                place.pass(line.time);
            }
        }
        Ok(place)
    }
}

/// A file that is written on threads for such work.
struct Sink(LogWriter);

impl Sink {
    async fn open(directory: &Path, rotation: Rotation) -> Result<Self, RuntimeError> {
        let directory = directory.to_owned();
        Ok(Self(blocking(move || LogWriter::open(&directory, rotation)).await?))
    }

    async fn write(self, records: Vec<u8>) -> Result<Self, RuntimeError> {
        let Self(mut writer) = self;
        if records.is_empty() {
            return Ok(Self(writer));
        }
        Ok(Self(blocking(move || writer.append(&records).map(|()| writer)).await?))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failure::io("copying output", error)),
        Err(_) => Err(failure::other("copying output was given up")),
    }
}

/// Puts lines together from what the engine tells, which is a line or a part of one at a time: one that has no line feed
/// goes on with the next of its stream.
#[derive(Default)]
struct Joiner {
    stdout: Option<LogLine>,
    stderr: Option<LogLine>,
}

impl Joiner {
    /// Takes the next frame; returns the line that it ends.
    fn push(&mut self, frame: &LogOutput) -> Option<LogLine> {
        let (is_stderr, message) = match frame {
            LogOutput::StdErr { message } => (true, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (false, message)
            }
        };
        let space = message.iter().position(|byte| matches!(*byte, b' ' | b'\n')).unwrap_or(message.len());
        let time = std::str::from_utf8(&message[..space]).ok()?.parse().ok()?;
        let text = message.get(space + 1..).unwrap_or_default();
        let (text, is_whole) = match text.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (text, message.get(space) == Some(&b'\n')),
        };
        let begun = if is_stderr { &mut self.stderr } else { &mut self.stdout };
        let line = match begun.take() {
            Some(line) => LogLine { text: [&line.text, text].concat().into(), ..line },
            None => LogLine { time, stderr: is_stderr, text: text.to_vec().into() },
        };
        if is_whole || line.text.len() >= logs::MAX_LINE {
            return Some(line);
        }
        *begun = Some(line);
        None
    }

    /// Lines that nothing has ended.
    fn rest(self) -> impl Iterator<Item = LogLine> {
        self.stdout.into_iter().chain(self.stderr)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_to_lines() {
        let out = |text: &str| LogOutput::StdOut { message: text.to_owned().into() };
        let err = |text: &str| LogOutput::StdErr { message: text.to_owned().into() };
        let frames = [
            out("2026-11-25T07:06:25.339921837Z one two\n"),
            out("2026-11-25T07:06:48Z three"),
            err("2026-11-25T07:06:48Z \n"),
            out("2026-11-25T07:06:49Z \n"),
            out("no time\n"),
            out("2026-11-25T07:06:50Z four "),
            out("2026-11-25T07:06:51Z five"),
        ];
        let mut joiner = Joiner::default();
        let mut lines: Vec<LogLine> = frames.iter().filter_map(|frame| joiner.push(frame)).collect();
        lines.extend(joiner.rest());
        let lines: Vec<_> = lines.iter().map(|line| (std::str::from_utf8(&line.text).unwrap(), line.stderr)).collect();
        assert_eq!(lines, [("one two", false), ("", true), ("three", false), ("four five", false)]);
    }

    #[test]
    fn a_copy_goes_on_where_it_broke_off() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let all = [1, 2, 2, 2, 3, 3].map(at);
        for done in 0..=all.len() {
            let mut place = Place::default();
            all[..done].iter().for_each(|time| place.pass(*time));
            let mut seen = 0;
            let rest = all.iter().filter(|time| place.is_new(**time, &mut seen)).count();
            assert_eq!(rest, all.len() - done, "{done}");
        }
    }
}
