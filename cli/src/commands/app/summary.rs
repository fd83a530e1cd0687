//! What is wrong with an app, and since when, in one sentence.

use jiff::Timestamp;
use longshore_proto::v1::{App, AppState, AppStatus, InstanceState, InstanceStatus, Node};

use super::show::last_exit;
use crate::text;

/// One sentence about an app on its node: what is wrong there and since when, or that nothing is.
pub(super) fn sentence(app: &App, node: &Node, now: Timestamp) -> String {
    let said = said(app, now);
    if node.connected {
        return said;
    }
    let seen = node.last_seen_time.as_ref().map(|time| format!(", last seen {} ago", text::age(Some(time), now)));
    format!("Its node is not connected{}. What it said before: {said}", seen.unwrap_or_default())
}

fn said(app: &App, now: Timestamp) -> String {
    let Some(status) = &app.status else { return "The node has not said anything of it yet.".to_owned() };
    let age = text::age(app.update_time.as_ref(), now);
    if app.removing {
        return "It is being removed.".to_owned();
    }
    match status.state() {
        AppState::Unspecified => "The node has not said anything of it yet.".to_owned(),
        AppState::Starting => format!("It is being brought up for {age}."),
        AppState::Failed => format!("It was brought down {age} ago after a failure, which its job tells."),
        AppState::Removed => format!("It was removed {age} ago."),
        AppState::BackOff => back_off(status, now),
        AppState::NotReady => not_ready(status, now),
        AppState::Completed => completed(status, now),
        AppState::Running => running(status, now),
    }
}

/// Instances of a kind as a subject: the one that stands for them, and how many more there are.
fn subject<'a>(
    instances: impl IntoIterator<Item = &'a InstanceStatus>,
    weight: impl Fn(&InstanceStatus) -> i64,
) -> Option<(&'a InstanceStatus, String)> {
    let instances: Vec<&InstanceStatus> = instances.into_iter().collect();
    let worst =
        instances.iter().copied().max_by_key(|instance| (weight(instance), std::cmp::Reverse(instance.index)))?;
    let more = match instances.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    Some((worst, format!("Instance {}{more}", worst.index)))
}

fn back_off(status: &AppStatus, now: Timestamp) -> String {
    let waiting = status.instances.iter().filter(|instance| instance.state() == InstanceState::BackOff);
    match subject(waiting, |instance| instance.starts.into()) {
        Some((worst, subject)) => {
            format!("{subject} waits for start {}; it ended with {}.", worst.starts + 1, last_exit(worst, now))
        }
        None => "An instance waits for its next start.".to_owned(),
    }
}

fn not_ready(status: &AppStatus, now: Timestamp) -> String {
    let since = |instance: &InstanceStatus| {
        instance.readiness.as_ref().and_then(|readiness| readiness.since_time).map_or(0, |time| time.seconds)
    };
    let unready = status.instances.iter().filter(|instance| instance.readiness.as_ref().is_some_and(|r| !r.ready));
    let Some((worst, subject)) = subject(unready, |instance| -since(instance)) else {
        return "An instance is not ready.".to_owned();
    };
    let readiness = worst.readiness.clone().unwrap_or_default();
    let age = text::age(readiness.since_time.as_ref(), now);
    match readiness.message.as_str() {
        "" => format!("{subject} is not ready for {age}, and has not answered its probe yet."),
        answer => format!("{subject} is not ready for {age}: {answer}."),
    }
}

fn completed(status: &AppStatus, now: Timestamp) -> String {
    let code = |instance: &InstanceStatus| instance.last_exit.as_ref().map_or(0, |exit| i64::from(exit.code).abs());
    match subject(&status.instances, code) {
        Some((worst, subject)) => format!("All is done: {} ended with {}.", lower(&subject), last_exit(worst, now)),
        None => "All is done.".to_owned(),
    }
}

