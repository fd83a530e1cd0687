//! Random histories of a job: whatever happens in whatever order, the invariants hold.

mod world;

use longshore_model::app::Desired;
use longshore_model::job::JobState;
use longshore_model::kind::JobKind;
use longshore_model::machine::Site;
use longshore_model::task::TaskState;
use proptest::prelude::*;
use world::{ABSENT_AFTER, Event, READY, TIMEOUT, World};

const NODES: usize = 4;

fn any_state() -> impl Strategy<Value = TaskState> {
    proptest::sample::select(TaskState::ALL.to_vec())
}

/// Mostly a node that has the app and an agent that is able.
fn site() -> impl Strategy<Value = Site> {
    let app = prop_oneof![6 => Just(Some(Desired::Present)), 1 => Just(Some(Desired::Removing)), 1 => Just(None)];
    (app, prop::bool::weighted(0.9)).prop_map(|(app, is_able)| Site { app, is_able })
}

/// Mostly what a working fleet does, so that histories get far, and everything else in between.
fn event() -> impl Strategy<Value = Event> {
    let task = || 0..NODES;
    prop_oneof![
        6 => (task(), site()).prop_map(|(task, site)| Event::Assign(task, site)),
        8 => (task(), any_state(), 0..100u64)
            .prop_map(|(task, state, done)| Event::Report { task, attempts_ago: 0, state, done }),
        2 => (task(), -2..4i64, any_state(), 0..100u64)
            .prop_map(|(task, attempts_ago, state, done)| Event::Report { task, attempts_ago, state, done }),
        1 => any::<bool>().prop_map(|cancel| Event::Stop { cancel }),
        2 => Just(Event::Resume),
        1 => Just(Event::Retry),
        2 => (1..1u8 << NODES, any::<bool>()).prop_map(|(chosen, amended)| Event::RetryOf { chosen, amended }),
        1 => Just(Event::Deadline),
        1 => task().prop_map(Event::DeleteNode),
        1 => task().prop_map(Event::RefuseFor),
        2 => (0..TIMEOUT.as_secs() / 2).prop_map(Event::Wait),
        4 => (task(), 0..2 * ABSENT_AFTER.as_secs()).prop_map(|(task, seconds)| Event::Away(task, seconds)),
        2 => task().prop_map(Event::Back),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_every_job_ends(
        kind in proptest::sample::select(JobKind::ALL.to_vec()),
        nodes in 1..=NODES,
        max_parallel in 0..3u32,
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(kind, nodes, max_parallel);
        for event in &events {
            let is_for_none = match event {
                Event::Assign(task, _)
                | Event::RefuseFor(task)
                | Event::DeleteNode(task)
                | Event::Report { task, .. }
                | Event::Away(task, _)
                | Event::Back(task) => *task >= nodes,
                _ => false,
            };
            if !is_for_none {
                world.apply(event);
            }
        }
        // Whatever happened: once it goes on, the deadline ends it, with no help from any agent.
        if world.job.state() == JobState::Stopped {
            world.apply(&Event::Resume);
        }
        world.apply(&Event::Wait(TIMEOUT.as_secs()));
        world.apply(&Event::Deadline);
        if world.job.state() == JobState::Stopped {
            world.apply(&Event::Resume);
            world.apply(&Event::Deadline);
        }
        prop_assert!(world.job.state().is_final());
        prop_assert!(world.tasks.iter().all(|task| task.state.is_end()));
    }

    #[test]
    fn a_working_fleet_finishes_by_itself(
        kind in proptest::sample::select(JobKind::ALL.to_vec()),
        max_parallel in 0..3u32,
        rounds in proptest::collection::vec(Just((0..NODES).collect::<Vec<_>>()).prop_shuffle(), 8 * NODES),
    ) {
        let mut world = World::new(kind, NODES, max_parallel);
        for node in rounds.into_iter().flatten() {
            world.apply(&Event::Assign(node, READY));
            let next = TaskState::ALL[usize::from(world.tasks[node].state.rank().min(6)) + 1];
            world.apply(&Event::Report { task: node, attempts_ago: 0, state: next, done: 0 });
        }
        prop_assert_eq!(world.job.state(), JobState::Succeeded);
    }

    #[test]
    fn nodes_that_go_away_hold_nobody_back(
        kind in proptest::sample::select(JobKind::ALL.to_vec()),
        max_parallel in 1..3u32,
        away in proptest::collection::vec(any::<bool>(), NODES),
        order in Just((0..NODES).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut world = World::new(kind, NODES, max_parallel);
        for _ in 0..=NODES {
            for &node in &order {
                world.apply(&Event::Assign(node, READY));
                let in_flight = world.tasks[node].state == TaskState::Assigned;
                if in_flight && away[node] {
                    world.apply(&Event::Away(node, ABSENT_AFTER.as_secs()));
                } else if in_flight {
                    world.apply(&Event::Report { task: node, attempts_ago: 0, state: TaskState::Succeeded, done: 0 });
                }
            }
        }
        for (node, &is_away) in away.iter().enumerate() {
            let expected = if is_away { TaskState::Assigned } else { TaskState::Succeeded };
            prop_assert_eq!(world.tasks[node].state, expected);
        }
        // What they did meanwhile counts as always, whether the server has heard of their return or not.
        for node in (0..NODES).filter(|node| away[*node]) {
            if node % 2 == 0 {
                world.apply(&Event::Back(node));
            }
            world.apply(&Event::Report { task: node, attempts_ago: 0, state: TaskState::Succeeded, done: 0 });
        }
        prop_assert_eq!(world.job.state(), JobState::Succeeded);
    }
}
