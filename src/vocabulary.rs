//! The event types that Terra is known to send, in one table. The routes, the topics created at the start, the links
//! to fetch, the samples and the table in `config/README.md` come from it. The vocabulary is open: an unknown name is
//! no error.

/// The prefix of the event type in a CloudEvent's `type`.
pub const TYPE_PREFIX: &str = "co.tryterra.";

/// What precedes the endpoint's name in a CloudEvent's `source`.
pub const SOURCE_PREFIX: &str = "/terra/";

/// One of the vendor's event types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The value of the body's type field. Lower-case letters, digits, `.` and `_`: legal in a topic of every bus,
    /// and no two names differ only in `.` and `_`.
    pub name: &'static str,
    pub product: Product,
    pub kind: Kind,
    pub concerns: Concerns,
    /// The member of the body that carries `name`: `event_type` for Vantage, `type` for the others.
    pub type_field: &'static str,
    /// Whether the vendor guarantees that `event_id` belongs to one event, the same in all its deliveries.
    pub identified_by_event_id: bool,
    /// What happened, in a few words.
    pub meaning: &'static str,
    /// What a consumer does with it, in a few words of Markdown.
    pub advice: &'static str,
    /// The vendor's document, and the section or schema in it. "Site" is the vendor's documentation
    /// site, "Guides" its integration guides; such a type has no schema in the OpenAPI documents.
    pub source: &'static str,
}

/// The vendor's product that sends a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    Health,
    LabReports,
    Vantage,
    Teams,
}

impl Product {
    const fn type_field(self) -> &'static str {
        match self {
            Product::Vantage => "event_type",
            Product::Health | Product::LabReports | Product::Teams => "type",
        }
    }

    const fn identifies_by_event_id(self) -> bool {
        match self {
            Product::LabReports | Product::Vantage => true,
            Product::Health | Product::Teams => false,
        }
    }
}

/// The role of an event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A user's data; it may be one payload of a large request.
    Data,
    /// Only a link to the real event, which may be data.
    Link,
    /// Announces a large request, or how much of it follows.
    Announcement,
    Other,
}

/// Which field of the body identifies the user. Any of them may be null or absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// `user.user_id`
    User,
    /// `new_user.user_id`; `old_user` is the record it replaces, and may be null.
    NewUser,
    /// `data.order_id`
    Order,
    /// `coach.coach_id`
    Coach,
    /// `data.coach_id`
    DataCoach,
    /// `data[].coach_id`, if the whole list shares it.
    CoachOfAll,
    /// `data.reference_id`: the customer's own id, not a Terra user.
    DataReference,
    /// `reference_id` at the top: the customer's own id, not a Terra user.
    Reference,
    /// No field.
    Nobody,
}

impl Concerns {
    /// What the key is made of, in Markdown.
    pub const fn key(self) -> &'static str {
        match self {
            Self::User => "`user.user_id`",
            Self::NewUser => "`new_user.user_id`",
            Self::Order => "`data.order_id`",
            Self::Coach => "`coach.coach_id`",
            Self::DataCoach => "`data.coach_id`",
            Self::CoachOfAll => "`data[].coach_id`, shared by all",
            Self::DataReference => "digest of `data.reference_id`",
            Self::Reference => "digest of `reference_id`",
            Self::Nobody => "trace id",
        }
    }
}

