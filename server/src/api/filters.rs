//! What lists can be filtered by, in the words of the wire.

use std::cell::OnceCell;

use jiff::Timestamp;
use longshore_model::accelerator::Stock;
use longshore_model::admission::PendingNode;
use longshore_model::app::{App, Desired};
use longshore_model::audit::Deed;
use longshore_model::cause;
use longshore_model::configuration::Configuration;
use longshore_model::event::AppEvent;
use longshore_model::filter::{Field, Filter, Kind, Value};
use longshore_model::job::Job;
use longshore_model::node::{Node, NodeInfo};
use longshore_model::registry::RegistryCredential;
use longshore_model::task::Task;
use longshore_model::template::Template;
use longshore_model::user::User;
use longshore_model::validate::{Path, Violations};
use longshore_proto::v1;

use crate::store::StoredToken;

const JOB_STATE: Kind = Kind::Word {
    prefix: "JOB_STATE_",
    words: &["QUEUED", "RUNNING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "STOPPING", "STOPPED", "TIMED_OUT"],
};
const JOB_KIND: Kind = Kind::Word { prefix: "JOB_KIND_", words: &["DEPLOY", "UPDATE", "REMOVE", "PULL"] };
const TASK_STATE: Kind = Kind::Word {
    prefix: "TASK_STATE_",
    words: &[
        "PENDING",
        "ASSIGNED",
        "CHECKING",
        "PULLING",
        "CREATING",
        "STARTING",
        "SETTLING",
        "SUCCEEDED",
        "FAILED",
        "TIMED_OUT",
        "CANCELLED",
    ],
};
const APP_STATE: Kind = Kind::Word {
    prefix: "APP_STATE_",
    words: &["UNSPECIFIED", "STARTING", "RUNNING", "NOT_READY", "BACK_OFF", "COMPLETED", "FAILED", "REMOVED"],
};
const APP_EVENT_TYPE: Kind = Kind::Word {
    prefix: "APP_EVENT_TYPE_",
    words: &[
        "STARTED",
        "RESTARTED",
        "READY",
        "NOT_READY",
        "EXITED",
        "OUT_OF_MEMORY",
        "PROBE_FAILED",
        "BACK_OFF",
        "UPDATING",
        "WENT_BACK",
        "FAILED",
        "REMOVED",
    ],
};
const FAILURE_REASON: Kind = Kind::Word {
    prefix: "FAILURE_REASON_",
    words: &[
        "IMAGE_NOT_FOUND",
        "IMAGE_ACCESS_DENIED",
        "REGISTRY_UNREACHABLE",
        "ARCHITECTURE_MISMATCH",
        "IMAGE_INVALID",
        "DISK_FULL",
        "PORT_IN_USE",
        "INTERFACE_NOT_FOUND",
        "INTERFACE_WITHOUT_IPV4",
        "HOST_PATH_UNAVAILABLE",
        "COMMAND_NOT_FOUND",
        "CONTAINER_EXITED",
        "OUT_OF_MEMORY",
        "UNSUPPORTED",
        "NODE_DELETED",
        "DEADLINE_EXCEEDED",
        "RUNTIME_ERROR",
        "PULL_STALLED",
        "APP_NOT_FOUND",
        "LIVENESS_PROBE_FAILED",
        "INSUFFICIENT_RESOURCES",
        "NODE_VALUE_MISSING",
        "CONFIGURATION_MISSING",
        "CONFIGURATION_UNUSABLE",
        "DEVICE_UNAVAILABLE",
        "ACCELERATOR_NOT_FOUND",
        "INSUFFICIENT_ACCELERATORS",
    ],
};

const USER_ROLE: Kind = Kind::Word { prefix: "USER_ROLE_", words: &["VIEWER", "OPERATOR", "ADMIN"] };

/// Fields of jobs.
pub(super) const JOBS: &[Field] = &[
    Field { name: "state", kind: JOB_STATE },
    Field { name: "kind", kind: JOB_KIND },
    Field { name: "app_name", kind: Kind::Text },
    Field { name: "spec.name", kind: Kind::Text },
    Field { name: "creator", kind: Kind::Text },
    Field { name: "create_time", kind: Kind::Time },
    Field { name: "start_time", kind: Kind::Time },
    Field { name: "end_time", kind: Kind::Time },
];
/// Fields of tasks.
pub(super) const TASKS: &[Field] = &[
    Field { name: "node_name", kind: Kind::Text },
    Field { name: "state", kind: TASK_STATE },
    Field { name: "failure.reason", kind: FAILURE_REASON },
    Field { name: "failure.cause", kind: Kind::Text },
    Field { name: "cancel_requested", kind: Kind::Flag },
    Field { name: "absent_time", kind: Kind::Time },
    Field { name: "assign_time", kind: Kind::Time },
    Field { name: "update_time", kind: Kind::Time },
    Field { name: "end_time", kind: Kind::Time },
];
/// Fields of nodes.
pub(super) const NODES: &[Field] = &[
    Field { name: "name", kind: Kind::Text },
    Field { name: "labels", kind: Kind::Labels },
    Field { name: "connected", kind: Kind::Flag },
    Field { name: "enroll_time", kind: Kind::Time },
    Field { name: "last_seen_time", kind: Kind::Time },
    Field { name: "certificate_expire_time", kind: Kind::Time },
    Field { name: "info.architecture", kind: Kind::Text },
    Field { name: "info.agent_version", kind: Kind::Text },
    Field { name: "info.runtime", kind: Kind::Text },
    Field { name: "info.accelerators.kind", kind: Kind::Texts },
    Field { name: "info.accelerators.model", kind: Kind::Texts },
];
/// Fields of apps.
pub(super) const APPS: &[Field] = &[
    Field { name: "node_name", kind: Kind::Text },
    Field { name: "app_name", kind: Kind::Text },
    Field { name: "job_id", kind: Kind::Text },
    Field { name: "status.state", kind: APP_STATE },
    Field { name: "removing", kind: Kind::Flag },
    Field { name: "update_time", kind: Kind::Time },
];

/// Fields of events of apps.
pub(super) const APP_EVENTS: &[Field] = &[
    Field { name: "app_name", kind: Kind::Text },
    Field { name: "node_name", kind: Kind::Text },
    Field { name: "type", kind: APP_EVENT_TYPE },
    Field { name: "first_time", kind: Kind::Time },
    Field { name: "last_time", kind: Kind::Time },
    Field { name: "node_time", kind: Kind::Time },
];

/// Fields of enrolment tokens.
pub(super) const TOKENS: &[Field] = &[
    Field { name: "token_id", kind: Kind::Text },
    Field { name: "create_time", kind: Kind::Time },
    Field { name: "expire_time", kind: Kind::Time },
    Field { name: "creator", kind: Kind::Text },
    Field { name: "labels", kind: Kind::Labels },
    Field { name: "node_name", kind: Kind::Text },
    Field { name: "requires_approval", kind: Kind::Flag },
];
/// Fields of machines that wait for approval.
pub(super) const PENDING_NODES: &[Field] = &[
    Field { name: "name", kind: Kind::Text },
    Field { name: "key_fingerprint", kind: Kind::Text },
    Field { name: "address", kind: Kind::Text },
    Field { name: "token_id", kind: Kind::Text },
    Field { name: "labels", kind: Kind::Labels },
    Field { name: "create_time", kind: Kind::Time },
    Field { name: "expire_time", kind: Kind::Time },
];

/// Fields of users.
pub(super) const USERS: &[Field] = &[
    Field { name: "name", kind: Kind::Text },
    Field { name: "role", kind: USER_ROLE },
    Field { name: "creator", kind: Kind::Text },
    Field { name: "create_time", kind: Kind::Time },
    Field { name: "certificate_expire_time", kind: Kind::Time },
    Field { name: "revoke_time", kind: Kind::Time },
];

/// Fields of registry credentials.
pub(super) const CREDENTIALS: &[Field] = &[
    Field { name: "name", kind: Kind::Text },
    Field { name: "registry", kind: Kind::Text },
    Field { name: "username", kind: Kind::Text },
    Field { name: "create_time", kind: Kind::Time },
    Field { name: "update_time", kind: Kind::Time },
];

/// Fields of the audit log.
pub(super) const AUDIT: &[Field] = &[
    Field { name: "time", kind: Kind::Time },
    Field { name: "caller", kind: Kind::Text },
    Field { name: "key_fingerprint", kind: Kind::Text },
    Field { name: "address", kind: Kind::Text },
    Field { name: "method", kind: Kind::Text },
    Field { name: "target", kind: Kind::Text },
    Field { name: "validate_only", kind: Kind::Flag },
    Field { name: "code", kind: Kind::Text },
    Field { name: "reason", kind: Kind::Text },
    Field { name: "request_id", kind: Kind::Text },
];
/// Fields of config maps and of secrets.
pub(super) const CONFIGURATIONS: &[Field] = &[
    Field { name: "name", kind: Kind::Text },
    Field { name: "create_time", kind: Kind::Time },
    Field { name: "update_time", kind: Kind::Time },
];

/// Fields of templates.
pub(super) const TEMPLATES: &[Field] = &[
    Field { name: "name", kind: Kind::Text },
    Field { name: "version", kind: Kind::Text },
    Field { name: "architecture", kind: Kind::Text },
    Field { name: "creator", kind: Kind::Text },
    Field { name: "create_time", kind: Kind::Time },
];

/// Reads a request's filter.
pub(super) fn read(text: &str, fields: &[Field], bad: &mut Violations) -> Filter {
    Filter::parse(text, fields).unwrap_or_else(|error| {
        bad.add(Path::Root.field("filter"), error.to_string());
        Filter::default()
    })
}

fn moment<'a>(time: Option<Timestamp>) -> Value<'a> {
    time.map_or(Value::Unset, Value::Time)
}

/// The word of an enumeration's name on the wire.
fn word<'a>(name: &'a str, kind: Kind) -> Value<'a> {
    match kind {
        Kind::Word { prefix, .. } => Value::Text(name.strip_prefix(prefix).unwrap_or(name)),
        _ => Value::Text(name),
    }
}

