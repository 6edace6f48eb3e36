//! Which topic an event goes to. Comes in: the configuration and the known vocabulary, once; then
//! each event's endpoint and type. Goes out: a [`Route`]. A sender can choose among the topics that
//! are in the table, and can make none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::config;
use crate::vocabulary::KNOWN;

/// The name of a destination, legal on every bus.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Deref for Topic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Topic {
    /// Of what was kept: the table that sent it there may be another one by now.
    pub(crate) fn of_record(name: &str) -> Self {
        Self(name.into())
    }
}

#[cfg(test)]
impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// Where an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    To(Topic),
    /// The user's own table drops this type.
    Drop,
}

/// Every type's way, resolved once.
#[derive(Debug)]
pub struct Table {
    by_endpoint: HashMap<String, HashMap<String, Route>>,
    /// Prefixes, the longest first.
    patterns: Vec<(String, Route)>,
    unknown: Route,
    dead_letter: Topic,
}

impl Table {
    /// Resolves the routes of every endpoint.
    ///
    /// # Errors
    /// All mistakes that only the whole table shows, each naming its key.
    pub fn build(routes: &config::Routes, endpoints: &[&str]) -> Result<Self, Vec<String>> {
        let route = |topic: &Option<String>| topic.as_deref().map_or(Route::Drop, |name| Route::To(Topic(name.into())));
        let (patterns, exact): (Vec<_>, Vec<_>) = routes
            .types
            .iter()
            .map(|(name, topic)| (name.as_str(), route(topic)))
            .partition(|(name, _)| name.ends_with('*'));
        let mut patterns: Vec<_> =
            patterns.into_iter().map(|(name, route)| (name.trim_end_matches('*').to_owned(), route)).collect();
        patterns.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let by_endpoint = endpoints
            .iter()
            .map(|endpoint| {
                let known = KNOWN.iter().filter(|known| pattern(&patterns, known.name).is_none());
                let mut types: HashMap<_, _> =
                    known.map(|known| (known.name.to_owned(), templated(routes, endpoint, known.name))).collect();
                types.extend(exact.iter().map(|(name, route)| ((*name).to_owned(), route.clone())));
                ((*endpoint).to_owned(), types)
            })
            .collect();
        let dead_letter = Topic(routes.dead_letter.as_str().into());
        let table = Self { by_endpoint, patterns, unknown: route(&routes.unknown), dead_letter };
        let mut mistakes = confusable(&table.topics());
        mistakes.extend(table.topics().iter().filter_map(illegal));
        if mistakes.is_empty() { Ok(table) } else { Err(mistakes) }
    }

    /// The way of one event.
    pub fn resolve(&self, endpoint: &str, event_type: &str) -> &Route {
        self.by_endpoint
            .get(endpoint)
            .and_then(|types| types.get(event_type))
            .or_else(|| pattern(&self.patterns, event_type))
            .unwrap_or(&self.unknown)
    }

    /// Where goes what Terra signed and nobody can read.
    pub fn dead_letter(&self) -> &Topic {
        &self.dead_letter
    }

    /// Every topic that a message can go to, once, sorted.
    pub fn topics(&self) -> Vec<Topic> {
        let exact = self.by_endpoint.values().flat_map(HashMap::values);
        let patterns = self.patterns.iter().map(|(_, route)| route);
        let routes = exact.chain(patterns).chain([&self.unknown]);
        let mut topics: BTreeSet<_> = routes
            .filter_map(|route| match route {
                Route::To(topic) => Some(topic.clone()),
                Route::Drop => None,
            })
            .collect();
        topics.insert(self.dead_letter.clone());
        topics.into_iter().collect()
    }

    /// The table for people: endpoint, type or pattern, and the route; sorted.
    pub fn rows(&self) -> Vec<(String, String, Route)> {
        let mut rows = Vec::new();
        let endpoints: BTreeMap<_, _> = self.by_endpoint.iter().collect();
        for (endpoint, types) in endpoints {
            let types: BTreeMap<_, _> = types.iter().collect();
            rows.extend(types.into_iter().map(|(name, route)| (endpoint.clone(), name.clone(), route.clone())));
        }
        let all = || "*".to_owned();
        rows.extend(self.patterns.iter().map(|(prefix, route)| (all(), format!("{prefix}*"), route.clone())));
        rows.push((all(), "(any other type)".to_owned(), self.unknown.clone()));
        rows.push((all(), "(unreadable)".to_owned(), Route::To(self.dead_letter.clone())));
        rows
    }
}

