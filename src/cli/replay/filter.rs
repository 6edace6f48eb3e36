//! Which records to replay.

use std::collections::BTreeSet;

use super::args::{Bound, ReplayArgs};
use crate::attribute::Attribute;
use crate::bus::Record;
use crate::vocabulary::TYPE_PREFIX;

#[derive(Debug)]
pub(super) struct Filter {
    topics: BTreeSet<String>,
    types: BTreeSet<String>,
    users: BTreeSet<String>,
    from: Bound,
    to: Option<Bound>,
}

impl Filter {
    pub(super) fn new(args: &ReplayArgs) -> Self {
        let set = |values: &[String]| values.iter().cloned().collect();
        let (topics, types, users) = (set(&args.topics), set(&args.types), set(&args.users));
        Self { topics, types, users, from: args.from, to: args.to }
    }

    pub(super) fn takes(&self, record: &Record) -> bool {
        let is_of_type = || {
            let name = record.attribute(Attribute::Type);
            name.is_some_and(|name| self.types.contains(name.strip_prefix(TYPE_PREFIX).unwrap_or(&name)))
        };
        let is_of_user = || record.attribute(Attribute::Subject).is_some_and(|user| self.users.contains(&user));
        let is_late_enough = match self.from {
            Bound::Earliest => true,
            Bound::Offset(offset) => record.offset >= offset,
            Bound::Time(time) => record.time >= time,
        };
        let is_early_enough = match self.to {
            None | Some(Bound::Earliest) => self.to.is_none(),
            Some(Bound::Offset(offset)) => record.offset <= offset,
            Some(Bound::Time(time)) => record.time <= time,
        };
        is_late_enough
            && is_early_enough
            && (self.topics.is_empty() || self.topics.contains(&record.topic))
            && (self.types.is_empty() || is_of_type())
            && (self.users.is_empty() || is_of_user())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(topic: &str, offset: u64, kind: &str, user: &str) -> Record {
        Record {
            topic: topic.to_owned(),
            key: None,
            partition: 0,
            offset,
            time: jiff::Timestamp::from_second(1000 + offset as i64).unwrap(),
            headers: vec![("ce_type".into(), format!("co.tryterra.{kind}")), ("ce_subject".into(), user.into())],
            payload: bytes::Bytes::new(),
            problem: None,
        }
    }

    #[test]
    fn every_condition_counts() {
        let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<BTreeSet<_>>();
        let filter = |topics: &[&str], types: &[&str], users: &[&str], from, to| Filter {
            topics: set(topics),
            types: set(types),
            users: set(users),
            from,
            to,
        };
        let one = record("t", 5, "daily", "u1");
        let time = |second| Bound::Time(jiff::Timestamp::from_second(second).unwrap());
        assert!(filter(&[], &[], &[], Bound::Earliest, None).takes(&one));
        assert!(filter(&["t"], &["daily", "x"], &["u1"], Bound::Offset(5), Some(Bound::Offset(5))).takes(&one));
        assert!(filter(&[], &[], &[], time(1005), Some(time(1005))).takes(&one));
        for wrong in [
            filter(&["s"], &[], &[], Bound::Earliest, None),
            filter(&[], &["sleep"], &[], Bound::Earliest, None),
            filter(&[], &[], &["u"], Bound::Earliest, None),
            filter(&[], &[], &[], Bound::Offset(6), None),
            filter(&[], &[], &[], Bound::Earliest, Some(Bound::Offset(4))),
            filter(&[], &[], &[], time(1006), None),
            filter(&[], &[], &[], Bound::Earliest, Some(time(1004))),
        ] {
            assert!(!wrong.takes(&one), "{wrong:?}");
        }
    }
}
