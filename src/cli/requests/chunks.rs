//! Which chunks of a request are missing, by the numbers of those that arrived.

use std::collections::BTreeSet;
use std::iter::once;

use serde::Serialize;

/// Chunk numbers that did not arrive.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct MissingChunks {
    /// The first and the last number of each range.
    pub(super) ranges: Vec<(u32, u32)>,
    /// One of these two is missing, if nothing tells whether the numbers begin with 0 or with 1.
    #[serde(skip)]
    pub(super) either: Option<(u32, u32)>,
}

/// The missing chunks of a request in which each payload has a number of its own. The vendor does not say whether
/// numbers begin with 0 or with 1, but a 0, or a number as large as the count, shows it.
pub(super) fn missing(seen: &BTreeSet<u32>, expected: Option<u64>) -> MissingChunks {
    let Some(&max) = seen.last() else { return MissingChunks::default() };
    let certain = |ranges| MissingChunks { ranges, either: None };
    let Some(expected) = expected.and_then(|expected| u32::try_from(expected).ok()) else {
        return certain(gaps(seen, u32::from(!seen.contains(&0)), max));
    };
    if seen.len() as u64 >= u64::from(expected) {
        return MissingChunks::default();
    }
    if seen.contains(&0) {
        certain(gaps(seen, 0, max.max(expected - 1)))
    } else if max >= expected {
        certain(gaps(seen, 1, max))
    } else {
        MissingChunks { ranges: gaps(seen, 1, expected - 1), either: Some((0, expected)) }
    }
}

/// The numbers from `first` to `last`, both inclusive, that are not in the set: first and last of each range.
fn gaps(seen: &BTreeSet<u32>, first: u32, last: u32) -> Vec<(u32, u32)> {
    let seen = if first <= last { seen.range(first..=last) } else { seen.range(..0) };
    let starts = seen.clone().map(|number| number.checked_add(1));
    let ends = seen.map(|number| number.checked_sub(1)).chain(once(Some(last)));
    let ranges = once(Some(first)).chain(starts).zip(ends);
    ranges.filter_map(|(start, end)| Some((start?, end?))).filter(|(start, end)| start <= end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lacking(seen: &[u32], expected: Option<u64>) -> MissingChunks {
        missing(&seen.iter().copied().collect(), expected)
    }

    fn certain(ranges: &[(u32, u32)]) -> MissingChunks {
        MissingChunks { ranges: ranges.to_vec(), either: None }
    }

    #[test]
    fn the_first_number_is_inferred_from_the_chunks_that_arrived() {
        assert_eq!(lacking(&[0, 1, 4], Some(6)), certain(&[(2, 3), (5, 5)]));
        assert_eq!(lacking(&[6, 1, 4], Some(6)), certain(&[(2, 3), (5, 5)]));
        assert_eq!(
            lacking(&[2, 4], Some(6)),
            MissingChunks { ranges: vec![(1, 1), (3, 3), (5, 5)], either: Some((0, 6)) }
        );
        assert_eq!(lacking(&[1, 2, 3, 4, 5], Some(6)), MissingChunks { ranges: vec![], either: Some((0, 6)) });
    }

    #[test]
    fn a_complete_request_lacks_nothing() {
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
    fn numbers_beyond_the_announced_count_are_accepted() {
        assert_eq!(lacking(&[0, 7], Some(4)), certain(&[(1, 6)]));
        assert_eq!(lacking(&[2, 9], Some(4)), certain(&[(1, 1), (3, 8)]));
        assert_eq!(lacking(&[u32::MAX], Some(4)), certain(&[(1, u32::MAX - 1)]));
    }

    proptest! {
        #[test]
        fn gaps_are_the_numbers_not_in_the_set(seen in prop::collection::btree_set(0_u32..40, 0..60), first in 0_u32..40, last in 0_u32..40) {
            let missing: Vec<_> = gaps(&seen, first, last).into_iter().flat_map(|(from, to)| from..=to).collect();
            prop_assert_eq!(missing, (first..=last).filter(|number| !seen.contains(number)).collect::<Vec<_>>());
        }
    }
}