fn pattern<'p>(patterns: &'p [(String, Route)], event_type: &str) -> Option<&'p Route> {
    patterns.iter().find(|(prefix, _)| event_type.starts_with(prefix.as_str())).map(|(_, route)| route)
}

fn templated(routes: &config::Routes, endpoint: &str, event_type: &str) -> Route {
    let name = routes.template.replace("{endpoint}", endpoint).replace("{type}", event_type);
    Route::To(Topic(name.into()))
}

/// Kafka refuses two topics that differ only in `.` and `_`: their metrics would collide.
fn confusable(topics: &[Topic]) -> Vec<String> {
    let mut by_shape: BTreeMap<String, Vec<&Topic>> = BTreeMap::new();
    for topic in topics {
        by_shape.entry(topic.replace('.', "_")).or_default().push(topic);
    }
    let clashes = by_shape.into_values().filter(|topics| topics.len() > 1);
    clashes
        .map(|topics| {
            let names: Vec<_> = topics.iter().map(|topic| format!("`{topic}`")).collect();
            format!(
                "make the topics {} differ only in `.` and `_`, which Kafka refuses; rename one in routes.types",
                names.join(" and ")
            )
        })
        .collect()
}

/// A template and a type that are legal apart may be too long together.
fn illegal(topic: &Topic) -> Option<String> {
    let problem = config::topic_name(topic).err()?;
    Some(format!("make the topic `{topic}`, which is no name for one: it {problem}; change routes.template"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(types: &[(&str, Option<&str>)]) -> config::Routes {
        config::Routes {
            template: "terra.{type}".into(),
            unknown: Some("terra.unknown".into()),
            dead_letter: "terra.dead-letter".into(),
            types: types.iter().map(|(name, topic)| ((*name).into(), topic.map(Into::into))).collect(),
        }
    }

    fn table(types: &[(&str, Option<&str>)]) -> Table {
        Table::build(&routes(types), &["terra"]).unwrap()
    }

    fn to(topic: &str) -> Route {
        Route::To(topic.into())
    }

    #[test]
    fn known_types_follow_the_template_and_strangers_go_to_unknown() {
        let table = table(&[]);
        assert_eq!(*table.resolve("terra", "daily"), to("terra.daily"));
        assert_eq!(*table.resolve("terra", "lab_report.completed"), to("terra.lab_report.completed"));
        for stranger in ["Daily", "daily2", "", "unknown", "dead-letter", "a/b", "*"] {
            assert_eq!(*table.resolve("terra", stranger), to("terra.unknown"), "{stranger}");
        }
        assert_eq!(table.topics().len(), KNOWN.len() + 2);
    }

    #[test]
    fn exact_beats_pattern_and_longer_beats_shorter() {
        let table = table(&[
            ("daily", None),
            ("brand.new", Some("new")),
            ("lab_*", Some("lab")),
            ("lab_report.*", Some("reports")),
            ("lab_report.failed", Some("failures")),
            ("x*", None),
        ]);
        assert_eq!(*table.resolve("terra", "daily"), Route::Drop);
        assert_eq!(*table.resolve("terra", "brand.new"), to("new"));
        assert_eq!(*table.resolve("terra", "lab_report"), to("lab"));
        assert_eq!(*table.resolve("terra", "lab_report.completed"), to("reports"));
        assert_eq!(*table.resolve("terra", "lab_report.failed"), to("failures"));
        assert_eq!(*table.resolve("terra", "xyz"), Route::Drop);
        assert!(!table.topics().contains(&"terra.daily".into()));
        assert!(!table.topics().contains(&"terra.lab_report".into()));
    }

    #[test]
    fn a_pattern_of_everything_leaves_nothing_unknown() {
        let table = table(&[("*", Some("all")), ("sleep", Some("nights"))]);
        assert_eq!(*table.resolve("terra", "daily"), to("all"));
        assert_eq!(*table.resolve("terra", "whatever"), to("all"));
        assert_eq!(*table.resolve("terra", "sleep"), to("nights"));
    }

    #[test]
    fn topics_that_differ_in_dot_and_underscore_are_a_mistake() {
        let routes = routes(&[("daily", Some("my.daily")), ("sleep", Some("my_daily"))]);
        let mistakes = Table::build(&routes, &["terra"]).unwrap_err();
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].contains("`my.daily` and `my_daily`"), "{}", mistakes[0]);
    }
}
