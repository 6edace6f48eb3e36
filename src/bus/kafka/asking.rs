//! One question about each of many topics. Comes in: the topics and the question. Goes out: the answers, in
//! the order of the topics. librdkafka asks for one topic or for all that the cluster has, which may be far more
//! than ours; each question is a round trip of its own, so that several are under way at once.

use std::iter;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What `ask` says of each, asked in this order, so many `abreast`. Blocks as many threads.
pub(super) fn of_each<T: Sync, A: Send>(topics: &[T], abreast: usize, ask: impl Fn(&T) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let ask_on = || {
        let ask_next = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            Some((at, ask(topics.get(at)?)))
        };
        iter::from_fn(ask_next).collect::<Vec<_>>()
    };
    let mut answers: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = (0..abreast.min(topics.len())).map(|_| scope.spawn(ask_on)).collect();
        asking.into_iter().flat_map(|asked| asked.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn every_topic_is_asked_for_once_and_answered_in_order() {
        for many in [0, 1, 4, 5, 6, 156] {
            let topics: Vec<usize> = (0..many).collect();
            assert_eq!(of_each(&topics, 5, |topic| *topic), topics);
        }
    }

    #[test]
    fn the_questions_do_not_wait_for_each_other() {
        let all = Barrier::new(5);
        of_each(&[(); 5], 5, |()| all.wait());
    }
}