fn running(status: &AppStatus, now: Timestamp) -> String {
    let count = u32::try_from(status.instances.len()).unwrap_or(u32::MAX);
    let verb = if count == 1 { "runs" } else { "run" };
    let runs = format!("{} {verb}", text::count(count, "instance"));
    let again = status.instances.iter().filter(|instance| instance.last_exit.is_some());
    match subject(again, |instance| instance.starts.into()) {
        // Its end was that of an earlier revision.
        Some((worst, subject)) if worst.starts <= 1 => {
            format!("{runs}; {} last ended with {}.", lower(&subject), last_exit(worst, now))
        }
        Some((worst, subject)) => format!(
            "{runs}; {} was started {} times, and last ended with {}.",
            lower(&subject),
            worst.starts,
            last_exit(worst, now)
        ),
        None => format!("Nothing is wrong: {runs}."),
    }
}

fn lower(subject: &str) -> String {
    subject.replacen('I', "i", 1)
}

#[cfg(test)]
mod tests {
    use longshore_proto::v1::{InstanceExit, Readiness};

    use super::*;

    fn time(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn instance(index: u32, state: InstanceState, starts: u32) -> InstanceStatus {
        InstanceStatus { index, state: state.into(), starts, ..Default::default() }
    }

    fn ended(instance: InstanceStatus, code: i32, out_of_memory: bool, at: i64) -> InstanceStatus {
        InstanceStatus { last_exit: Some(InstanceExit { code, out_of_memory, time: time(at) }), ..instance }
    }

    fn app(state: AppState, instances: Vec<InstanceStatus>) -> App {
        let status = AppStatus { state: state.into(), instances, ports: Vec::new() };
        App { status: Some(status), update_time: time(90), ..Default::default() }
    }

    fn told(app: &App) -> String {
        let node = Node { connected: true, ..Default::default() };
        sentence(app, &node, Timestamp::from_second(100).unwrap_or_default())
    }

    #[test]
    fn each_state_has_its_sentence() {
        let up = |index| instance(index, InstanceState::Running, 1);
        let unready = |index, since, message: &str| InstanceStatus {
            readiness: Some(Readiness { ready: false, since_time: time(since), message: message.to_owned() }),
            ..up(index)
        };
        let waiting = |index, starts| ended(instance(index, InstanceState::BackOff, starts), 137, true, 88);
        let cases = [
            (App::default(), "The node has not said anything of it yet."),
            (app(AppState::Starting, vec![]), "It is being brought up for 10s."),
            (app(AppState::Failed, vec![]), "It was brought down 10s ago after a failure, which its job tells."),
            (app(AppState::Running, vec![up(0)]), "Nothing is wrong: 1 instance runs."),
            (
                app(AppState::Running, vec![up(0), ended(instance(1, InstanceState::Running, 3), 1, false, 40)]),
                "2 instances run; instance 1 was started 3 times, and last ended with code 1, 60s ago.",
            ),
            (
                app(AppState::BackOff, vec![waiting(0, 2), up(1), waiting(2, 4)]),
                "Instance 2 (and 1 more) waits for start 5; it ended with code 137, out of memory, 12s ago.",
            ),
            (
                app(AppState::NotReady, vec![unready(0, 95, "HTTP 500"), unready(1, 70, "HTTP 503"), up(2)]),
                "Instance 1 (and 1 more) is not ready for 30s: HTTP 503.",
            ),
            (
                app(AppState::NotReady, vec![unready(0, 95, "")]),
                "Instance 0 is not ready for 5s, and has not answered its probe yet.",
            ),
            (
                app(AppState::Completed, vec![ended(instance(0, InstanceState::Exited, 1), 0, false, 95)]),
                "All is done: instance 0 ended with code 0, 5s ago.",
            ),
            (App { removing: true, ..app(AppState::Running, vec![up(0)]) }, "It is being removed."),
        ];
        for (app, expected) in cases {
            assert_eq!(told(&app), expected, "{app:?}");
        }
    }

    #[test]
    fn a_node_that_is_away_is_told_first() {
        let node = Node { last_seen_time: time(40), ..Default::default() };
        let app = app(AppState::Running, vec![instance(0, InstanceState::Running, 1)]);
        assert_eq!(
            sentence(&app, &node, Timestamp::from_second(100).unwrap_or_default()),
            "Its node is not connected, last seen 60s ago. What it said before: Nothing is wrong: 1 instance runs."
        );
    }
}