/// What a job has in a field.
pub(super) fn job<'a>(job: &'a Job, field: &str) -> Value<'a> {
    match field {
        "state" => Value::Text(job.state().as_str()),
        "kind" => Value::Text(job.kind.as_str()),
        "app_name" => Value::Text(job.app.as_str()),
        "spec.name" => Value::Text(&job.spec.name),
        "creator" => Value::Text(&job.creator),
        "create_time" => Value::Time(job.create_time),
        "start_time" => moment(job.start_time),
        "end_time" => moment(job.end_time),
        _ => Value::Unset,
    }
}

/// Whether a task matches a filter of [`TASKS`].
pub(super) fn matches_task(filter: &Filter, one: &Task) -> bool {
    let cause = OnceCell::new();
    filter.matches(|field| match field {
        "failure.cause" => cause.get_or_init(|| cause::of(one)).as_deref().map_or(Value::Unset, Value::Text),
        _ => task(one, field),
    })
}

/// What a task has in a field.
fn task<'a>(task: &'a Task, field: &str) -> Value<'a> {
    match field {
        "node_name" => Value::Text(task.node.as_str()),
        "state" => Value::Text(task.state.as_str()),
        "failure.reason" => match &task.failure {
            Some(failure) => word(v1::FailureReason::from(failure.reason).as_str_name(), FAILURE_REASON),
            None => Value::Unset,
        },
        "cancel_requested" => Value::Flag(task.cancel_requested),
        "absent_time" => moment(task.absent_time),
        "assign_time" => moment(task.assign_time),
        "update_time" => Value::Time(task.update_time),
        "end_time" => moment(task.end_time),
        _ => Value::Unset,
    }
}

