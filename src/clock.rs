//! Ages of timestamps that ignore jumps of the wall clock: a second clock, which nobody sets and which runs through
//! suspend, tells how long ago a timestamp was made.
//!
//! A timestamp of this process is as old as the second clock says. One of an earlier process is compared with the
//! trusted wall clock: the one that has run for an hour without a jump. Until then nothing is too old. If a timestamp
//! could be of either kind, the younger age counts.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::telemetry::Throttle;

/// Milliseconds: up to this, a difference between the two clocks is no jump. Corrections of a good clock are smaller.
const JUMP: i64 = 10_000;

/// The wall clock is trusted after this many milliseconds without a jump.
const TRUSTED_AFTER: i64 = 3_600_000;

/// How many jumps are tracked separately; beyond this, the oldest are merged.
const MOST_SPANS: usize = 64;

const LOG_EVERY: Duration = Duration::from_secs(60);

/// The readings of both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    pub wall: Timestamp,
    /// Time since the machine started, including suspend.
    pub running: Duration,
}

impl ClockReading {
    fn now() -> Self {
        let running = clock_gettime(ClockId::Boottime);
        let part = |number: i64| u64::try_from(number).unwrap_or(0);
        let running = Duration::from_secs(part(running.tv_sec)) + Duration::from_nanos(part(running.tv_nsec));
        Self { wall: Timestamp::now(), running }
    }
}

/// The clocks of one machine. Cloning shares their history.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    read: Box<dyn Fn() -> ClockReading + Send + Sync>,
    /// `None` until the first reading.
    history: Mutex<Option<History>>,
}

impl Clock {
    /// The clock of this process: a single one, so that a jump is logged once.
    pub fn system() -> Self {
        static SYSTEM: LazyLock<Clock> = LazyLock::new(|| Clock::new(ClockReading::now));
        SYSTEM.clone()
    }

    pub fn new(read: impl Fn() -> ClockReading + Send + Sync + 'static) -> Self {
        let clock = Self(Arc::new(Inner { read: Box::new(read), history: Mutex::new(None) }));
        clock.look();
        clock
    }

    /// Reads both clocks, as every other method does. Call it periodically wherever timestamps are made: if the wall
    /// clock jumps twice between two readings, its value in between stays unknown.
    pub fn look(&self) {
        self.with(|_| ());
    }

    /// The least possible age of the timestamp `then`; 0 if it is in the future.
    pub fn age(&self, then: Timestamp) -> Duration {
        self.with(|history| history.age(then))
    }

    /// Whether the timestamp `then` is certainly older than `limit`.
    pub fn is_older(&self, then: Timestamp, limit: Duration) -> bool {
        self.with(|history| history.trusted.is_some() && history.age(then) > limit)
    }