/// Every type of the vendor's documents, sorted by name.
#[rustfmt::skip]
pub const KNOWN: &[Known] = {
    use Concerns::{Coach, CoachOfAll, DataCoach, DataReference, NewUser, Nobody, Order, Reference, User};
    use Kind::{Announcement, Data, Link, Other};
    use Product::{Health, LabReports, Teams, Vantage};
    &[
        row("access_revoked", Health, Other, User, "the user withdrew access at the provider", "remove the user, and the data that your policy says", "openapi-v2, AccessRevokedEvent"),
        row("activity", Health, Data, User, "a completed workout", "overwrite by `data[].metadata.summary_id`", "openapi-v2, ActivityEvent"),
        row("activity.dispatched", Teams, Other, Coach, "a team's session, as requested", "match it to your request by `correlationid`", "openapi-teams, DataSentToDestination"),
        row("activity.metric.dispatched", Teams, Other, Coach, "metrics of a team's session, as requested", "match it to your request by `correlationid`", "openapi-teams, DataSentToDestination"),
        row("athlete", Health, Data, User, "the user's profile", "overwrite the user's profile", "openapi-v2, AthleteEvent"),
        row("athlete.registered", Teams, Other, CoachOfAll, "athletes of a coach signed up", "store each `data[].athlete_id` under its `reference_id`", "openapi-teams, AthletesRegistered"),
        row("auth", Health, Other, User, "a user connected an account", "store `user.user_id` under your `reference_id`", "openapi-v2, AuthSuccessEvent"),
        row("auth_cancelled", Health, Other, Reference, "connecting an account failed or was given up", "nothing to store; `reason` says why", "openapi-v2, AuthErrorEvent"),
        row("body", Health, Data, User, "body measurements of a day", "overwrite by `data[].metadata.start_time`", "openapi-v2, BodyEvent"),
        row("coach.registered", Teams, Other, DataCoach, "a coach signed up", "store `data.coach_id` under your `reference_id`", "openapi-teams, CoachRegistered"),
        row("connection_error", Health, Other, User, "the provider refused the stored credentials", "ask the user to connect again, keep the data", "openapi-v2, ConnectionErrorEvent"),
        row("daily", Health, Data, User, "running totals of a day", "overwrite by `data[].metadata.start_time`", "openapi-v2, DailyEvent"),
        row("deauth", Health, Other, User, "the user disconnected an account", "remove the user, and the data that your policy says", "openapi-v2, DeauthEvent"),
        row("google_no_datasource", Health, Other, User, "a Google Fit account without any source of data", "tell the user: requests stay empty until there is one", "Site, Event Types"),
        row("health_observation", Health, Data, User, "symptoms, moods and other observations", "overwrite by `data[].metadata.summary_id`; a status of entered-in-error retracts", "openapi-v2, HealthObservationEvent"),
        row("healthcheck", Health, Other, Nobody, "Terra checks that the destination answers", "nothing; the bridge has answered", "Site, Event Types"),
        row("hormone", Health, Data, User, "hormone readings", "overwrite by `data[].timestamp`", "openapi-v2, HormoneEvent"),
        row("lab_report", LabReports, Other, DataReference, "a lab report, under the name of the destination's setting", "as `lab_report.completed`", "Guides, webhooks; openapi-v2, webhooks, lab_report, says lab_report.completed or .failed"),
        row("lab_report.completed", LabReports, Other, DataReference, "a lab report was read, with its results", "deduplicate by `terraeventid`, overwrite by `data.session_id`", "openapi-v2, LabReportCompletedEvent"),
        row("lab_report.failed", LabReports, Other, DataReference, "a lab report could not be read", "`data.error.retriable`: whether the same file may succeed", "openapi-v2, LabReportFailedEvent"),
        row("large_request_processing", Health, Announcement, User, "more than a month was requested; Terra assembles it", "expect chunks under the same `correlationid`", "openapi-v2, LargeRequestProcessingEvent"),
        row("large_request_sending", Health, Announcement, User, "how many payloads of a large request follow", "count: `expected_payloads` chunks follow under the same `correlationid`", "openapi-v2, LargeRequestSendingEvent"),
        row("menstruation", Health, Data, User, "cycle and flow of a day", "overwrite by `data[].metadata.start_time`", "openapi-v2, MenstruationEvent"),
        row("nutrition", Health, Data, User, "meals and drinks of a day", "overwrite by `data[].metadata.start_time`", "openapi-v2, NutritionEvent"),
        row("order.status_changed", Vantage, Other, Order, "an order moved on", "set the status, unless the `timestamp` is older", "openapi-vantage, OrderStatusChangedEvent"),
        row("order_item.results_status_change", Vantage, Other, Order, "the results of an ordered test moved on", "set the status, unless the `timestamp` is older; an escalation has a deadline", "openapi-vantage, OrderItemResultsStatusChangedEvent"),
        row("order_item.status_changed", Vantage, Other, Order, "an ordered test moved on", "set the status, unless the `timestamp` is older", "openapi-vantage, WebhookDelivery"),
        row("permission_change", Health, Other, User, "the user granted or withdrew scopes", "note the scopes: some types will start or stop", "openapi-v2, PermissionChangeEvent"),
        row("planned_workout", Health, Data, User, "a workout planned for a day", "overwrite by `data[].planned_workout_id`", "openapi-v2, PlannedWorkoutEvent"),
        row("processing", Health, Other, User, "the provider still prepares the data", "nothing; it comes, or ask after `retry_after_seconds`", "Site, Event Types"),
        row("rate_limit_hit", Health, Other, User, "the provider limits requests; Terra tries again", "nothing; Terra tries again", "Site, Event Types"),
        row("route", Health, Data, User, "a route", "store it; the vendor publishes no schema", "Guides, webhooks"),
        row("s3_payload", Health, Link, Nobody, "a link to an event too large to send", "`terraunfetched` says why the bridge did not follow it: get `url` within `expires_in` seconds; it is a credential", "openapi-v2, S3PayloadEvent"),
        row("s3_upload", Health, Link, Nobody, "a link to an event, under the name of the destination's setting", "as `s3_payload`", "Site, Event Types; openapi-v2, webhooks, s3_upload, says s3_payload"),
        row("sleep", Health, Data, User, "a night or a nap", "overwrite by `data[].metadata.summary_id`", "openapi-v2, SleepEvent"),
        row("test.dispatched", Teams, Other, Coach, "athletes' tests, as requested", "match it to your request by `correlationid`", "openapi-teams, DataSentToDestination"),
        row("user_reauth", Health, Other, NewUser, "the user connected again and has a new id", "move what you keep from `old_user.user_id` to `new_user.user_id`", "openapi-v2, UserReauthEvent"),
    ]
};