/// What a node has said of its accelerators, one kind after the other.
fn stocks(info: Option<&NodeInfo>, part: fn(&Stock) -> &str) -> Value<'_> {
    info.map_or(Value::Unset, |info| Value::Stocks(&info.accelerators, part))
}

/// What a node that is connected or not has in a field.
pub(super) fn node<'a>(node: &'a Node, connected: bool, now: Timestamp, field: &str) -> Value<'a> {
    let info = node.info.as_ref();
    let text = |text: Option<&'a String>| text.map_or(Value::Unset, |text| Value::Text(text));
    match field {
        "name" => Value::Text(node.name.as_str()),
        "labels" => Value::Labels(&node.labels),
        "connected" => Value::Flag(connected),
        "enroll_time" => Value::Time(node.enroll_time),
        "last_seen_time" => moment(if connected { Some(now) } else { node.last_seen }),
        "certificate_expire_time" => moment(node.certificate_end),
        "info.architecture" => text(info.map(|info| &info.architecture)),
        "info.agent_version" => text(info.map(|info| &info.agent_version)),
        "info.runtime" => text(info.map(|info| &info.runtime)),
        "info.accelerators.kind" => stocks(info, |stock| &stock.kind),
        "info.accelerators.model" => stocks(info, |stock| &stock.model),
        _ => Value::Unset,
    }
}

