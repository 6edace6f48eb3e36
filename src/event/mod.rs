//! Reads what a delivery reports: an [`Event`], or a [`DeadLetter`] if the body cannot be read. One pass over the
//! bytes, no tree; the payload stays untouched. `fields` reads one JSON object.

mod fields;

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use strum::EnumIter;

use crate::config::Secret;
use crate::payload::Payload;
use crate::signature::Delivery;
use crate::vocabulary::{Concerns, is_link, known};
pub(crate) use fields::count;
use fields::{Fields, filled, id, string};

/// The longest validity that S3 signs a link for: seven days.
const LONGEST_OPEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A delivery whose type is known.
#[derive(Clone)]
pub struct Event {
    delivery: Delivery,
    facts: Facts,
    fetched: Option<Fetched>,
}

/// A delivery that Terra signed but whose body cannot be read.
pub struct DeadLetter {
    delivery: Delivery,
    reason: Unreadable,
    fetched: Option<Fetched>,
}

/// The event that a delivery's link led to.
#[derive(Clone)]
struct Fetched {
    payload: Payload,
    /// The facts in the delivery's own body.
    signed: Facts,
}

/// A link to the real event. It is a credential: anyone who has it can read the event until it expires.
#[derive(Debug, Clone)]
pub struct Link {
    url: Secret,
    expires_in: Duration,
}

impl Link {
    /// Empty if the event has no URL.
    pub fn url(&self) -> &Secret {
        &self.url
    }

    /// Counted from the moment when Terra emitted the event; zero if the event does not say.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }
}

/// Why a signed body is not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter)]
pub enum Unreadable {
    NotUtf8,
    NotJson,
    NotAnObject,
    NoType,
}

impl Unreadable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not-utf8",
            Self::NotJson => "not-json",
            Self::NotAnObject => "not-an-object",
            Self::NoType => "no-type",
        }
    }
}

/// The facts in the body; any but the type may be missing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Facts {
    pub event_type: String,
    pub event_id: Option<String>,
    pub user: Person,
    pub new_user: Person,
    /// From `data`, which is read only where the body names no user.
    pub order_id: Option<String>,
    /// Terra's own id of a coach: from `coach`; else, as `order_id`, from `data`, or the one that all athletes in a list
    /// share.
    pub coach_id: Option<String>,
    /// Lab reports only; as `order_id`.
    pub session_id: Option<String>,
    /// As `order_id`, else the top-level one. The customer's own id: it leaves this process only in the payload.
    pub reference_id: Option<String>,
}

/// A user object in the body.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Person {
    pub user_id: Option<String>,
    pub provider: Option<String>,
}

/// Whether a payload can be read as an event.
///
/// # Errors
/// Why not.
pub(crate) fn readable(payload: &[u8]) -> Result<(), Unreadable> {
    read(payload).map(drop)
}

impl Event {
    /// Reads the type, and the user if there is one. Lenient: a field of an unexpected type counts as absent, and the
    /// last of duplicate keys counts.
    ///
    /// # Errors
    /// The delivery itself, as a dead letter.
    pub fn read(delivery: Delivery) -> Result<Self, DeadLetter> {
        match read(delivery.payload().bytes()) {
            Ok(facts) => Ok(Self { delivery, facts, fetched: None }),
            Err(reason) => Err(DeadLetter { delivery, reason, fetched: None }),
        }
    }

    /// The link that stands in for the real event; `None` if this is the real one.
    pub fn link(&self) -> Option<Link> {
        if !is_link(&self.facts.event_type) {
            return None;
        }
        let text = std::str::from_utf8(self.payload().bytes()).ok()?;
        let Fields([url, expires_in]) = Fields::read(text, ["url", "expires_in"])?;
        let seconds = expires_in.and_then(count).unwrap_or(0);
        let expires_in = Duration::from_secs(seconds).min(LONGEST_OPEN);
        Some(Link { url: Secret::new(string(url).unwrap_or_default()), expires_in })
    }

