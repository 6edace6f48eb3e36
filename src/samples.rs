//! One sample body per known event type, for `send`, the try-out and the tests.
//!
//! Every value is invented; the shapes are the vendor's. Compact and spaced JSON, raw and escaped non-ASCII text are
//! mixed on purpose.

/// A body as Terra would send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The value of the body's type field.
    pub name: &'static str,
    /// One line of JSON without a final newline.
    pub body: &'static str,
}

macro_rules! samples {
    ($($name:literal,)*) => {
        &[$(Sample { name: $name, body: include_str!(concat!("samples/", $name, ".json")) },)*]
    };
}

/// One sample per row of [`KNOWN`](crate::vocabulary::KNOWN), in its order.
#[rustfmt::skip]
pub const SAMPLES: &[Sample] = samples![
    "access_revoked",
    "activity",
    "activity.dispatched",
    "activity.metric.dispatched",
    "athlete",
    "athlete.registered",
    "auth",
    "auth_cancelled",
    "body",
    "coach.registered",
    "connection_error",
    "daily",
    "deauth",
    "google_no_datasource",
    "health_observation",
    "healthcheck",
    "hormone",
    "lab_report",
    "lab_report.completed",
    "lab_report.failed",
    "large_request_processing",
    "large_request_sending",
    "menstruation",
    "nutrition",
    "order.status_changed",
    "order_item.results_status_change",
    "order_item.status_changed",
    "permission_change",
    "planned_workout",
    "processing",
    "rate_limit_hit",
    "route",
    "s3_payload",
    "s3_upload",
    "sleep",
    "test.dispatched",
    "user_reauth",
];

/// The sample of a type; `None` exactly where [`known`](crate::vocabulary::known) says `None`.
pub fn sample(name: &str) -> Option<&'static Sample> {
    SAMPLES.binary_search_by(|sample| sample.name.cmp(name)).ok().map(|at| &SAMPLES[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Concerns, KNOWN};
    use serde_json::Value;
    use std::collections::HashSet;

    fn json(sample: &Sample) -> Value {
        serde_json::from_str(sample.body).unwrap_or_else(|e| panic!("{}: {e}", sample.name))
    }

    fn text<'a>(body: &'a Value, pointer: &str) -> Option<&'a str> {
        body.pointer(pointer).and_then(Value::as_str)
    }

    #[test]
    fn every_known_type_has_exactly_one_sample() {
        let known: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
        let samples: Vec<_> = SAMPLES.iter().map(|sample| sample.name).collect();
        assert_eq!(samples, known);
        for name in known {
            assert_eq!(sample(name).map(|sample| sample.name), Some(name));
        }
        assert_eq!(sample("coach.unregistered"), None);
    }

    #[test]
    fn every_sample_has_its_own_type() {
        for (known, sample) in KNOWN.iter().zip(SAMPLES) {
            let body = json(sample);
            let (other, field) = match known.type_field {
                "type" => ("event_type", "type"),
                _ => ("type", "event_type"),
            };
            assert_eq!(body[field], known.name);
            assert_eq!(body.get(other), None, "{}", known.name);
        }
    }

    #[test]
    fn every_sample_identifies_its_user_as_the_table_says() {
        for (known, sample) in KNOWN.iter().zip(SAMPLES) {
            let body = json(sample);
            let says = |pointer| text(&body, pointer).is_some();
            let found = [
                (says("/user/user_id"), Concerns::User),
                (says("/new_user/user_id"), Concerns::NewUser),
                (says("/data/order_id"), Concerns::Order),
                (says("/coach/coach_id"), Concerns::Coach),
                (says("/data/coach_id"), Concerns::DataCoach),
                (says("/data/0/coach_id"), Concerns::CoachOfAll),
                (says("/data/reference_id") && !says("/data/coach_id"), Concerns::DataReference),
                (says("/reference_id"), Concerns::Reference),
            ];
            let expected = found.map(|(_, concerns)| (concerns == known.concerns, concerns));
            assert_eq!(found, expected, "{}", known.name);
        }
    }

    #[test]
    fn every_sample_is_one_line() {
        for sample in SAMPLES {
            assert!(sample.body.starts_with('{') && sample.body.ends_with('}'), "{}", sample.name);
            assert!(!sample.body.contains(['\n', '\r']), "{}", sample.name);
        }
    }

    #[test]
    fn several_users_appear_and_one_large_request_has_two_events() {
        let users: HashSet<_> =
            SAMPLES.iter().filter_map(|sample| text(&json(sample), "/user/user_id").map(str::to_owned)).collect();
        assert!(users.len() >= 4, "{users:?}");

        let [processing, sending] =
            ["large_request_processing", "large_request_sending"].map(|name| json(sample(name).expect("known")));
        assert_eq!(processing["reference"], sending["reference"]);
        assert!(sending["expected_payloads"].is_u64());
    }
}
