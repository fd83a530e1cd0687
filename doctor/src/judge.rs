//! Judgements that every doctor makes.

use jiff::{SignedDuration, Timestamp};

use crate::Finding;

/// Clocks may differ by so much: enough for a slow answer, too little to matter for a certificate.
const MAX_SKEW: SignedDuration = SignedDuration::from_secs(5);
/// A server tells its time in whole seconds.
const TICK: SignedDuration = SignedDuration::from_secs(1);

/// A number of seconds in its largest unit: `90s`, `5m`, `3h`, `2d`; none is negative.
#[must_use]
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The permissions of a private key's file.
#[must_use]
pub fn key_mode(path: &str, mode: u32) -> Finding {
    let check = "private key";
    let open = mode & 0o077;
    if open == 0 {
        return Finding::fine(check, format!("{path}, mode {:04o}", mode & 0o7777));
    }
    let found = format!("{path} has mode {:04o}: others on this machine can use it", mode & 0o7777);
    Finding::degraded(check, found, format!("Run `chmod 600 {path}`."))
}

/// The server's time, which it told between two moments of ours.
#[must_use]
pub fn clock(server: Option<Timestamp>, asked: Timestamp, answered: Timestamp) -> Finding {
    let check = "clocks";
    let Some(server) = server else {
        let hint = "Something between this machine and the server takes the header `date` away.";
        return Finding::degraded(check, "the server does not tell its time", hint);
    };
    let ahead = server.duration_since(answered);
    let behind = asked.duration_since(server.saturating_add(TICK).unwrap_or(server));
    let hint = "Let both machines take their time from NTP: certificates and deadlines go by it.";
    if ahead > MAX_SKEW {
        Finding::degraded(check, format!("the server's is {} ahead of this machine's", span(ahead.as_secs())), hint)
    } else if behind > MAX_SKEW {
        Finding::degraded(check, format!("the server's is {} behind this machine's", span(behind.as_secs())), hint)
    } else {
        Finding::fine(check, "agree")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap_or_default()
    }

    #[test]
    fn a_key_is_for_its_owner_only() {
        assert_eq!(key_mode("client.key", 0o100_600).verdict, Verdict::Fine);
        assert_eq!(key_mode("client.key", 0o100_400).verdict, Verdict::Fine);
        for open in [0o640, 0o604, 0o644, 0o610] {
            let finding = key_mode("client.key", 0o100_000 | open);
            assert_eq!((finding.verdict, finding.hint.as_str()), (Verdict::Degraded, "Run `chmod 600 client.key`."));
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let second = SignedDuration::from_secs(1);
        // Asked at 0, answered at 2.
        let judged = |server: i32| clock(Some(now() + second * server), now(), now() + second * 2);
        for server in -6..=7 {
            assert_eq!(judged(server).verdict, Verdict::Fine, "{server}");
        }
        assert_eq!(judged(-7).found, "the server's is 6s behind this machine's");
        assert_eq!(judged(8).found, "the server's is 6s ahead of this machine's");
        assert_eq!(clock(None, now(), now()).verdict, Verdict::Degraded);
    }

    #[test]
    fn spans_are_told_in_one_unit() {
        let table = [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")];
        for (seconds, text) in table {
            assert_eq!(span(seconds), text);
        }
    }
}
