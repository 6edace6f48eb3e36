//! The tracker, on values.

use super::*;

const STALLED_AFTER: Duration = Duration::from_secs(600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_784_000_000 + second).unwrap()
}

fn request(reference: &str) -> RequestId {
    RequestId { endpoint: "terra".to_owned(), reference: reference.to_owned() }
}

fn event(reference: &str, second: i64, kind: EventKind) -> RequestEvent {
    RequestEvent { request: request(reference), provider: None, at: at(second), kind }
}

fn payload(id: u128, chunk: Option<u32>) -> EventKind {
    EventKind::Payload { id, chunk }
}

fn sending(expected: Option<u64>, emitted_at: i64) -> EventKind {
    EventKind::Sending { expected, emitted_at }
}

fn tracker(events: impl IntoIterator<Item = RequestEvent>) -> RequestTracker {
    let mut tracker = RequestTracker::new(None);
    for event in events {
        tracker.add(event);
    }
    tracker
}

fn one(tracker: &RequestTracker, now: i64) -> RequestSummary {
    let all = tracker.summaries(at(now), STALLED_AFTER);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn copies_count_once_and_order_does_not_matter() {
    let mut events = vec![
        event("r", 0, EventKind::Processing),
        event("r", 1, sending(Some(4), 1)),
        event("r", 2, payload(10, Some(1))),
        event("r", 3, payload(12, Some(3))),
        event("r", 9, payload(12, Some(3))),
        event("r", 4, payload(11, Some(2))),
    ];
    let expected = one(&tracker(events.clone()), 10);
    assert_eq!((expected.state, expected.arrived, expected.expected), (RequestState::Sending, 3, Some(4)));
    assert_eq!((expected.first_arrival, expected.last_arrival), (Some(at(2)), Some(at(4))), "a copy is no arrival");
    assert_eq!(expected.missing_chunks, MissingChunks { ranges: vec![], either: Some((0, 4)) });
    // The copy must come after its original.
    events.remove(4);
    events.reverse();
    assert_eq!(one(&tracker(events), 10), expected);
}

#[test]
fn it_is_finished_when_as_many_arrived_as_were_announced() {
    let mut tracker = tracker([event("r", 0, sending(Some(2), 1)), event("r", 1, payload(1, Some(0)))]);
    assert_eq!(one(&tracker, 2).state, RequestState::Sending);
    assert_eq!(tracker.add(event("r", 3, payload(2, Some(1)))), Some(request("r")));
    assert_eq!(one(&tracker, 3).state, RequestState::Finished);
    assert_eq!(one(&tracker, 99_999).state, RequestState::Finished, "finished stays so");
    tracker.add(event("r", 4, payload(3, None)));
    assert_eq!((one(&tracker, 4).state, one(&tracker, 4).missing), (RequestState::Finished, Some(0)));
    assert_eq!(one(&self::tracker([event("r", 0, sending(Some(0), 1))]), 1).state, RequestState::Finished);
}

#[test]
fn an_unfinished_silent_request_is_stalled() {
    for (kinds, state) in [
        (vec![EventKind::Processing], RequestState::Processing),
        (vec![EventKind::Processing, payload(1, None)], RequestState::Sending),
        (vec![sending(None, 1)], RequestState::Sending),
        (vec![sending(Some(2), 1), payload(1, None)], RequestState::Sending),
    ] {
        let tracker = tracker(kinds.into_iter().map(|kind| event("r", 0, kind)));
        assert_eq!(one(&tracker, 599).state, state);
        assert_eq!(one(&tracker, 600).state, RequestState::Stalled);
    }
}

#[test]
fn the_latest_announcement_counts() {
    let announced =
        [event("r", 0, sending(Some(5), 2)), event("r", 1, sending(Some(9), 1)), event("r", 2, sending(None, 3))];
    assert_eq!(one(&tracker(announced), 3).expected, Some(5));
    let mut tracker = tracker([event("r", 0, sending(Some(5), 2))]);
    assert_eq!(tracker.add(event("r", 1, sending(Some(9), 1))), None, "no news");
    assert_eq!(tracker.add(event("r", 1, sending(Some(6), 3))), Some(request("r")));
}

#[test]
fn repeated_or_absent_numbers_tell_nothing_about_missing_chunks() {
    let of_two_types =
        [event("r", 0, sending(Some(4), 1)), event("r", 1, payload(1, Some(1))), event("r", 1, payload(2, Some(1)))];
    let without =
        [event("r", 0, sending(Some(4), 1)), event("r", 1, payload(1, Some(1))), event("r", 1, payload(2, None))];
    for events in [of_two_types, without] {
        let summary = one(&tracker(events), 2);
        assert_eq!((summary.missing_chunks.clone(), summary.missing), (MissingChunks::default(), Some(2)));
    }
}

#[test]
fn one_reference_at_two_endpoints_is_two_requests() {
    let mut other = event("r", 0, sending(Some(1), 1));
    other.request.endpoint = "staging".to_owned();
    let tracker = tracker([event("r", 0, sending(Some(1), 1)), event("r", 0, payload(1, None)), other]);
    let states: Vec<_> = tracker.summaries(at(1), STALLED_AFTER).iter().map(|summary| summary.state).collect();
    assert!(states.contains(&RequestState::Finished) && states.contains(&RequestState::Sending), "{states:?}");
}

#[test]
fn a_request_that_is_not_large_is_shown_only_by_its_reference() {
    let mut all = tracker([event("single", 0, payload(1, None))]);
    assert_eq!(all.summaries(at(0), STALLED_AFTER), []);
    assert_eq!(all.add(event("single", 0, payload(2, None))), None);
    all.add(event("chunks", 0, payload(1, Some(1))));
    assert_eq!(one(&all, 9999).state, RequestState::Unannounced);
    let mut only = RequestTracker::new(Some("single".to_owned()));
    only.add(event("single", 0, payload(1, None)));
    only.add(event("other", 0, sending(Some(1), 1)));
    let summary = one(&only, 1);
    assert_eq!((summary.request.reference.as_str(), summary.state), ("single", RequestState::Unannounced));
}

#[test]
fn the_oldest_are_evicted_and_requests_that_are_not_large_first() {
    let mut tracker = RequestTracker::new(None);
    tracker.limits = Limits { requests: 16, payloads: 1000, payloads_of_one: 1000 };
    for n in 0..12 {
        tracker.add(event(&format!("large {n:02}"), n, EventKind::Processing));
    }
    for n in 0..500 {
        tracker.add(event(&format!("single {n}"), 100 + n, payload(1, None)));
    }
    assert!(tracker.requests.len() <= 16);
    assert_eq!(tracker.summaries(at(0), STALLED_AFTER).len(), 12, "no flood of others drives them out");
    for n in 12..30 {
        tracker.add(event(&format!("large {n}"), n, EventKind::Processing));
    }
    let left = tracker.summaries(at(100), STALLED_AFTER);
    assert!((14..=16).contains(&left.len()), "{}", left.len());
    assert_eq!(left.last().unwrap().request.reference, "large 29");
    assert!(left[0].request.reference.as_str() > "large 12");
    assert_eq!(tracker.forgotten() + tracker.requests.len(), 530);
}

#[test]
fn remembered_payloads_are_limited() {
    let mut tracker = RequestTracker::new(None);
    tracker.limits = Limits { requests: 100, payloads: 80, payloads_of_one: 30 };
    for (second, reference) in ["a", "b", "c", "d"].into_iter().enumerate() {
        for n in 0..50 {
            tracker.add(event(reference, second as i64, payload(n, Some(n as u32))));
        }
    }
    let kept: Vec<_> = tracker.summaries(at(9), STALLED_AFTER);
    let kept: Vec<_> = kept.iter().map(|summary| (&*summary.request.reference, summary.arrived)).collect();
    assert_eq!(kept, [("c", 30), ("d", 30)]);
    assert_eq!((tracker.payloads, tracker.forgotten()), (60, 2));
}

#[test]
fn programs_get_stable_field_names() {
    let tracker = tracker([
        event("r", 0, sending(Some(5), 1)),
        event("r", 1, payload(1, Some(0))),
        event("r", 2, payload(2, Some(3))),
    ]);
    assert_eq!(
        serde_json::to_string(&one(&tracker, 3)).unwrap(),
        r#"{"reference":"r","endpoint":"terra","provider":null,"state":"sending","arrived":2,"expected":5,"missing":3,"missing_chunks":[[1,2],[4,4]],"first_arrival":"2026-07-14T03:33:21.000Z","last_arrival":"2026-07-14T03:33:22.000Z","age_seconds":1}"#
    );
}
