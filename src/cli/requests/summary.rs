//! The state of one request, as shown to people and programs.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use strum::IntoStaticStr;

use super::chunks::MissingChunks;
use super::event::RequestId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(super) enum RequestState {
    /// Terra is assembling it.
    Processing,
    Sending,
    Finished,
    /// Not finished, and nothing arrived for a while.
    Stalled,
    /// Payloads without an announcement: their number is unknown.
    Unannounced,
}

/// One JSON object, whose field names users rely on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RequestSummary {
    #[serde(flatten)]
    pub(super) request: RequestId,
    pub(super) provider: Option<String>,
    pub(super) state: RequestState,
    pub(super) arrived: u64,
    pub(super) expected: Option<u64>,
    /// How many are missing according to the announcement.
    pub(super) missing: Option<u64>,
    pub(super) missing_chunks: MissingChunks,
    #[serde(serialize_with = "millis")]
    pub(super) first_arrival: Option<Timestamp>,
    #[serde(serialize_with = "millis")]
    pub(super) last_arrival: Option<Timestamp>,
    /// Since the last arrival.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub(super) age: Duration,
}

fn millis<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(|at| format!("{at:.3}")).serialize(serializer)
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    time.as_secs().serialize(serializer)
}