    /// The event that was fetched from this event's link.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn fetched(&self, payload: Payload) -> Result<Self, DeadLetter> {
        let (delivery, read) = (self.delivery.clone(), read(payload.bytes()));
        let fetched = Some(Fetched { payload, signed: self.facts.clone() });
        match read {
            Ok(facts) => Ok(Self { delivery, facts, fetched }),
            Err(reason) => Err(DeadLetter { delivery, reason, fetched }),
        }
    }

    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The facts in the bytes that Terra signed: for a fetched event, those of its link.
    pub fn signed_facts(&self) -> &Facts {
        self.fetched.as_ref().map_or(&self.facts, |fetched| &fetched.signed)
    }

    pub fn is_fetched(&self) -> bool {
        self.fetched.is_some()
    }

    fn payload(&self) -> &Payload {
        self.fetched.as_ref().map_or(self.delivery.payload(), |fetched| &fetched.payload)
    }

    /// The bytes to publish.
    pub fn into_payload(self) -> Payload {
        self.fetched.map_or_else(|| self.delivery.into_payload(), |fetched| fetched.payload)
    }
}

impl DeadLetter {
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    pub fn reason(&self) -> Unreadable {
        self.reason
    }

    /// The facts in the bytes that Terra signed, if those could be read.
    pub fn signed_facts(&self) -> Option<&Facts> {
        self.fetched.as_ref().map(|fetched| &fetched.signed)
    }

    /// The bytes to publish.
    pub fn into_payload(self) -> Payload {
        self.fetched.map_or_else(|| self.delivery.into_payload(), |fetched| fetched.payload)
    }
}

fn read(bytes: &[u8]) -> Result<Facts, Unreadable> {
    // First, because serde_json skips strings without checking that they are UTF-8.
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8)?;
    let fields = Fields::<8>::read(text, BODY).ok_or_else(|| what_else(text))?;
    let [by_type, by_event_type, event_id, reference_id, user, new_user, coach, data] = fields.0;
    let event_type = filled(by_type).or_else(|| filled(by_event_type)).ok_or(Unreadable::NoType)?;
    let (user, new_user) = (person(user), person(new_user));
    // Nearly all of a body, for which one pass is enough.
    let data = data.filter(|_| user.user_id.is_none() && new_user.user_id.is_none());
    let athletes = data.filter(|_| known(&event_type).is_some_and(|known| known.concerns == Concerns::CoachOfAll));
    let Fields([order_id, data_reference_id, data_coach_id, session_id]) =
        data.and_then(|data| Fields::read(data, DATA)).unwrap_or_default();
    Ok(Facts {
        event_type,
        event_id: id(event_id),
        user,
        new_user,
        order_id: id(order_id),
        coach_id: coach_id(coach).or_else(|| id(data_coach_id)).or_else(|| coach_of_all(athletes?)),
        session_id: id(session_id),
        reference_id: id(data_reference_id).or_else(|| id(reference_id)),
    })
}

/// Why a text that is not a JSON object is unreadable.
fn what_else(text: &str) -> Unreadable {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Unreadable::NotAnObject,
        Err(_) => Unreadable::NotJson,
    }
}

const BODY: [&str; 8] = ["type", "event_type", "event_id", "reference_id", "user", "new_user", "coach", "data"];
const DATA: [&str; 4] = ["order_id", "reference_id", "coach_id", "session_id"];
const PERSON: [&str; 2] = ["user_id", "provider"];

fn person(raw: Option<&str>) -> Person {
    let fields = raw.and_then(|raw| Fields::<2>::read(raw, PERSON)).unwrap_or_default();
    Person { user_id: id(fields.0[0]), provider: id(fields.0[1]) }
}

/// The id of a coach, or of the coach of an athlete.
fn coach_id(raw: Option<&str>) -> Option<String> {
    let Fields([coach_id]) = Fields::read(raw?, ["coach_id"])?;
    id(coach_id)
}

/// The id that every member of a list names.
fn coach_of_all(athletes: &str) -> Option<String> {
    serde_json::Deserializer::from_str(athletes).deserialize_seq(CoachOfAll).ok()?
}

/// Returns an error at the first member that differs.
struct CoachOfAll;

impl<'de> Visitor<'de> for CoachOfAll {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("athletes of one coach")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut athletes: A) -> Result<Self::Value, A::Error> {
        let mut shared = None;
        while let Some(athlete) = athletes.next_element::<&RawValue>()? {
            let coach = coach_id(Some(athlete.get()));
            if coach.is_none() || shared.as_ref().is_some_and(|_| shared != coach) {
                return Err(A::Error::custom("no one coach"));
            }
            shared = coach;
        }
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signature::tests::delivery;

