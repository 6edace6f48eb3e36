//! The last minutes, as differences between samples of the metrics; and when each refusal was last seen. Pure: the
//! caller says what time it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::outcomes::Side;
use crate::metrics::{Distribution, EndpointSample, Sample};

/// The time from one sample to the next.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// The most steps: a quarter of an hour.
pub(super) const STEPS: usize = 180;

/// The most endpoints with steps of their own, by name; the rest counts in the sum alone. A step takes about 200 bytes.
pub(super) const MOST_ENDPOINTS: usize = 50;

/// What changed since the sample before.
#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    /// Unix seconds at its end.
    pub(super) ended: f64,
    pub(super) seconds: f64,
    pub(super) all: Activity,
    pub(super) publish: Distribution,
    /// Of those that had any.
    endpoints: Vec<(Arc<str>, Activity)>,
}

/// Requests that ended, by [`Side`], and how long they took.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Activity {
    /// Dead letters included.
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    pub(super) refused: u64,
    pub(super) times: Distribution,
}

impl Activity {
    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.refused += other.refused;
        self.times.add(&other.times);
    }
}

/// An endpoint, an outcome, and the reason of a rejection.
pub(super) type Kind = (Arc<str>, &'static str, Option<&'static str>);

/// Of one kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    /// Since the start.
    pub(super) total: u64,
    /// Unix seconds: when the sample that first showed the last one was taken.
    pub(super) last: f64,
}

#[derive(Debug)]
pub(super) struct History {
    before: Sample,
    steps: VecDeque<Step>,
    /// All but accepted ones. As many as the metrics have words for the current endpoints.
    seen: BTreeMap<Kind, Seen>,
}

impl History {
    pub(super) fn new(first: Sample) -> Self {
        Self { before: first, steps: VecDeque::with_capacity(STEPS), seen: BTreeMap::new() }
    }

    /// Adds a sample, taken `seconds` after the one before and at `now` in Unix seconds.
    pub(super) fn push(&mut self, sample: Sample, seconds: f64, now: f64) {
        let mut step = Step {
            ended: now,
            seconds: seconds.max(f64::MIN_POSITIVE),
            publish: sample.publish.since(&self.before.publish),
            ..Step::default()
        };
        for (place, endpoint) in sample.endpoints.iter().enumerate() {
            let before = self.before.endpoints.iter().find(|before| before.name == endpoint.name);
            let activity = activity(endpoint, before);
            if activity != Activity::default() {
                step.all.add(&activity);
                if place < MOST_ENDPOINTS {
                    step.endpoints.push((endpoint.name.clone(), activity));
                }
            }
            self.see(endpoint, now);
        }
        self.seen.retain(|(name, ..), _| sample.endpoints.iter().any(|endpoint| endpoint.name == *name));
        self.steps.truncate(STEPS - 1);
        self.steps.push_front(step);
        self.before = sample;
    }

    fn see(&mut self, endpoint: &EndpointSample, now: f64) {
        let outcomes = endpoint.outcomes.iter().filter(|(outcome, _)| *outcome != "rejected");
        let outcomes = outcomes.map(|(outcome, total)| ((endpoint.name.clone(), *outcome, None), *total));
        let rejections = endpoint.rejections.iter();
        let rejections = rejections.map(|(reason, total)| ((endpoint.name.clone(), "rejected", Some(*reason)), *total));
        for (kind, total) in outcomes.chain(rejections).filter(|(kind, _)| Side::of(kind.1) != Side::Accepted) {
            if total > self.seen.get(&kind).map_or(0, |seen| seen.total) {
                self.seen.insert(kind, Seen { total, last: now });
            }
        }
    }

    /// The newest last.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().rev()
    }

    /// The refusals, the last one first.
    pub(super) fn seen(&self) -> Vec<(&Kind, Seen)> {
        let mut seen: Vec<_> = self.seen.iter().map(|(kind, seen)| (kind, *seen)).collect();
        seen.sort_by(|(_, one), (_, other)| other.last.total_cmp(&one.last));
        seen
    }

    /// Accepted deliveries of an endpoint per second, for each step.
    pub(super) fn accepted(&self, endpoint: &str) -> Vec<f64> {
        let rate = |step: &Step| step.of(endpoint).map_or(0.0, |activity| activity.accepted as f64 / step.seconds);
        self.steps().map(rate).collect()
    }

    /// The sum over an endpoint's last steps, and their seconds.
    pub(super) fn recent(&self, endpoint: &str, steps: usize) -> (Activity, f64) {
        let (mut sum, mut seconds) = (Activity::default(), 0.0);
        for step in self.steps.iter().take(steps) {
            seconds += step.seconds;
            if let Some(activity) = step.of(endpoint) {
                sum.add(activity);
            }
        }
        (sum, seconds)
    }
}

impl Step {
    fn of(&self, endpoint: &str) -> Option<&Activity> {
        self.endpoints.iter().find(|(name, _)| &**name == endpoint).map(|(_, activity)| activity)
    }
}

