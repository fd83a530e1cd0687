#![allow(clippy::unwrap_used, clippy::panic)] // A test may fail by panicking.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use longshore_model::assignment::{ImageAccess, Order};
use longshore_model::name::JobId;
use longshore_model::node::Labels;

use super::outbox::OUTBOX_LIMIT;
use super::*;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn session(last: char) -> SessionId {
    SessionId::parse(&format!("01arz3ndektsv4rrffq69g5fa{last}")).unwrap()
}

fn enter(fleet: &Arc<Fleet>, name: &str, id: char) -> Entry {
    fleet.enter(node(name), session(id), v1::Welcome::default()).unwrap()
}

fn assignment(app: &str, spec: &Bytes) -> EncodedAssignment {
    EncodedAssignment {
        app: AppName::parse(app).unwrap(),
        revision: 1,
        job: JobId::parse("01arz3ndektsv4rrffq69g5fav").unwrap(),
        attempt: 1,
        order: Order::Deploy,
        spec: spec.clone(),
        cause: None,
        image_access: ImageAccess::Open,
        node_labels: Labels::new(),
    }
}

fn poll(entry: &Entry) -> Poll<Result<Message, End>> {
    entry.outbox().poll_next(&mut Context::from_waker(Waker::noop()))
}

fn take(entry: &Entry) -> Message {
    match poll(entry) {
        Poll::Ready(Ok(message)) => message,
        other => panic!("no message: {other:?}"),
    }
}

#[test]
fn the_full_set_comes_second_and_increments_follow_without_a_gap() {
    let fleet = Arc::new(Fleet::default());
    let entry = enter(&fleet, "shop-1", 'a');
    let spec = Bytes::from_static(b"spec");
    // The full set will hold it, since it was committed before.
    fleet.set(&node("shop-1"), assignment("early", &spec));
    assert_eq!(fleet.ask_for_logs(&node("shop-1"), v1::LogRequest::default()), Err(FleetError::NotConnected));
    fleet.opened(&node("shop-1"), &session('b'), Vec::new(), &[], false);
    fleet.opened(&node("shop-1"), &session('a'), vec![assignment("till", &spec)], &[], false);
    fleet.set(&node("shop-1"), assignment("cam", &spec));
    fleet.unset(&node("shop-1"), &AppName::parse("till").unwrap());

    assert!(matches!(take(&entry), Message::Welcome(_)));
    let Message::Full(full) = take(&entry) else { panic!("not the full set") };
    assert_eq!((full.revision, full.assignments.len()), (1, 1));
    let Message::Update(set) = take(&entry) else { panic!("not an update") };
    assert_eq!((set.revision, set.set[0].app_name.as_str()), (2, "cam"));
    assert_eq!(set.set[0].app_spec.as_ptr(), spec.as_ptr(), "the spec is shared, not copied");
    let Message::Update(unset) = take(&entry) else { panic!("not an update") };
    assert_eq!((unset.revision, unset.remove), (3, vec!["till".to_owned()]));
    assert!(poll(&entry).is_pending());
}

