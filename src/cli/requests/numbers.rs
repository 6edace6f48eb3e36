//! A set of chunk numbers, and what it lacks. Kept as ranges: a request that arrived in full is one.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The first of each range, and its last.
    ranges: BTreeMap<u32, u32>,
    count: usize,
}

impl Numbers {
    pub(super) fn insert(&mut self, number: u32) {
        let before = self.ranges.range(..=number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((_, last)) if number <= last => return,
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let after = number.checked_add(1).and_then(|next| self.ranges.remove(&next));
        self.ranges.insert(first, after.unwrap_or(number));
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    pub(super) fn max(&self) -> Option<u32> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// What is not in it of `first` up to `last`, both inclusive.
    fn gaps(&self, first: u32, last: u32) -> Vec<(u32, u32)> {
        let mut gaps = Vec::new();
        let mut next = Some(first);
        for (&from, &to) in &self.ranges {
            let Some(start) = next.filter(|start| *start <= last) else { return gaps };
            if from > start {
                gaps.push((start, last.min(from - 1)));
            }
            next = to.checked_add(1).map(|after| after.max(start));
        }
        gaps.extend(next.filter(|start| *start <= last).map(|start| (start, last)));
        gaps
    }
}

/// Chunk numbers that did not arrive.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    /// First and last of each range.
    pub(super) ranges: Vec<(u32, u32)>,
    /// One of these two, where nothing tells whether the numbers begin with 0 or with 1.
    pub(super) either: Option<(u32, u32)>,
}

/// What lacks of a request whose payloads each have a number of their own. The vendor does not say
/// whether numbers begin with 0 or with 1: a 0, or a number as large as the count, does.
pub(super) fn missing(seen: &Numbers, expected: Option<u64>) -> Missing {
    let Some(max) = seen.max() else { return Missing::default() };
    let certain = |ranges| Missing { ranges, either: None };
    let Some(expected) = expected.and_then(|expected| u32::try_from(expected).ok()) else {
        return certain(seen.gaps(u32::from(!seen.contains(0)), max));
    };
    if seen.len() as u64 >= u64::from(expected) {
        return Missing::default();
    }
    if seen.contains(0) {
        certain(seen.gaps(0, max.max(expected - 1)))
    } else if max >= expected {
        certain(seen.gaps(1, max))
    } else {
        Missing { ranges: seen.gaps(1, expected - 1), either: Some((0, expected)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(of: &[u32]) -> Numbers {
        let mut numbers = Numbers::default();
        of.iter().for_each(|number| numbers.insert(*number));
        numbers
    }

    fn lacking(seen: &[u32], expected: Option<u64>) -> Missing {
        missing(&numbers(seen), expected)
    }

    fn certain(ranges: &[(u32, u32)]) -> Missing {
        Missing { ranges: ranges.to_vec(), either: None }
    }

    #[test]
    fn where_numbers_begin_follows_from_what_arrived() {
        assert_eq!(lacking(&[0, 1, 4], Some(6)), certain(&[(2, 3), (5, 5)]));
        assert_eq!(lacking(&[6, 1, 4], Some(6)), certain(&[(2, 3), (5, 5)]));
        assert_eq!(lacking(&[2, 4], Some(6)), Missing { ranges: vec![(1, 1), (3, 3), (5, 5)], either: Some((0, 6)) });
        assert_eq!(lacking(&[1, 2, 3, 4, 5], Some(6)), Missing { ranges: vec![], either: Some((0, 6)) });
    }

    #[test]
    fn what_is_complete_lacks_nothing() {
        assert_eq!(lacking(&[1, 2, 3], Some(3)), certain(&[]));
        assert_eq!(lacking(&[2, 1, 0], Some(3)), certain(&[]));
        assert_eq!(lacking(&[1], Some(0)), certain(&[]));
    }

    #[test]
    fn without_an_announcement_only_the_gaps_are_known() {
        assert_eq!(lacking(&[1, 2, 5], None), certain(&[(3, 4)]));
        assert_eq!(lacking(&[0, 2], None), certain(&[(1, 1)]));
        assert_eq!(lacking(&[], None), certain(&[]));
        assert_eq!(lacking(&[3], Some(u64::MAX)), certain(&[(1, 2)]));
    }

    #[test]
    fn numbers_beyond_the_announced_count_are_no_obstacle() {
        assert_eq!(lacking(&[0, 7], Some(4)), certain(&[(1, 6)]));
        assert_eq!(lacking(&[2, 9], Some(4)), certain(&[(1, 1), (3, 8)]));
        assert_eq!(lacking(&[u32::MAX], Some(4)), certain(&[(1, u32::MAX - 1)]));
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_set(of in prop::collection::vec(0_u32..40, 0..60), first in 0_u32..40, last in 0_u32..40) {
            let set: std::collections::BTreeSet<_> = of.iter().copied().collect();
            let numbers = numbers(&of);
            prop_assert_eq!(numbers.len(), set.len());
            prop_assert_eq!(numbers.max(), set.last().copied());
            prop_assert!((0..40).all(|number| numbers.contains(number) == set.contains(&number)));
            let lacking: Vec<_> = numbers.gaps(first, last).into_iter().flat_map(|(from, to)| from..=to).collect();
            prop_assert_eq!(lacking, (first..=last).filter(|number| !set.contains(number)).collect::<Vec<_>>());
        }
    }
}