/// Of an endpoint since the sample before; everything of one that was not there.
fn activity(now: &EndpointSample, before: Option<&EndpointSample>) -> Activity {
    let mut activity = Activity::default();
    for (outcome, total) in &now.outcomes {
        let known = before.and_then(|before| before.outcomes.iter().find(|(word, _)| word == outcome));
        let new = total.saturating_sub(known.map_or(0, |(_, total)| *total));
        match Side::of(outcome) {
            Side::Accepted | Side::DeadLetter => activity.accepted += new,
            Side::Rejected => activity.rejected += new,
            Side::Refused => activity.refused += new,
        }
    }
    let times = before.map_or_else(|| now.times.clone(), |before| now.times.since(&before.times));
    if times.count() > 0 {
        activity.times = times;
    }
    activity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, outcomes: &[(&'static str, u64)], forged: u64) -> EndpointSample {
        let (outcomes, rejections) = (outcomes.to_vec(), vec![("forged", forged), ("missing", 0)]);
        EndpointSample { name: name.into(), outcomes, rejections, times: Distribution::default(), last_kept: 0.0 }
    }

    fn sample(endpoints: Vec<EndpointSample>) -> Sample {
        Sample { endpoints, ..Sample::default() }
    }

    fn kept(kept: u64) -> Sample {
        sample(vec![endpoint("one", &[("kept", kept)], 0)])
    }

    #[test]
    fn a_step_has_what_ended_since_the_last_one_by_side() {
        let mut history = History::new(sample(vec![endpoint("one", &[("kept", 100)], 0)]));
        let outcomes = [("kept", 130), ("dead_lettered", 5), ("rejected", 7), ("refused", 3), ("unanswered", 1)];
        history.push(sample(vec![endpoint("one", &outcomes, 7), endpoint("two", &[("kept", 5)], 0)]), 5.0, 1000.0);
        let step = history.steps().next().expect("one");
        assert_eq!((step.ended, step.all.accepted, step.all.rejected, step.all.refused), (1000.0, 40, 7, 4));
        assert_eq!((history.accepted("one"), history.accepted("two")), (vec![7.0], vec![1.0]));
        assert_eq!(history.accepted("unknown"), [0.0]);
        assert_eq!(history.recent("one", 12).0.accepted, 35);
    }

    #[test]
    fn the_last_quarter_of_an_hour_is_kept_and_no_more() {
        let mut history = History::new(kept(0));
        for n in 1..=2 * STEPS as u64 {
            history.push(kept(n * n), 5.0, n as f64);
        }
        let times: Vec<_> = history.steps().map(|step| step.ended).collect();
        assert_eq!((times.len(), times[0], times[STEPS - 1]), (STEPS, 181.0, 360.0), "the newest last");
        assert_eq!(history.accepted("one")[STEPS - 1], (360.0 * 360.0 - 359.0 * 359.0) / 5.0);
        let (minute, seconds) = history.recent("one", 12);
        assert_eq!((minute.accepted, seconds), (360 * 360 - 348 * 348, 60.0));
    }

    #[test]
    fn a_refusal_has_its_total_and_the_time_of_the_last_one() {
        let mut history = History::new(sample(vec![endpoint("one", &[("refused", 0)], 0)]));
        let mut push = |refused, forged, now| {
            let outcomes = [("kept", 9), ("refused", refused), ("rejected", forged)];
            history.push(sample(vec![endpoint("one", &outcomes, forged)]), 5.0, now);
            let seen = history.seen();
            seen.into_iter()
                .map(|((_, outcome, why), seen)| (*outcome, *why, seen.total, seen.last))
                .collect::<Vec<_>>()
        };
        assert!(push(0, 0, 1.0).is_empty());
        assert_eq!(push(2, 0, 2.0), [("refused", None, 2, 2.0)]);
        assert_eq!(push(2, 4, 3.0), [("rejected", Some("forged"), 4, 3.0), ("refused", None, 2, 2.0)]);
        assert_eq!(push(3, 4, 4.0), [("refused", None, 3, 4.0), ("rejected", Some("forged"), 4, 3.0)]);
    }

    #[test]
    fn a_removed_endpoint_is_forgotten_and_one_that_comes_back_starts_anew() {
        let with = |refused| sample(vec![endpoint("one", &[("refused", refused)], 0)]);
        let mut history = History::new(with(0));
        history.push(with(10), 5.0, 1.0);
        history.push(sample(vec![]), 5.0, 2.0);
        assert!(history.seen().is_empty());
        history.push(with(2), 5.0, 3.0);
        assert_eq!(history.seen()[0].1, Seen { total: 2, last: 3.0 });
        assert_eq!(history.steps().last().map(|step| step.all.refused), Some(2));
    }

    #[test]
    fn only_so_many_endpoints_have_steps_of_their_own() {
        let names: Vec<_> = (0..MOST_ENDPOINTS + 7).map(|n| format!("{n:03}")).collect();
        let with = |kept| sample(names.iter().map(|name| endpoint(name, &[("kept", kept)], 0)).collect());
        let mut history = History::new(with(0));
        history.push(with(1), 5.0, 1.0);
        let step = history.steps().next().expect("one");
        assert_eq!((step.endpoints.len(), step.all.accepted), (MOST_ENDPOINTS, MOST_ENDPOINTS as u64 + 7));
    }
}
