//! The JSON form of messages, for `-o json` and `-o yaml`.
//!
//! It is proto3's JSON form with three differences, each for the sake of scripts: words of an enum come without the
//! enum's name in front (`SUCCEEDED`, not `JOB_STATE_SUCCEEDED`), 64-bit numbers are numbers, and fields without presence
//! are there also when they are zero or empty. It is derived from the descriptors, so no field can be forgotten.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde::{Serialize, Serializer};

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(longshore_proto::DESCRIPTORS).ok());

/// A value whose objects keep the order of the .proto.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(fields) => serializer.collect_map(fields.iter().map(|(key, value)| (key, value))),
        }
    }
}

/// The JSON form of a message of `longshore.v1`.
///
/// `name` is the message's name without the package. It must be that of `M`: a name that does not exist gives null.
pub(crate) fn of<M: Message>(name: &str, message: &M) -> Json {
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(&format!("longshore.v1.{name}")));
    let Some(descriptor) = descriptor else { return Json::Null };
    match DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()) {
        Ok(message) => of_message(&message),
        Err(_) => Json::Null,
    }
}

fn of_message(message: &DynamicMessage) -> Json {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => return timestamp(message),
        "google.protobuf.Duration" => return duration(message),
        _ => {}
    }
    let fields = descriptor.fields().filter(|field| !field.supports_presence() || message.has_field(field));
    Json::Object(
        fields
            .map(|field| (field.json_name().to_owned(), of_value(&message.get_field(&field), &field.kind())))
            .collect(),
    )
}

fn of_value(value: &Value, kind: &Kind) -> Json {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::I32(value) => Json::Signed(i64::from(*value)),
        Value::I64(value) => Json::Signed(*value),
        Value::U32(value) => Json::Unsigned(u64::from(*value)),
        Value::U64(value) => Json::Unsigned(*value),
        Value::F32(value) => Json::Float(f64::from(*value)),
        Value::F64(value) => Json::Float(*value),
        Value::String(value) => Json::Text(value.clone()),
        // The only bytes shown are lines of logs, which are text for people.
        Value::Bytes(value) => Json::Text(String::from_utf8_lossy(value).into_owned()),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) => word(descriptor, *number),
            _ => Json::Signed(i64::from(*number)),
        },
        Value::Message(message) => of_message(message),
        Value::List(items) => Json::List(items.iter().map(|item| of_value(item, kind)).collect()),
        Value::Map(entries) => map(entries.iter(), kind),
    }
}

fn map<'a>(entries: impl Iterator<Item = (&'a MapKey, &'a Value)>, kind: &Kind) -> Json {
    let value_kind = match kind {
        Kind::Message(entry) => entry.map_entry_value_field().kind(),
        other => other.clone(),
    };
    let mut fields: Vec<(String, Json)> =
        entries.map(|(key, value)| (key_text(key), of_value(value, &value_kind))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Json::Object(fields)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// The word of an enum's value, without the prefix that every value of the enum carries; a number where there is none.
fn word(descriptor: &EnumDescriptor, number: i32) -> Json {
    let zero = descriptor.get_value(0);
    let prefix = zero.as_ref().and_then(|zero| zero.name().strip_suffix("UNSPECIFIED")).unwrap_or_default();
    match descriptor.get_value(number) {
        Some(value) => Json::Text(value.name().strip_prefix(prefix).unwrap_or(value.name()).to_owned()),
        None => Json::Signed(i64::from(number)),
    }
}

fn seconds_and_nanos(message: &DynamicMessage) -> (i64, i32) {
    let seconds = message.get_field_by_name("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = message.get_field_by_name("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    (seconds, nanos)
}

fn timestamp(message: &DynamicMessage) -> Json {
    let (seconds, nanos) = seconds_and_nanos(message);
    Timestamp::new(seconds, nanos).map_or(Json::Null, |time| Json::Text(time.to_string()))
}

fn duration(message: &DynamicMessage) -> Json {
    let (seconds, nanos) = seconds_and_nanos(message);
    Json::Text(format!("{}s", SignedDuration::new(seconds, nanos).as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longshore_proto::v1;

    use super::*;

    fn text(value: &Json) -> String {
        serde_json::to_string(value).unwrap_or_default()
    }

    #[test]
    fn a_task_in_json() {
        let task = v1::Task {
            job_id: "01jd".to_owned(),
            node_name: "store-1".to_owned(),
            attempt: 2,
            state: v1::TaskState::TimedOut.into(),
            failure: Some(v1::Failure {
                reason: v1::FailureReason::DeadlineExceeded.into(),
                message: "Too late.".to_owned(),
                step: v1::TaskState::Pulling.into(),
                ..Default::default()
            }),
            end_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 500_000_000 }),
            ..Default::default()
        };
        assert_eq!(
            text(&of("Task", &task)),
            concat!(
                r#"{"jobId":"01jd","nodeName":"store-1","attempt":2,"state":"TIMED_OUT","#,
                r#""failure":{"reason":"DEADLINE_EXCEEDED","message":"Too late.","step":"PULLING","cause":""},"#,
                r#""cancelRequested":false,"endTime":"2023-11-14T22:13:20.5Z","history":[],"version":0,"specRevision":0}"#,
            )
        );
    }

    #[test]
    fn maps_are_sorted_and_large_numbers_stay_numbers() {
        let node = v1::Node {
            name: "gateway-1".to_owned(),
            labels: BTreeMap::from([("site".to_owned(), "hh".to_owned()), ("role".to_owned(), "gateway".to_owned())]),
            info: Some(v1::NodeInfo { memory_bytes: 8 << 30, ..Default::default() }),
            ..Default::default()
        };
        let json = text(&of("Node", &node));
        assert!(json.contains(r#""labels":{"role":"gateway","site":"hh"},"connected":false"#), "{json}");
        assert!(json.contains(r#""memoryBytes":8589934592"#), "{json}");
    }

    #[test]
    fn a_duration_is_written_in_seconds() {
        let job = v1::Job {
            timeout: Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }),
            state: v1::JobState::PartiallySucceeded.into(),
            ..Default::default()
        };
        let json = text(&of("Job", &job));
        assert!(json.contains(r#""timeout":"90.5s""#), "{json}");
        assert!(json.contains(r#""state":"PARTIALLY_SUCCEEDED""#), "{json}");
    }

    #[test]
    fn a_choice_shows_what_was_chosen() {
        let spec = v1::AppSpec {
            network: Some(v1::Network { mode: Some(v1::network::Mode::Host(v1::HostNetwork {})) }),
            ..Default::default()
        };
        assert!(text(&of("AppSpec", &spec)).contains(r#""network":{"host":{}}"#));
    }
}