/// What an enrolment token has in a field.
pub(super) fn token<'a>(token: &'a StoredToken, field: &str) -> Value<'a> {
    match field {
        "token_id" => Value::Text(&token.id),
        "create_time" => Value::Time(token.create_time),
        "expire_time" => Value::Time(token.expire_time),
        "creator" => Value::Text(&token.creator),
        "labels" => Value::Labels(&token.labels),
        "node_name" => token.node.as_ref().map_or(Value::Unset, |name| Value::Text(name.as_str())),
        "requires_approval" => Value::Flag(token.requires_approval),
        _ => Value::Unset,
    }
}

/// What a machine that waits has in a field; the texts are those of its key and its address.
pub(super) fn pending_node<'a>(machine: &'a PendingNode, [key, address]: &'a [String; 2], field: &str) -> Value<'a> {
    match field {
        "name" => Value::Text(machine.name.as_str()),
        "key_fingerprint" => Value::Text(key),
        "address" => Value::Text(address),
        "token_id" => Value::Text(&machine.token),
        "labels" => Value::Labels(&machine.labels),
        "create_time" => Value::Time(machine.create_time),
        "expire_time" => Value::Time(machine.expire_time),
        _ => Value::Unset,
    }
}

/// What a user has in a field.
pub(super) fn user<'a>(user: &'a User, field: &str) -> Value<'a> {
    match field {
        "name" => Value::Text(&user.name),
        "role" => word(v1::UserRole::from(user.role).as_str_name(), USER_ROLE),
        "creator" => Value::Text(&user.creator),
        "create_time" => Value::Time(user.create_time),
        "certificate_expire_time" => Value::Time(user.certificate_end),
        "revoke_time" => moment(user.revoke_time),
        _ => Value::Unset,
    }
}

/// What a registry credential has in a field; `registry` is the text of its own.
pub(super) fn credential<'a>(credential: &'a RegistryCredential, registry: &'a str, field: &str) -> Value<'a> {
    match field {
        "name" => Value::Text(credential.name.as_str()),
        "registry" => Value::Text(registry),
        "username" => Value::Text(&credential.username),
        "create_time" => Value::Time(credential.create_time),
        "update_time" => Value::Time(credential.update_time),
        _ => Value::Unset,
    }
}

/// What a deed of the audit log has in a field.
pub(super) fn deed<'a>(deed: &'a Deed, field: &str) -> Value<'a> {
    match field {
        "time" => Value::Time(deed.time),
        "caller" => Value::Text(&deed.caller),
        "key_fingerprint" => Value::Text(&deed.key_fingerprint),
        "address" => Value::Text(&deed.address),
        "method" => Value::Text(&deed.method),
        "target" => Value::Text(&deed.target),
        "validate_only" => Value::Flag(deed.validate_only),
        "code" => Value::Text(&deed.code),
        "reason" => Value::Text(&deed.reason),
        "request_id" => Value::Text(&deed.request_id),
        _ => Value::Unset,
    }
}

/// What a version of a template has in a field.
pub(super) fn template<'a>(template: &'a Template, field: &str) -> Value<'a> {
    match field {
        "name" => Value::Text(template.key.name.as_str()),
        "version" => Value::Text(&template.key.version),
        "architecture" => Value::Text(&template.key.architecture),
        "creator" => Value::Text(&template.creator),
        "create_time" => Value::Time(template.create_time),
        _ => Value::Unset,
    }
}

/// What a config map or a secret has in a field.
pub(super) fn configuration<'a>(configuration: &'a Configuration, field: &str) -> Value<'a> {
    match field {
        "name" => Value::Text(configuration.name.as_str()),
        "create_time" => Value::Time(configuration.create_time),
        "update_time" => Value::Time(configuration.update_time),
        _ => Value::Unset,
    }
}

