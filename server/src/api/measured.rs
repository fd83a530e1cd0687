//! Adds what is only known of live sessions to what the store has of nodes and apps.

use jiff::{SignedDuration, Timestamp};
use longshore_model::app::App;
use longshore_model::node::Node;
use longshore_model::spec::AppSpec;
use longshore_model::{refusal, trouble};
use longshore_proto::{convert, v1};

use crate::fleet::{Fleet, Standing};

/// The wire form of a node. `margin` is how long before its end a certificate is overdue for renewal.
pub(super) fn node(fleet: &Fleet, node: &Node, margin: SignedDuration, now: Timestamp) -> v1::Node {
    let standing = fleet.standing(&node.name);
    let warnings = trouble::of(&facts(node, &standing, margin), now);
    v1::Node {
        status: Some(status(node, &standing)),
        warnings: warnings.iter().map(v1::NodeWarning::from).collect(),
        ..convert::node(node, standing.connected, now)
    }
}

/// The same, with what the node refuses: too much for every node of a list.
pub(super) fn whole_node(fleet: &Fleet, known: &Node, margin: SignedDuration, now: Timestamp) -> v1::Node {
    let refusals = known.info.as_ref().map(refusal::of).unwrap_or_default();
    let refusals = refusals.iter().map(v1::NodeRefusal::from).collect();
    v1::Node { refusals, ..node(fleet, known, margin, now) }
}

fn facts(node: &Node, standing: &Standing, margin: SignedDuration) -> trouble::Facts {
    // What was said in an earlier session may have been mended since.
    let heard = standing.heard.as_ref().filter(|_| standing.connected);
    trouble::Facts {
        certificate_end: node.certificate_end,
        margin,
        figures: heard.map(|heard| heard.sample.figures),
        clock_skew: heard.map(|heard| heard.clock_skew),
    }
}

fn status(node: &Node, standing: &Standing) -> v1::NodeStatus {
    let heard = standing.heard.as_ref();
    v1::NodeStatus {
        // Before the session is open the store has the end of the one before.
        connect_time: node.last_seen.filter(|_| standing.open).map(convert::timestamp),
        sample_time: heard.map(|heard| convert::timestamp(heard.time)),
        clock_skew: heard.map(|heard| convert::skew(heard.clock_skew)),
        figures: heard.map(|heard| heard.sample.figures.into()),
    }
}

/// The wire form of an app that runs `spec`.
pub(super) fn app(fleet: &Fleet, app: &App, spec: &AppSpec) -> v1::App {
    let mut wire = convert::app(app, spec);
    let standing = fleet.standing(&app.node);
    let Some((usage, time)) = standing.usage(&app.name) else { return wire };
    for instance in wire.status.iter_mut().flat_map(|status| &mut status.instances) {
        if instance.state() == v1::InstanceState::Running {
            let measured = usage.iter().find(|measured| measured.index == instance.index);
            instance.usage = measured.map(|measured| convert::instance_usage(*measured, time));
        }
    }
    wire
}