#[test]
fn a_newer_session_fences_the_older_whose_end_does_not_remove_it() {
    let fleet = Arc::new(Fleet::default());
    let old = enter(&fleet, "shop-1", 'a');
    let new = enter(&fleet, "shop-1", 'b');
    assert_eq!(old.outbox().ended(), Some(End::Fenced));
    assert_eq!(poll(&old), Poll::Ready(Err(End::Fenced)));
    drop(old);
    assert!(fleet.connected(&node("shop-1")));
    assert_eq!(new.outbox().ended(), None);
    drop(new);
    assert!(!fleet.connected(&node("shop-1")));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_away_since_its_last_session_or_the_fleets_beginning() {
    let fleet = Arc::new(Fleet::default());
    let second = Duration::from_secs(1);
    let away = |name| fleet.away(&node(name)).map(|away| away.as_secs());
    tokio::time::advance(second * 5).await;
    assert_eq!(away("shop-1"), Some(5), "it has never come");
    let old = enter(&fleet, "shop-1", 'a');
    assert_eq!(away("shop-1"), None);
    let new = enter(&fleet, "shop-1", 'b');
    tokio::time::advance(second).await;
    drop(old);
    assert_eq!(away("shop-1"), None, "the fenced session's end is not the node's");
    drop(new);
    tokio::time::advance(second * 2).await;
    assert_eq!(away("shop-1"), Some(2));
    let again = enter(&fleet, "shop-1", 'c');
    fleet.reenrolled(&node("shop-1"));
    tokio::time::advance(second * 3).await;
    drop(again);
    assert_eq!(away("shop-1"), Some(3), "since the server has ended it");
    let last = enter(&fleet, "shop-1", 'd');
    let mut draining = std::pin::pin!(fleet.drain());
    assert!(futures::poll!(draining.as_mut()).is_pending());
    tokio::time::advance(second).await;
    assert_eq!(away("shop-1"), Some(1), "since the server has sent it away");
    drop(last);
    draining.await;
    fleet.node_deleted(&node("shop-1"));
    assert!(fleet.registry().ended.is_empty(), "nothing is kept of a deleted node");
}

#[test]
fn an_agent_that_does_not_read_loses_its_session_and_nothing_waits_for_it() {
    let fleet = Arc::new(Fleet::default());
    let entry = enter(&fleet, "shop-1", 'a');
    fleet.opened(&node("shop-1"), &session('a'), Vec::new(), &[], false);
    // Welcome and the full set have not been read either.
    for _ in 0..OUTBOX_LIMIT - 2 {
        fleet.unset(&node("shop-1"), &AppName::parse("till").unwrap());
    }
    assert!(fleet.connected(&node("shop-1")));
    fleet.unset(&node("shop-1"), &AppName::parse("till").unwrap());
    assert_eq!(entry.outbox().ended(), Some(End::Overflow));
    assert!(!fleet.connected(&node("shop-1")));
    assert_eq!(poll(&entry), Poll::Ready(Err(End::Overflow)), "what had gathered is gone");
    let back = enter(&fleet, "shop-1", 'b');
    drop(entry);
    assert!(fleet.connected(&node("shop-1")), "the session that follows is untouched");
    drop(back);
}

#[test]
fn however_many_apps_are_being_removed_a_session_opens() {
    let fleet = Arc::new(Fleet::default());
    let entry = enter(&fleet, "shop-1", 'a');
    let removing: Vec<AppName> =
        (0..2 * OUTBOX_LIMIT).map(|number| AppName::parse(&format!("till-{number}")).unwrap()).collect();
    fleet.opened(&node("shop-1"), &session('a'), Vec::new(), &removing, false);
    assert_eq!(entry.outbox().ended(), None);
    assert!(matches!(take(&entry), Message::Welcome(_)));
    assert!(matches!(take(&entry), Message::Full(_)));
    let Message::Update(update) = take(&entry) else { panic!("not an update") };
    assert_eq!((update.revision, update.remove.len()), (2, 2 * OUTBOX_LIMIT));
}

#[test]
fn a_full_set_that_no_agent_takes_ends_the_session_until_apps_are_removed() {
    let fleet = Arc::new(Fleet::default());
    let entry = enter(&fleet, "shop-1", 'a');
    // As many of the largest specs as just do not fit.
    let spec = Bytes::from(vec![0; longshore_model::limits::MAX_SPEC]);
    let mut apps: Vec<_> = (0..MAX_FULL_SET / spec.len()).map(|n| assignment(&format!("till-{n}"), &spec)).collect();
    fleet.opened(&node("shop-1"), &session('a'), apps.clone(), &[], false);
    assert_eq!(poll(&entry), Poll::Ready(Err(End::SetTooLarge)));
    assert!(!fleet.connected(&node("shop-1")), "nothing is assigned to it");

    apps.pop();
    let entry = enter(&fleet, "shop-1", 'b');
    fleet.opened(&node("shop-1"), &session('b'), apps, &[], false);
    assert!(matches!(take(&entry), Message::Welcome(_)));
    assert!(matches!(take(&entry), Message::Full(_)));
}

#[test]
fn a_deleted_node_is_told_at_once() {
    let fleet = Arc::new(Fleet::default());
    let entry = enter(&fleet, "shop-1", 'a');
    fleet.opened(&node("shop-1"), &session('a'), Vec::new(), &[], false);
    fleet.node_deleted(&node("shop-1"));
    assert_eq!(poll(&entry), Poll::Ready(Err(End::NodeDeleted)));
    assert!(fleet.is_empty());
}

#[tokio::test]
async fn a_drain_sends_a_last_word_and_waits_for_every_stream() {
    let fleet = Arc::new(Fleet::default());
    let opened = enter(&fleet, "shop-1", 'a');
    fleet.opened(&node("shop-1"), &session('a'), Vec::new(), &[], false);
    let opening = enter(&fleet, "shop-2", 'b');
    let mut drain = std::pin::pin!(fleet.drain());
    assert!(futures::poll!(&mut drain).is_pending());

    let refused = fleet.enter(node("shop-3"), session('c'), v1::Welcome::default());
    assert_eq!(refused.err(), Some(FleetError::Draining));
    assert!(matches!(take(&opened), Message::Welcome(_)));
    assert!(matches!(take(&opened), Message::Full(_)));
    let Message::Drain(message) = take(&opened) else { panic!("not a drain") };
    assert_eq!(message.reconnect_within.unwrap().seconds, 1);
    assert_eq!(poll(&opened), Poll::Ready(Err(End::Drained)));
    assert!(matches!(take(&opening), Message::Welcome(_)));
    assert_eq!(poll(&opening), Poll::Ready(Err(End::Drained)), "nothing may come before the full set");

    drop(opened);
    assert!(futures::poll!(&mut drain).is_pending());
    drop(opening);
    assert!(futures::poll!(&mut drain).is_ready());
}

#[test]
fn large_fleets_get_more_time_to_come_back() {
    assert_eq!(reconnect_window(0), Duration::from_secs(1));
    assert_eq!(reconnect_window(650), Duration::from_secs(1));
    assert_eq!(reconnect_window(13_000), Duration::from_secs(20));
}
