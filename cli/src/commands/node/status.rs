//! How a node is now, for people.

use jiff::{SignedDuration, Timestamp};
use longshore_proto::v1::{Node, NodeFigures, NodeStatus};

use crate::text;

/// What is told where the server has heard nothing.
const UNKNOWN: &str = "unknown";

/// Whether it is connected, and since when.
pub(super) fn connected(node: &Node, now: Timestamp) -> String {
    let since = node.status.as_ref().and_then(|status| status.connect_time.as_ref());
    match (node.connected, since) {
        (true, Some(since)) => format!("yes, since {}", text::moment(Some(since), now)),
        (true, None) => "yes".to_owned(),
        (false, _) => "no".to_owned(),
    }
}

/// When it said how it is.
pub(super) fn measured(node: &Node, now: Timestamp) -> String {
    let Some(status) = &node.status else { return String::new() };
    match &status.sample_time {
        Some(time) => text::moment(Some(time), now),
        None => "not since the server started, or the node measures nothing".to_owned(),
    }
}

/// How its clock and the server's differ.
pub(super) fn clock(node: &Node) -> String {
    let Some(status) = &node.status else { return String::new() };
    let Some(skew) = &status.clock_skew else { return UNKNOWN.to_owned() };
    let skew = SignedDuration::new(skew.seconds, skew.nanos);
    let tenths = skew.abs().as_millis() / 100;
    if tenths == 0 {
        return "as the server's".to_owned();
    }
    let way = if skew.is_negative() { "behind" } else { "ahead of" };
    format!("{}.{} s {way} the server's", tenths / 10, tenths % 10)
}

/// How full its disk is.
pub(super) fn disk(node: &Node) -> String {
    told(node, |figures| {
        let (free, total) = (figures.disk_free_bytes, figures.disk_total_bytes);
        format!("{} of {} free", text::bytes(free), text::bytes(total))
    })
}

/// How much memory it has, and how much of it is left.
pub(super) fn memory(node: &Node) -> String {
    let total = node.info.as_ref().map_or(0, |info| info.memory_bytes);
    let total = if total > 0 { text::bytes(total) } else { String::new() };
    match figures(node.status.as_ref()) {
        Some(figures) => {
            let (available, all) = (figures.memory_available_bytes, figures.memory_total_bytes);
            format!("{} of {} available", text::bytes(available), text::bytes(all))
        }
        None => total,
    }
}

/// Its load average of the last minute.
pub(super) fn load(node: &Node) -> String {
    told(node, |figures| format!("{}.{:02}", figures.load_millis / 1000, figures.load_millis % 1000 / 10))
}

fn figures(status: Option<&NodeStatus>) -> Option<&NodeFigures> {
    status?.figures.as_ref()
}

/// Nothing where an older server says nothing of it.
fn told(node: &Node, say: impl FnOnce(&NodeFigures) -> String) -> String {
    let Some(status) = &node.status else { return String::new() };
    figures(Some(status)).map_or_else(|| UNKNOWN.to_owned(), say)
}