    fn with<T>(&self, ask: impl FnOnce(&History) -> T) -> T {
        // Read under the lock, so that readings are recorded in order.
        let mut history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = (self.0.read)();
        let (wall, running) = (reading.wall.as_millisecond(), millis(reading.running));
        let history = history.get_or_insert_with(|| History::first(wall, running));
        if let Some(jump) = history.look(wall, running) {
            log_jump(jump);
        }
        ask(history)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Logs by how many milliseconds the wall clock jumped.
fn log_jump(jump: i64) {
    static AHEAD: Throttle = Throttle::new(LOG_EVERY);
    static BACK: Throttle = Throttle::new(LOG_EVERY);
    let (way, throttle) = if jump > 0 { ("ahead", &AHEAD) } else { ("back", &BACK) };
    if let Some(more) = throttle.pass() {
        tracing::warn!(
            way,
            seconds = jump.unsigned_abs() / 1000,
            more,
            remedy = "check this machine's time synchronisation: signatures are checked against that clock",
            "the clock of this machine jumped; nothing expires by that: ages count the time that really passed"
        );
    }
}

/// The history of the clocks. All in milliseconds; an offset is how far the wall clock is ahead of the other one.
struct History {
    /// The last one is current.
    spans: Vec<Span>,
    /// The time of the last reading, by the steady clock.
    last: i64,
    /// No jump since then.
    steady_since: i64,
    /// The offset for timestamps of earlier processes.
    trusted: Option<i64>,
}

/// The wall clock's range between two jumps.
struct Span {
    from: i64,
    until: i64,
    offset: i64,
}

impl History {
    fn first(wall: i64, running: i64) -> Self {
        let now = Span { from: wall, until: wall, offset: wall - running };
        Self { spans: vec![now], last: running, steady_since: running, trusted: None }
    }

    /// Returns how far the wall clock jumped since the last reading, if it did.
    fn look(&mut self, wall: i64, running: i64) -> Option<i64> {
        let offset = wall - running;
        let now = self.spans.last_mut().expect("never empty");
        let jump = offset - now.offset;
        let jumped = jump.abs() >= JUMP;
        if jumped {
            // The moment of the jump is unknown: a timestamp made meanwhile may belong to either span.
            now.until = now.until.max(running + now.offset);
            let from = self.last + offset;
            self.spans.push(Span { from, until: wall, offset });
            self.steady_since = running;
            if self.spans.len() > MOST_SPANS {
                let oldest = self.spans.remove(0);
                self.spans[0].take_in(&oldest);
            }
        } else {
            now.until = now.until.max(wall);
        }
        self.last = running;
        if self.trusted.is_none() && running - self.steady_since >= TRUSTED_AFTER {
            self.trusted = Some(offset);
        }
        jumped.then_some(jump)
    }

    fn age(&self, then: Timestamp) -> Duration {
        let then = then.as_millisecond();
        let of_this_process = self.spans.iter().filter(|span| span.has(then)).map(|span| span.offset).min();
        let now = &self.spans[self.spans.len() - 1];
        let offset = of_this_process.or(self.trusted).unwrap_or(now.offset);
        let age = self.last.saturating_add(offset).saturating_sub(then);
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }
}

impl Span {
    fn has(&self, then: i64) -> bool {
        (self.from - JUMP..=self.until + JUMP).contains(&then)
    }

    fn take_in(&mut self, other: &Self) {
        self.from = self.from.min(other.from);
        self.until = self.until.max(other.until);
        self.offset = self.offset.min(other.offset);
    }
}

#[cfg(test)]
impl Clock {
    /// A trusted clock that stands still.
    pub(crate) fn at(wall: Timestamp) -> Self {
        let running = Duration::from_secs(7200);
        Self::new(move || ClockReading { wall, running }).trust()
    }

    /// This machine's clock, as if it had run for an hour.
    pub(crate) fn trusted() -> Self {
        Self::new(ClockReading::now).trust()
    }

    fn trust(self) -> Self {
        self.with(|_| ());
        let mut history = self.0.history.lock().unwrap();
        history.iter_mut().for_each(|history| history.trusted = Some(history.spans[0].offset));
        drop(history);
        self
    }
}

/// A clock that a test sets.
#[cfg(test)]
pub(crate) struct Set {
    pub(crate) clock: Clock,
    now: Arc<Mutex<ClockReading>>,
}

#[cfg(test)]
impl Set {
    pub(crate) fn new(wall: Timestamp) -> Self {
        let now = Arc::new(Mutex::new(ClockReading { wall, running: Duration::from_secs(100) }));
        let read = now.clone();
        Self { clock: Clock::new(move || *read.lock().unwrap()), now }
    }

    /// Advances both clocks.
    pub(crate) fn run(&self, time: Duration) {
        let mut now = self.now.lock().unwrap();
        now.wall += time;
        now.running += time;
        drop(now);
        self.clock.look();
    }

    /// Moves only the wall clock, without a reading.
    pub(crate) fn jump(&self, by: jiff::SignedDuration) {
        self.now.lock().unwrap().wall += by;
    }

    pub(crate) fn wall(&self) -> Timestamp {
        self.now.lock().unwrap().wall
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);

    fn set() -> Set {
        Set::new(Timestamp::from_second(1_800_000_000).unwrap())
    }

    #[test]
    fn nothing_is_too_old_before_the_clock_has_run_an_hour_without_a_jump() {
        let set = set();
        let old = set.wall() - MONTH;
        for jump in [SignedDuration::ZERO, MONTH, -MONTH] {
            set.jump(jump);
            set.clock.look();
            set.run(HOUR - Duration::from_secs(1));
            assert!(!set.clock.is_older(old, DAY), "{jump:?}");
        }
        assert!(set.clock.age(old) > DAY, "it may be shown all the same");
        set.run(Duration::from_secs(1));
        assert!(set.clock.is_older(old, DAY));
    }

    #[test]
    fn no_jump_makes_a_timestamp_older_than_it_is() {
        let set = set();
        let mut stamps = vec![(set.wall() - DAY, DAY)];
        set.run(HOUR);
        stamps[0].1 += HOUR;
        // There and back, and there again; every timestamp is made after a different jump.
        for jump in [MONTH, -MONTH, -MONTH, MONTH, SignedDuration::from_secs(9), MONTH, -MONTH * 3, MONTH] {
            stamps.push((set.wall(), Duration::ZERO));
            set.jump(jump);
            // One that is made before the next reading.
            stamps.push((set.wall(), Duration::ZERO));
            set.run(HOUR);
            stamps.iter_mut().for_each(|(_, age)| *age += HOUR);
            for (at, (stamp, age)) in stamps.iter().enumerate() {
                let found = set.clock.age(*stamp);
                assert!(
                    found <= *age + Duration::from_millis(JUMP as u64),
                    "{at}: {found:?} for {age:?} after {jump:?}"
                );
                assert!(!set.clock.is_older(*stamp, *age + Duration::from_secs(10)), "{at}");
            }
        }
        set.run(DAY * 100);
        assert!(stamps.iter().all(|(stamp, _)| set.clock.is_older(*stamp, DAY)), "they do get old");
    }

    #[test]
    fn a_timestamp_of_an_earlier_process_ages_by_the_trusted_clock() {
        let set = set();
        let old = set.wall() - DAY;
        set.run(HOUR);
        set.jump(MONTH);
        set.run(HOUR);
        assert_eq!(set.clock.age(old), DAY + 2 * HOUR);
        assert!(!set.clock.is_older(old, DAY + 2 * HOUR));
        set.run(Duration::from_millis(1));
        assert!(set.clock.is_older(old, DAY + 2 * HOUR));
    }

    #[test]
    fn a_clock_corrected_soon_after_the_start_becomes_the_trusted_one() {
        let set = Set::new(Timestamp::from_second(100).unwrap());
        let here = set.wall();
        let old = Timestamp::from_second(1_800_000_000).unwrap();
        set.jump(old.duration_since(here) + MONTH);
        set.run(HOUR);
        assert!(set.clock.age(old) >= DAY * 30);
        assert!(!set.clock.is_older(old, DAY), "an hour from the jump on");
        set.run(HOUR);
        assert!(set.clock.is_older(old, DAY));
        assert_eq!(set.clock.age(here), 2 * HOUR, "stamped by this process before that");
    }

    #[test]
    fn endless_jumps_take_no_more_memory_and_make_nothing_old() {
        let set = set();
        set.run(HOUR);
        let stamp = set.wall();
        for jump in 0..1000 {
            set.jump(SignedDuration::from_mins(if jump % 2 == 0 { 90 } else { -90 }));
            set.run(Duration::from_secs(1));
        }
        assert!(set.clock.age(stamp) <= Duration::from_secs(1010));
        assert_eq!(set.clock.0.history.lock().unwrap().as_ref().unwrap().spans.len(), MOST_SPANS);
    }

    #[test]
    fn the_clocks_of_this_machine_advance_together() {
        let before = ClockReading::now();
        let clock = Clock::system();
        let stamp = Timestamp::now();
        assert!(ClockReading::now().running >= before.running);
        assert!(clock.age(stamp) < HOUR && !clock.is_older(stamp - MONTH, DAY));
    }
}