    fn of(text: &str) -> Facts {
        read(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_type_is_found_wherever_and_however_it_is_written() {
        for body in [
            r#"{"type":"daily"}"#,
            "\r\n\t { \"user\" : null , \"type\" : \"daily\" } \n",
            r#"{"data":[{"type":"sleep"}],"type":"\u0064aily"}"#,
            r#"{"t\u0079pe":"daily"}"#,
            r#"{"type":"sleep","type":"daily"}"#,
            r#"{"event_type":"daily"}"#,
            r#"{"type":null,"event_type":"daily"}"#,
            r#"{"event_type":"sleep","type":"daily"}"#,
            r#"{"\ud800":"\udfff","data":"\ud800","type":"daily"}"#,
            r#"{"n":1e999999,"m":-0.00000000000000000000000000000000000001E-99,"data":1e999,"type":"daily"}"#,
        ] {
            assert_eq!(of(body).event_type, "daily", "{body}");
        }
    }

    #[test]
    fn deep_nesting_is_read() {
        let depth = 100_000;
        let body = format!(r#"{{"data":{}{},"type":"daily"}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(of(&body).event_type, "daily");
        let body = format!(r#"{{"data":{}1{},"type":"daily"}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert_eq!(of(&body).event_type, "daily");
    }

    #[test]
    fn the_user_is_read_from_every_shape() {
        let facts =
            of(r#"{"type":"daily","event_id":"e1","user":{"provider":"OURA","user_id":"u1","reference_id":"r0"},
                "new_user":{"user_id":7},"data":{"order_id":"o1","reference_id":"r1"},"reference_id":"r2"}"#);
        assert_eq!(facts.event_id.as_deref(), Some("e1"));
        assert_eq!(facts.user, Person { user_id: Some("u1".into()), provider: Some("OURA".into()) });
        assert_eq!(facts.new_user.user_id.as_deref(), Some("7"));
        assert_eq!((facts.order_id, facts.reference_id.as_deref()), (None, Some("r2")), "a user is enough");
        let facts =
            of(r#"{"type":"daily","user":{},"data":{"order_id":"o1","reference_id":"r1"},"reference_id":"r2"}"#);
        assert_eq!((facts.order_id.as_deref(), facts.reference_id.as_deref()), (Some("o1"), Some("r1")));
        assert_eq!(of(r#"{"type":"a","reference_id":"r2","data":[]}"#).reference_id.as_deref(), Some("r2"));
    }

    #[test]
    fn the_coach_is_read_from_every_shape_of_teams() {
        let coach = |body: &str| of(body).coach_id;
        for (body, found) in [
            (
                r#"{"type":"test.dispatched","coach":{"coach_id":"c1"},"data":[{"athlete":{"coach_id":"c2"}}]}"#,
                Some("c1"),
            ),
            (r#"{"type":"coach.registered","data":{"coach_id":"c1","reference_id":"r"}}"#, Some("c1")),
            (r#"{"type":"brand.new","coach":{"coach_id":"c1"},"data":{"coach_id":"c2"}}"#, Some("c1")),
            (r#"{"type":"athlete.registered","data":[{"coach_id":"c1"},{"coach_id":"\u00631"}]}"#, Some("c1")),
            (r#"{"type":"athlete.registered","data":[{"coach_id":"c1"},{"coach_id":"c2"}]}"#, None),
            (r#"{"type":"athlete.registered","data":[{"coach_id":"c1"},{"coach_id":null}]}"#, None),
            (r#"{"type":"athlete.registered","data":[{"coach_id":null},{"coach_id":"c1"}]}"#, None),
            (r#"{"type":"athlete.registered","data":[{"coach_id":"c1"},7]}"#, None),
            (r#"{"type":"athlete.registered","data":[]}"#, None),
            (r#"{"type":"athlete.registered","data":"c1"}"#, None),
            (r#"{"type":"daily","data":[{"coach_id":"c1"}]}"#, None),
            (r#"{"type":"test.dispatched","coach":["c1"]}"#, None),
        ] {
            assert_eq!(coach(body).as_deref(), found, "{body}");
        }
    }

    #[test]
    fn a_field_of_another_type_counts_as_absent() {
        for odd in ["null", "true", "[]", "[\"u1\"]", "1e999", "-1", "\"\"", "{\"user_id\":\"x\"}"] {
            let facts = of(&format!(
                r#"{{"type":"daily","user":{{"user_id":{odd}}},"new_user":{odd},"event_id":{odd},"coach":{odd},"data":{odd}}}"#
            ));
            assert_eq!(facts.user.user_id, None, "{odd}");
            assert_eq!(facts.event_id, None, "{odd}");
            assert_eq!((facts.order_id, facts.coach_id, facts.session_id), (None, None, None), "{odd}");
        }
    }

    #[test]
    fn an_unreadable_body_says_why() {
        for (body, reason) in [
            (&b"\xff{}"[..], Unreadable::NotUtf8),
            (b"{\"type\":\"daily\",\"a\":\"\xc3\x28\"}", Unreadable::NotUtf8),
            (b"", Unreadable::NotJson),
            (b"{", Unreadable::NotJson),
            (b"{\"type\":\"daily\"", Unreadable::NotJson),
            (b"{\"type\":\"daily\"} x", Unreadable::NotJson),
            (b"{\"type\":\"daily\",}", Unreadable::NotJson),
            (b"{'type':'daily'}", Unreadable::NotJson),
            (b"\xef\xbb\xbf{\"type\":\"daily\"}", Unreadable::NotJson),
            (b"[{\"type\":\"daily\"}]", Unreadable::NotAnObject),
            (b"\"daily\"", Unreadable::NotAnObject),
            (b"null", Unreadable::NotAnObject),
            (b"{}", Unreadable::NoType),
            (b"{\"type\":7}", Unreadable::NoType),
            (b"{\"type\":\"\"}", Unreadable::NoType),
            (b"{\"type\":\"\\ud800\"}", Unreadable::NoType),
            (b"{\"Type\":\"daily\"}", Unreadable::NoType),
        ] {
            assert_eq!(read(body), Err(reason), "{}", body.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }

        /// An object with a type, according to a reader that builds a tree, is an event of that type.
        #[test]
        fn it_agrees_with_a_reader_that_builds_a_tree(text in r#"[ \{]\{?("(type|event_type|a)":("x"|1|null|\{\}|\["y"\]),?){0,4}\}?"#) {
            let expected = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|tree| {
                let tree = tree.as_object()?.clone();
                let of = |key: &str| tree.get(key)?.as_str().map(str::to_owned);
                of("type").or_else(|| of("event_type"))
            });
            prop_assert_eq!(read(text.as_bytes()).ok().map(|facts| facts.event_type), expected);
        }
    }

    #[test]
    fn a_link_has_its_url_and_expiry_if_the_body_gives_them() {
        let link = |body: &str| {
            let Ok(event) = Event::read(delivery(body.as_bytes(), http::HeaderMap::new())) else { panic!("readable") };
            event.link().map(|link| (String::from_utf8(link.url.expose().to_vec()).unwrap(), link.expires_in.as_secs()))
        };
        let is = |url: &str, seconds| Some((url.to_owned(), seconds));
        assert_eq!(link(r#"{"type":"s3_payload","url":"https:\/\/a","expires_in":300}"#), is("https://a", 300));
        assert_eq!(link(r#"{"type":"s3_upload","url":"https://a","expires_in":"600"}"#), is("https://a", 600));
        for written in ["300.0", "3e2", "0.3E+3", "\"300.0\"", "\" 300 \""] {
            let body = format!(r#"{{"type":"s3_payload","url":"https://a","expires_in":{written}}}"#);
            assert_eq!(link(&body), is("https://a", 300), "{written}");
        }
        for odd in ["-300", "299.5", "null", "true", "[300]", "\"soon\"", "\"inf\"", "\"\""] {
            let body = format!(r#"{{"type":"s3_payload","url":"https://a","expires_in":{odd}}}"#);
            assert_eq!(link(&body), is("https://a", 0), "{odd}");
        }
        assert_eq!(link(r#"{"type":"s3_payload","expires_in":1e300}"#), is("", 604_800));
        assert_eq!(link(r#"{"type":"s3_payload","url":7,"expires_in":-1}"#), is("", 0));
        assert_eq!(link(r#"{"type":"s3_payload"}"#), is("", 0));
        assert_eq!(link(r#"{"type":"s3_payload","expires_in":18446744073709551615}"#), is("", 604_800));
        assert_eq!(link(r#"{"type":"daily","url":"https://a","expires_in":300}"#), None);
    }
}