const fn row(
    name: &'static str,
    product: Product,
    kind: Kind,
    concerns: Concerns,
    meaning: &'static str,
    advice: &'static str,
    source: &'static str,
) -> Known {
    let (type_field, identified_by_event_id) = (product.type_field(), product.identifies_by_event_id());
    Known { name, product, kind, concerns, type_field, identified_by_event_id, meaning, advice, source }
}

/// The row of a type, or `None` for an unknown one. The match is exact: case and spaces count.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.binary_search_by(|known| known.name.cmp(name)).ok().map(|at| &KNOWN[at])
}

fn kind(name: &str) -> Option<Kind> {
    known(name).map(|known| known.kind)
}

/// Whether events of this type are only links to the real ones.
pub fn is_link(name: &str) -> bool {
    kind(name) == Some(Kind::Link)
}

/// Whether events of this type announce a large request.
pub fn is_announcement(name: &str) -> bool {
    kind(name) == Some(Kind::Announcement)
}

/// Whether the type may be one payload of a large request: a user's data, or a link to it. An unknown type may be
/// that, too.
pub fn may_carry_data(name: &str) -> bool {
    matches!(kind(name), Some(Kind::Data | Kind::Link) | None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_sorted_and_unique() {
        for pair in KNOWN.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
        }
    }

    #[test]
    fn every_name_is_legal_in_a_topic() {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        for known in KNOWN {
            assert!(!known.name.is_empty() && known.name.bytes().all(legal), "{}", known.name);
            // An empty token is illegal in a NATS subject.
            assert!(known.name.split('.').all(|token| !token.is_empty()), "{}", known.name);
        }
    }

    #[test]
    fn no_two_names_collide_in_kafka_metrics() {
        let mut seen = HashSet::new();
        for known in KNOWN {
            assert!(seen.insert(known.name.replace('.', "_")), "{}", known.name);
        }
    }

    #[test]
    fn every_name_finds_its_own_row() {
        for row in KNOWN {
            assert_eq!(known(row.name), Some(row));
        }
    }

    #[test]
    fn an_unknown_name_finds_nothing() {
        for name in ["", "a", "Activity", " activity", "activity.", "coach.unregistered", "zzz"] {
            assert_eq!(known(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_table_holds_every_type_of_the_vendors_documents() {
        use Kind::{Announcement, Data, Link, Other};
        use Product::{Health, LabReports, Teams, Vantage};
        let of = |product, kind| -> Vec<_> {
            let rows = KNOWN.iter().filter(|known| (known.product, known.kind) == (product, kind));
            rows.map(|known| known.name).collect()
        };
        let mut rest = KNOWN.len();
        for (product, kind, names) in [
            (
                Health,
                Data,
                "activity athlete body daily health_observation hormone menstruation nutrition planned_workout route \
                 sleep",
            ),
            (Health, Link, "s3_payload s3_upload"),
            (Health, Announcement, "large_request_processing large_request_sending"),
            (
                Health,
                Other,
                "access_revoked auth auth_cancelled connection_error deauth google_no_datasource healthcheck \
                 permission_change processing rate_limit_hit user_reauth",
            ),
            (LabReports, Other, "lab_report lab_report.completed lab_report.failed"),
            (Vantage, Other, "order.status_changed order_item.results_status_change order_item.status_changed"),
            (
                Teams,
                Other,
                "activity.dispatched activity.metric.dispatched athlete.registered coach.registered test.dispatched",
            ),
        ] {
            let names: Vec<_> = names.split_whitespace().collect();
            assert_eq!(of(product, kind), names);
            rest -= names.len();
        }
        assert_eq!(rest, 0, "another kind of a product");
    }

    fn documented_table() -> String {
        let page = include_str!("../config/README.md");
        let (_, section) = page.split_once("\n## Event types\n").expect("a section of event types");
        let lines = section.lines().skip_while(|line| !line.starts_with('|'));
        lines.take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect()
    }

    fn table() -> String {
        let mut table =
            "| topic | what happened | key: whom it concerns | what to do with it |\n|---|---|---|---|\n".to_owned();
        for known in KNOWN {
            let Known { name, meaning, advice, .. } = known;
            let key = known.concerns.key();
            table += &format!("| `terra.{name}` | {meaning} | {key} | {advice} |\n");
        }
        table
    }

    #[test]
    fn the_documented_table_is_this_one() {
        assert!(documented_table() == table(), "config/README.md's table of event types should be:\n\n{}", table());
    }

    #[test]
    fn vantage_alone_names_its_type_elsewhere() {
        for known in KNOWN {
            let expected = if known.product == Product::Vantage { "event_type" } else { "type" };
            assert_eq!(known.type_field, expected, "{}", known.name);
        }
    }

    #[test]
    fn a_payload_of_a_large_request_is_data_a_link_or_an_unknown_type() {
        for (name, data, link, announcement) in [
            ("daily", true, false, false),
            ("s3_upload", true, true, false),
            ("large_request_sending", false, false, true),
            ("lab_report.completed", false, false, false),
            ("auth", false, false, false),
            ("brand.new", true, false, false),
        ] {
            let actual = (may_carry_data(name), is_link(name), is_announcement(name));
            assert_eq!(actual, (data, link, announcement), "{name}");
        }
    }
}