/// What an app has in a field.
pub(super) fn app<'a>(app: &'a App, field: &str) -> Value<'a> {
    match field {
        "node_name" => Value::Text(app.node.as_str()),
        "app_name" => Value::Text(app.name.as_str()),
        "job_id" => Value::Text(app.job.as_str()),
        "status.state" => word(v1::AppState::from(app.status.state).as_str_name(), APP_STATE),
        "removing" => Value::Flag(app.desired == Desired::Removing),
        "update_time" => Value::Time(app.update_time),
        _ => Value::Unset,
    }
}

/// What an event of an app has in a field.
pub(super) fn app_event<'a>(event: &'a AppEvent, field: &str) -> Value<'a> {
    match field {
        "app_name" => Value::Text(event.app.as_str()),
        "node_name" => Value::Text(event.node.as_str()),
        "type" => Value::Text(event.what.kind.as_str()),
        "first_time" => Value::Time(event.first_time),
        "last_time" => Value::Time(event.last_time),
        "node_time" => moment(event.what.node_time),
        _ => Value::Unset,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // A test may fail by panicking.
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Highest number that an enumeration of the wire can have before the test must look further.
    const NUMBERS: std::ops::Range<i32> = 0..64;

    fn check(kind: Kind, names: impl Iterator<Item = &'static str>) {
        let Kind::Word { prefix, words } = kind else { panic!("not an enumeration") };
        let known: BTreeSet<String> = words.iter().map(|word| format!("{prefix}{word}")).collect();
        let wire: BTreeSet<String> = names.map(str::to_owned).collect();
        let missing: Vec<_> = wire.symmetric_difference(&known).filter(|name| !name.ends_with("UNSPECIFIED")).collect();
        assert_eq!(missing, Vec::<&String>::new());
    }

    #[test]
    fn the_words_are_those_of_the_wire() {
        check(JOB_STATE, NUMBERS.filter_map(|number| Some(v1::JobState::try_from(number).ok()?.as_str_name())));
        check(JOB_KIND, NUMBERS.filter_map(|number| Some(v1::JobKind::try_from(number).ok()?.as_str_name())));
        check(TASK_STATE, NUMBERS.filter_map(|number| Some(v1::TaskState::try_from(number).ok()?.as_str_name())));
        check(APP_STATE, NUMBERS.filter_map(|number| Some(v1::AppState::try_from(number).ok()?.as_str_name())));
        check(
            APP_EVENT_TYPE,
            NUMBERS.filter_map(|number| Some(v1::AppEventType::try_from(number).ok()?.as_str_name())),
        );
        check(USER_ROLE, NUMBERS.filter_map(|number| Some(v1::UserRole::try_from(number).ok()?.as_str_name())));
        check(
            FAILURE_REASON,
            NUMBERS.filter_map(|number| Some(v1::FailureReason::try_from(number).ok()?.as_str_name())),
        );
    }

    #[test]
    fn every_field_is_one_of_the_wire() {
        use prost::Message;
        let set = prost_types::FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap();
        let message =
            |name: &str| set.file.iter().flat_map(|file| &file.message_type).find(|m| m.name() == name).unwrap();
        let lists = [
            ("Job", JOBS),
            ("Task", TASKS),
            ("Node", NODES),
            ("App", APPS),
            ("AppEvent", APP_EVENTS),
            ("EnrollmentToken", TOKENS),
            ("PendingNode", PENDING_NODES),
            ("User", USERS),
            ("RegistryCredential", CREDENTIALS),
            ("AuditEntry", AUDIT),
            ("ConfigMap", CONFIGURATIONS),
            ("Secret", CONFIGURATIONS),
            ("Template", TEMPLATES),
        ];
        for (name, fields) in lists {
            for field in fields {
                let mut current = Some(message(name));
                for part in field.name.split('.') {
                    let found = current.unwrap().field.iter().find(|known| known.name() == part);
                    let found = found.unwrap_or_else(|| panic!("{name} has no {}", field.name));
                    current = found
                        .type_name()
                        .rsplit('.')
                        .next()
                        .filter(|name| set.file.iter().flat_map(|file| &file.message_type).any(|m| m.name() == *name))
                        .map(message);
                }
            }
        }
    }

    #[test]
    fn a_wrong_filter_is_named_by_its_field() {
        let mut bad = Violations::default();
        read("stat = RUNNING", JOBS, &mut bad);
        assert_eq!(bad.0[0].field, "filter");
        assert!(bad.0[0].description.starts_with("at position 1: there is no field \"stat\""), "{bad}");
    }
}
