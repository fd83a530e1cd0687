//! Tables, ages and sizes: how values look to people.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
pub(crate) use longshore_doctor::span;
use longshore_proto::v1;

/// A table without lines, columns two blanks apart, the last one not padded.
pub(crate) fn table<const N: usize>(headers: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `Name: value` lines with the values below one another; pairs with an empty value are left out.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let shown = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    let lines = shown().map(|(name, value)| {
        let mut lines = value.lines();
        let mut text = format!("{:width$}  {}", format!("{name}:"), one_line(lines.next().unwrap_or_default()));
        for line in lines {
            text.push_str(&format!("\n{:width$}  {}", "", one_line(line)));
        }
        text
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The text with line feeds and other control characters made visible: it comes from nodes, and must not drive a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The moment that a message of the wire names, if it names one.
pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

/// How long ago something was: `12s`, `5m`, `3h`, `2d`; `-` where there is no moment.
pub(crate) fn age(moment: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match time(moment) {
        Some(moment) => span(now.duration_since(moment).as_secs()),
        None => "-".to_owned(),
    }
}

/// A moment without fractions of its second.
pub(crate) fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A moment to the second, and how long ago that was; empty where there is none.
pub(crate) fn moment(moment: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(time) = time(moment) else { return String::new() };
    let second = second(time);
    let seconds = now.duration_since(time).as_secs();
    if seconds < 0 { format!("{second} (in {})", span(-seconds)) } else { format!("{second} ({} ago)", span(seconds)) }
}

/// Bytes with a binary unit: `512 B`, `12.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scaled = count;
    let mut tenths = 0;
    while scaled >= 1024 && unit + 1 < UNITS.len() {
        tenths = (scaled % 1024) * 10 / 1024;
        scaled /= 1024;
        unit += 1;
    }
    let name = UNITS[unit];
    if unit == 0 { format!("{scaled} {name}") } else { format!("{scaled}.{tenths} {name}") }
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(number: u32, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// The text, or `-` where there is none.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Labels as `key=value,…` in order; `-` where there are none.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if labels.is_empty() { "-".to_owned() } else { labels.join(",") }
}

/// Where an image comes from.
pub(crate) fn image(spec: Option<&v1::AppSpec>) -> String {
    match spec.and_then(|spec| spec.image.as_ref()).and_then(|image| image.source.as_ref()) {
        Some(v1::image::Source::Reference(reference)) => reference.clone(),
        Some(v1::image::Source::Archive(path)) => format!("archive {path}"),
        None => "-".to_owned(),
    }
}

/// The addresses by which an app is reached on its node: `0.0.0.0:32768->8080/tcp`, or `host`. Ports in a row are one range, and
/// what several instances share is said once.
pub(crate) fn ports(app: &v1::App) -> String {
    let network = app.spec.as_ref().and_then(|spec| spec.network.as_ref()).and_then(|network| network.mode.as_ref());
    if matches!(network, Some(v1::network::Mode::Host(_))) {
        return "host".to_owned();
    }
    let mut rows: Vec<(&v1::BoundPort, u32)> = Vec::new();
    for port in app.status.iter().flat_map(|status| &status.ports) {
        // How far a port is behind the first of a row.
        let behind = |first: &v1::BoundPort| {
            let host = port.host_port.checked_sub(first.host_port)?;
            let is_in_step = port.container_port.checked_sub(first.container_port) == Some(host);
            let is_like = (&port.host_ip, port.protocol, port.shared) == (&first.host_ip, first.protocol, first.shared);
            (is_in_step && is_like).then_some(host)
        };
        if rows.iter().any(|(first, more)| port.shared && behind(first).is_some_and(|host| host <= *more)) {
            continue;
        }
        match rows.last_mut() {
            Some((first, more)) if first.instance == port.instance && behind(first) == Some(*more + 1) => *more += 1,
            _ => rows.push((port, 0)),
        }
    }
    let row = |(first, more): (&v1::BoundPort, u32)| {
        let protocol = if first.protocol() == v1::Protocol::Udp { "udp" } else { "tcp" };
        let range =
            |port: u32| if more == 0 { port.to_string() } else { format!("{port}-{}", port.saturating_add(more)) };
        format!("{}:{}->{}/{protocol}", first.host_ip, range(first.host_port), range(first.container_port))
    };
    let ports: Vec<String> = rows.into_iter().map(row).collect();
    if ports.is_empty() { "-".to_owned() } else { ports.join(" ") }
}

/// Words of an enum without the enum's name in front, as in JSON.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "UNKNOWN".to_owned(),
        word => word.to_owned(),
    }
}

/// A job's state, such as `PARTIALLY_SUCCEEDED`.
pub(crate) fn job_state(state: v1::JobState) -> String {
    word(state.as_str_name(), "JOB_STATE_")
}

/// A job's kind, such as `REMOVE`; an older server's jobs all deploy.
pub(crate) fn job_kind(kind: v1::JobKind) -> String {
    let kind = if kind == v1::JobKind::Unspecified { v1::JobKind::Deploy } else { kind };
    word(kind.as_str_name(), "JOB_KIND_")
}

/// A task's state, such as `PULLING`.
pub(crate) fn task_state(state: v1::TaskState) -> String {
    word(state.as_str_name(), "TASK_STATE_")
}

/// A failure's reason, such as `PORT_IN_USE`.
pub(crate) fn reason(reason: v1::FailureReason) -> String {
    word(reason.as_str_name(), "FAILURE_REASON_")
}

/// An app's state, such as `RUNNING`; `REMOVING` while it is being removed.
pub(crate) fn app_state(app: &v1::App) -> String {
    if app.removing {
        return "REMOVING".to_owned();
    }
    let state = app.status.as_ref().map_or(v1::AppState::Unspecified, v1::AppStatus::state);
    word(state.as_str_name(), "APP_STATE_")
}

/// Reason, step and sentence of a failure: `PORT_IN_USE while CHECKING: Port 8080 is taken.`
pub(crate) fn failure(failure: &v1::Failure) -> String {
    let step = task_state(failure.step());
    format!("{} while {step}: {}", reason(failure.reason()), one_line(&failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let rows = [["store-1".to_owned(), "yes".to_owned()], ["gateway-1".to_owned(), "no\u{1b}[2J".to_owned()]];
        assert_eq!(table(["NAME", "CONNECTED"], rows), "NAME       CONNECTED\nstore-1    yes\ngateway-1  no [2J");
        assert_eq!(table(["NAME"], []), "NAME");
    }

    #[test]
    fn pairs_line_up_and_leave_out_what_is_empty() {
        let text =
            pairs(&[("Job", "01jd".to_owned()), ("Started", String::new()), ("Warnings", "a\u{1b}[2J\nb".to_owned())]);
        assert_eq!(text, "Job:       01jd\nWarnings:  a [2J\n           b");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (8 << 30, "8.0 GiB"), (u64::MAX, "16777215.9 TiB")];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(-3, "0s"), (59, "59s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn moments_are_before_or_after_now() {
        let now = Timestamp::from_second(1_700_000_000).unwrap_or_default();
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 5 };
        assert_eq!(moment(Some(&at(1_699_999_990)), now), "2023-11-14T22:13:10Z (9s ago)");
        assert_eq!(moment(Some(&at(1_700_000_300)), now), "2023-11-14T22:18:20Z (in 5m)");
        assert_eq!(moment(None, now), "");
        assert_eq!(age(None, now), "-");
    }
}
