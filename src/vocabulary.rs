//! The event types Terra is known to send, in one table: the name, the product, which field says whom it
//! concerns, a few words for people, and where the vendor says so. From it come the routes, the topics
//! made at the start, the samples and the README's table.
//! The vocabulary is open: a name that is not here is no error. Knows no routes and reads no bodies.

/// One event type of the vendor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What the body's type field says. Lower-case letters, digits, `.` and `_`: legal in a topic of
    /// every bus, and no two names differ only in `.` and `_`.
    pub name: &'static str,
    pub product: Product,
    pub concerns: Concerns,
    /// The member of the body that carries `name`: `event_type` for Vantage, `type` for the others.
    pub type_field: &'static str,
    /// What happened, in a few words.
    pub meaning: &'static str,
    /// What a consumer does with it, in a few words of Markdown.
    pub advice: &'static str,
    /// The vendor's document, and the section or schema in it. "Site" is the vendor's documentation
    /// site, "Guides" its integration guides; such a type has no schema in the OpenAPI documents.
    pub source: &'static str,
}

/// The product of the vendor's that sends a type.
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
}

/// Which field of the body says whom the event concerns. Any of them may be null or absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// `user.user_id`
    User,
    /// `new_user.user_id`; `old_user` is the record it replaces, and may be null.
    NewUser,
    /// `data.order_id`
    Order,
    /// `data.reference_id`: the customer's own id, no user of Terra's.
    DataReference,
    /// `reference_id` at the top: the customer's own id, no user of Terra's.
    Reference,
    /// No field does.
    Nobody,
}

/// Every type of the vendor's documents, sorted by name.
#[rustfmt::skip]
pub const KNOWN: &[Known] = {
    use Concerns::{DataReference, NewUser, Nobody, Order, Reference, User};
    use Product::{Health, LabReports, Teams, Vantage};
    &[
        row("access_revoked", Health, User, "the user withdrew access at the provider", "remove the user, and the data that your policy says", "openapi-v2, AccessRevokedEvent"),
        row("activity", Health, User, "a completed workout", "overwrite by `metadata.summary_id`", "openapi-v2, ActivityEvent"),
        row("activity.dispatched", Teams, Nobody, "a team's session, as requested", "match it to your request by `terra-reference`", "openapi-teams, DataSentToDestination"),
        row("activity.metric.dispatched", Teams, Nobody, "metrics of a team's session, as requested", "match it to your request by `terra-reference`", "openapi-teams, DataSentToDestination"),
        row("athlete", Health, User, "the user's profile", "overwrite the user's profile", "openapi-v2, AthleteEvent"),
        row("athlete.registered", Teams, Nobody, "athletes of a coach signed up", "store each `data[].athlete_id` under its `reference_id`", "openapi-teams, AthletesRegistered"),
        row("auth", Health, User, "a user connected an account", "store `user.user_id` under your `reference_id`", "openapi-v2, AuthSuccessEvent"),
        row("auth_cancelled", Health, Reference, "connecting an account failed or was given up", "nothing to store; `reason` says why", "openapi-v2, AuthErrorEvent"),
        row("body", Health, User, "body measurements of a day", "overwrite by `metadata.start_time`", "openapi-v2, BodyEvent"),
        row("coach.registered", Teams, DataReference, "a coach signed up", "store `data.coach_id` under your `reference_id`", "openapi-teams, CoachRegistered"),
        row("connection_error", Health, User, "the provider refused the stored credentials", "ask the user to connect again, keep the data", "openapi-v2, ConnectionErrorEvent"),
        row("daily", Health, User, "running totals of a day", "overwrite by `metadata.start_time`", "openapi-v2, DailyEvent"),
        row("deauth", Health, User, "the user disconnected an account", "remove the user, and the data that your policy says", "openapi-v2, DeauthEvent"),
        row("google_no_datasource", Health, User, "a Google Fit account without any source of data", "tell the user: requests stay empty until there is one", "Site, Event Types"),
        row("health_observation", Health, User, "symptoms, moods and other observations", "overwrite by `metadata.summary_id`; a status of entered-in-error retracts", "openapi-v2, HealthObservationEvent"),
        row("healthcheck", Health, Nobody, "Terra checks that the destination answers", "nothing; the bridge has answered", "Site, Event Types"),
        row("hormone", Health, User, "hormone readings", "overwrite by `timestamp`", "openapi-v2, HormoneEvent"),
        row("lab_report", LabReports, DataReference, "a lab report, under the name of the destination's setting", "as `lab_report.completed`", "Guides, webhooks; openapi-v2, webhooks, lab_report, says lab_report.completed or .failed"),
        row("lab_report.completed", LabReports, DataReference, "a lab report was read, with its results", "deduplicate by `terra-event-id`, overwrite by `data.session_id`", "openapi-v2, LabReportCompletedEvent"),
        row("lab_report.failed", LabReports, DataReference, "a lab report could not be read", "`data.error.retriable`: whether the same file may succeed", "openapi-v2, LabReportFailedEvent"),
        row("large_request_processing", Health, User, "more than a month was requested; Terra assembles it", "expect chunks under the same `terra-reference`", "openapi-v2, LargeRequestProcessingEvent"),
        row("large_request_sending", Health, User, "how many payloads of a large request follow", "count: `expected_payloads` chunks follow under the same `terra-reference`", "openapi-v2, LargeRequestSendingEvent"),
        row("menstruation", Health, User, "cycle and flow of a day", "overwrite by `metadata.start_time`", "openapi-v2, MenstruationEvent"),
        row("nutrition", Health, User, "meals and drinks of a day", "overwrite by `metadata.start_time`", "openapi-v2, NutritionEvent"),
        row("order.status_changed", Vantage, Order, "an order moved on", "set the status, unless the `timestamp` is older", "openapi-vantage, OrderStatusChangedEvent"),
        row("order_item.results_status_change", Vantage, Order, "the results of an ordered test moved on", "set the status, unless the `timestamp` is older; an escalation has a deadline", "openapi-vantage, OrderItemResultsStatusChangedEvent"),
        row("order_item.status_changed", Vantage, Order, "an ordered test moved on", "set the status, unless the `timestamp` is older", "openapi-vantage, WebhookDelivery"),
        row("permission_change", Health, User, "the user granted or withdrew scopes", "note the scopes: some types will start or stop", "openapi-v2, PermissionChangeEvent"),
        row("planned_workout", Health, User, "a workout planned for a day", "overwrite by `planned_workout_id`", "openapi-v2, PlannedWorkoutEvent"),
        row("processing", Health, User, "the provider still prepares the data", "nothing; it comes, or ask after `retry_after_seconds`", "Site, Event Types"),
        row("rate_limit_hit", Health, User, "the provider limits requests; Terra tries again", "nothing; Terra tries again", "Site, Event Types"),
        row("route", Health, User, "a route", "store it; the vendor publishes no schema", "Guides, webhooks"),
        row("s3_payload", Health, Nobody, "a link to an event too large to send", "`terra-unfetched-reason` says why the bridge did not follow it: get `url` within `expires_in` seconds; it is a credential", "openapi-v2, S3PayloadEvent"),
        row("s3_upload", Health, Nobody, "a link to an event, under the name of the destination's setting", "as `s3_payload`", "Site, Event Types; openapi-v2, webhooks, s3_upload, says s3_payload"),
        row("sleep", Health, User, "a night or a nap", "overwrite by `metadata.summary_id`", "openapi-v2, SleepEvent"),
        row("test.dispatched", Teams, Nobody, "athletes' tests, as requested", "match it to your request by `terra-reference`", "openapi-teams, DataSentToDestination"),
        row("user_reauth", Health, NewUser, "the user connected again and has a new id", "move what you keep from `old_user.user_id` to `new_user.user_id`", "openapi-v2, UserReauthEvent"),
    ]
};

