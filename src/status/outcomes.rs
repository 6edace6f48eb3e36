//! Which side an outcome concerns, by its word in the metrics.

/// How a request ended, as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Kept, or unwanted: the sender got a 200.
    Accepted,
    /// Kept as a dead letter, with a 200: somebody has to look at it.
    DeadLetter,
    /// The sender's fault, or the network's before the bridge.
    Rejected,
    /// The bridge's or the bus's: not kept for now.
    Refused,
}

impl Side {
    /// An unknown word counts as refused: better seen than missed.
    pub(super) fn of(outcome: &str) -> Self {
        match outcome {
            "kept" | "duplicate" | "spooled" | "dropped" => Self::Accepted,
            "dead_lettered" => Self::DeadLetter,
            "rejected" | "unknown_path" | "wrong_method" | "too_slow" | "too_large" | "encoded" | "broken" => {
                Self::Rejected
            }
            _ => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantNames;

    use super::*;
    use crate::reply::Outcome;

    #[test]
    fn every_outcome_has_its_side() {
        let of =
            |side: Side| Outcome::VARIANTS.iter().copied().filter(|word| Side::of(word) == side).collect::<Vec<_>>();
        assert_eq!(of(Side::Accepted), ["kept", "duplicate", "spooled", "dropped"]);
        assert_eq!(of(Side::DeadLetter), ["dead_lettered"]);
        assert_eq!(of(Side::Refused), ["overloaded", "unfetched", "refused", "unspooled", "unanswered"]);
        assert_eq!(of(Side::Rejected).len(), Outcome::VARIANTS.len() - 10);
    }
}
