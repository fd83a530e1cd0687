//! `longshore audit verify`

use longshore_model::audit::{AuditEntry, Head};
use longshore_proto::convert::FromWire;
use longshore_proto::v1::{ListAuditEntriesRequest, ListAuditEntriesResponse};

use crate::client::{PAGE, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::json;

/// Follow the whole audit log from hash to hash, and say whether it is what was written.
///
/// The server is not believed: this program works out every hash itself. Whoever can write the server's database could still
/// have written a whole log anew; against that, keep what is printed somewhere else, and give it with --known the next time.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// End of the log that was printed by an earlier run, which the log must still contain.
    #[arg(long, value_name = "NUMBER:HASH")]
    known: Option<Head>,
}

pub(super) async fn run(Verify { known }: Verify, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut request = ListAuditEntriesRequest { page_size: PAGE, order_by: "number".to_owned(), ..Default::default() };
    let mut walk = None;
    let newest = loop {
        let page = context.client.audit.list_audit_entries(call(request.clone())).await?.into_inner();
        let walk = match &mut walk {
            Some(walk) => walk,
            empty => empty.insert(Walk::from(head(page.base.clone())?, known)),
        };
        for entry in page.entries {
            walk.follow(&AuditEntry::read(entry).map_err(unreadable)?)?;
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            let newest = head(page.head)?;
            walk.end(newest)?;
            break newest;
        }
    };
    let count = walk.map_or(0, |walk| walk.count);
    let answer = ListAuditEntriesResponse { head: Some(newest.into()), ..Default::default() };
    context.output.show(|| json::of("ListAuditEntriesResponse", &answer), || summary(count, newest, known))?;
    Ok(Exit::Ok)
}

fn head(wire: Option<longshore_proto::v1::AuditHead>) -> Result<Head, Error> {
    Head::read(wire.unwrap_or_default()).map_err(unreadable)
}

fn unreadable(bad: longshore_model::validate::Violations) -> Error {
    Error::new(format!("the server's audit log cannot be read: {bad}"))
}

fn summary(count: u64, newest: Head, known: Option<Head>) -> String {
    let found = known.map(|known| format!(" Entry {} is the one that was known.", known.number)).unwrap_or_default();
    format!(
        "The audit log is what was written: {count} entries, each bound to the one before it.{found}\n\
         Its end is now {newest}\n\
         Keep that where the server cannot write; --known checks against it."
    )
}

/// A walk from the oldest entry to the newest.
struct Walk {
    at: Head,
    known: Option<Head>,
    count: u64,
    is_known_found: bool,
}

impl Walk {
    fn from(base: Head, known: Option<Head>) -> Self {
        let mut walk = Self { at: base, known, count: 0, is_known_found: false };
        walk.look();
        walk
    }

    fn look(&mut self) {
        self.is_known_found |= self.known == Some(self.at);
    }

    fn follow(&mut self, entry: &AuditEntry) -> Result<(), Error> {
        self.at.follow(entry).map_err(|broken| Error::new(format!("the audit log was touched: {broken}")))?;
        self.count += 1;
        self.look();
        Ok(())
    }

    fn end(&self, newest: Head) -> Result<(), Error> {
        if self.at != newest {
            let message = format!("the audit log was touched: it ends with entry {} and not with {newest}", self.at);
            return Err(Error::new(message));
        }
        match self.known {
            Some(known) if !self.is_known_found => Err(Error::new(format!(
                "the entry {known} that was known is not in the audit log: entries were forgotten since, or the log is another \
                 one, such as that of a backup that was brought back"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use longshore_model::audit::Deed;

    use super::*;

    fn entries(count: u64) -> Vec<AuditEntry> {
        let mut head = Head::default();
        (0..count)
            .map(|number| {
                let text = |text: &str| text.to_owned();
                let entry = head.seal(Deed {
                    time: jiff::Timestamp::UNIX_EPOCH,
                    caller: text("admin ada"),
                    key_fingerprint: text(""),
                    address: text(""),
                    method: text("longshore.v1.JobService/StopJob"),
                    target: format!("jobs/{number}"),
                    validate_only: false,
                    code: text("OK"),
                    reason: text(""),
                    request_id: text(""),
                });
                head.follow(&entry).unwrap();
                entry
            })
            .collect()
    }

    fn end_of(entry: &AuditEntry) -> Head {
        Head { number: entry.number, hash: entry.hash }
    }

    fn walk(entries: &[AuditEntry], newest: Head, known: Option<Head>) -> Result<u64, String> {
        let mut walk = Walk::from(Head::default(), known);
        let walked = entries.iter().try_for_each(|entry| walk.follow(entry)).and_then(|()| walk.end(newest));
        walked.map(|()| walk.count).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_log_is_walked() {
        let log = entries(3);
        let newest = end_of(&log[2]);
        assert_eq!(walk(&log, newest, None), Ok(3));
        assert_eq!(walk(&[], Head::default(), None), Ok(0));
        for entry in &log {
            assert_eq!(walk(&log, newest, Some(end_of(entry))), Ok(3));
        }
        assert_eq!(walk(&log, newest, Some(Head::default())), Ok(3), "the beginning");
    }

    #[test]
    fn what_was_touched_is_told() {
        let log = entries(3);
        let newest = end_of(&log[2]);
        let gap = walk(&[log[0].clone(), log[2].clone()], newest, None).unwrap_err();
        assert_eq!(gap, "the audit log was touched: entry 2 is missing: entry 3 follows entry 1");
        let cut = walk(&log[..2], newest, None).unwrap_err();
        assert!(cut.starts_with("the audit log was touched: it ends with entry 2:"), "{cut}");
        // Somebody cut it, and set the end back.
        let cut = walk(&log[..2], end_of(&log[1]), Some(newest)).unwrap_err();
        assert!(cut.contains("that was known is not in the audit log"), "{cut}");
    }
}