const fn row(
    name: &'static str,
    product: Product,
    concerns: Concerns,
    meaning: &'static str,
    advice: &'static str,
    source: &'static str,
) -> Known {
    let type_field = product.type_field();
    Known { name, product, concerns, type_field, meaning, advice, source }
}

/// The row of a type, or `None` for one that Terra sends without it being known here. Exact: neither
/// case nor spaces are forgiven.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.binary_search_by(|known| known.name.cmp(name)).ok().map(|at| &KNOWN[at])
}

/// What one payload of a large request is: a user's data, or a link to it. A stranger may be that, too.
pub fn may_carry_data(name: &str) -> bool {
    let data = matches!(
        name,
        "activity"
            | "athlete"
            | "body"
            | "daily"
            | "hormone"
            | "health_observation"
            | "menstruation"
            | "nutrition"
            | "planned_workout"
            | "route"
            | "sleep"
            | "s3_payload"
            | "s3_upload"
    );
    data || known(name).is_none()
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
    fn the_table_holds_every_type_of_the_contract() {
        let of = |product| KNOWN.iter().filter(|known| known.product == product).count();
        assert_eq!(of(Product::Health), 11 + 8 + 7, "data, authentication, operational");
        assert_eq!(of(Product::LabReports), 3);
        assert_eq!(of(Product::Vantage), 3);
        assert_eq!(of(Product::Teams), 2 + 3, "registrations, dispatches");
    }

    fn table_of_the_readme() -> String {
        let readme = include_str!("../README.md");
        let (_, section) = readme.split_once("\n## Event types\n").expect("a section of event types");
        let lines = section.lines().skip_while(|line| !line.starts_with('|'));
        lines.take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect()
    }

    fn table() -> String {
        let mut table =
            "| topic | what happened | key: whom it concerns | what to do with it |\n|---|---|---|---|\n".to_owned();
        for known in KNOWN {
            let Known { name, meaning, advice, .. } = known;
            let key = match known.concerns {
                Concerns::User => "`user.user_id`",
                Concerns::NewUser => "`new_user.user_id`",
                Concerns::Order => "`data.order_id`",
                Concerns::DataReference => "digest of `data.reference_id`",
                Concerns::Reference => "digest of `reference_id`",
                Concerns::Nobody => "trace id",
            };
            table += &format!("| `terra.{name}` | {meaning} | {key} | {advice} |\n");
        }
        table
    }

    #[test]
    fn the_table_of_the_readme_is_this_one() {
        assert!(table_of_the_readme() == table(), "the README's table of event types should be:\n\n{}", table());
    }

    #[test]
    fn vantage_alone_names_its_type_elsewhere() {
        for known in KNOWN {
            let expected = if known.product == Product::Vantage { "event_type" } else { "type" };
            assert_eq!(known.type_field, expected, "{}", known.name);
        }
    }

    #[test]
    fn data_and_links_to_it_are_thirteen_of_the_known_types() {
        let data: Vec<_> = KNOWN.iter().filter(|known| may_carry_data(known.name)).collect();
        assert_eq!(data.len(), 11 + 2, "of the contract");
        assert!(data.iter().all(|known| known.product == Product::Health));
        assert!(may_carry_data("brand.new"));
    }
}
