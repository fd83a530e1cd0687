//! Amounts as people write them: CPU, bytes, durations.

/// CPU: `2`, `0.5`, `500m`; kept in thousandths.
pub mod cpu {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes thousandths as `500m`.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|millis| format!("{millis}m")).serialize(serializer)
    }

    /// Reads a number of CPUs or thousandths.
    ///
    /// # Errors
    ///
    /// The text is no amount of CPU.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        Option::<u32>::deserialize(deserializer)
    }
}

/// Bytes: a number, or one with Ki, Mi, Gi, Ti, k, M, G, T.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes bytes with the largest binary unit that fits exactly.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    /// Reads an amount of bytes.
    ///
    /// # Errors
    ///
    /// The text is no amount of bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Option::<u64>::deserialize(deserializer)
    }
}

/// Durations: `5s`, `1m30s`, `500ms`, `2h`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a duration as `1m30s`.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.as_secs())
    }

    /// Reads a duration.
    ///
    /// # Errors
    ///
    /// The text is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}
