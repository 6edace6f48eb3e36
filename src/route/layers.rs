//! One layer of routes, an endpoint's own or the common one: the route of each type, with its configuration key. And
//! the errors that only the whole set of topics shows.

use std::collections::BTreeMap;

use super::topic::{Route, Topic};
use crate::config;
use crate::vocabulary::KNOWN;

/// An error that only the whole table shows. Each names its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteError {
    /// A template and a type that are legal on their own may be too long together.
    Illegal { key: String, topic: Topic, problem: &'static str },
    /// Kafka refuses two topics that differ only in `.` and `_`, because their metrics would collide.
    Confusable { key: String, topic: Topic, other: Topic, others_key: String },
}

/// A route, and the configuration key that defines it.
pub(super) type RouteWithKey = (Route, String);

/// One of the two sections that define where an endpoint's events go.
pub(super) struct Layer<'a> {
    endpoint: &'a str,
    /// The name of its table.
    table: String,
    template: Option<&'a str>,
    pub(super) unknown: Option<&'a Option<String>>,
    dead_letter: Option<&'a str>,
    pub(super) types: &'a BTreeMap<String, Option<String>>,
}

impl<'a> Layer<'a> {
    pub(super) fn own(endpoint: &'a str, routes: &'a config::OwnRoutes) -> Self {
        Self {
            endpoint,
            table: format!("endpoints.{endpoint}.routes"),
            template: routes.template.as_deref(),
            unknown: routes.unknown.as_ref(),
            dead_letter: routes.dead_letter.as_deref(),
            types: &routes.types,
        }
    }

    pub(super) fn common(endpoint: &'a str, routes: &'a config::Routes) -> Self {
        Self {
            endpoint,
            table: "routes".to_owned(),
            template: Some(&routes.template),
            unknown: Some(&routes.unknown),
            dead_letter: Some(&routes.dead_letter),
            types: &routes.types,
        }
    }

    /// `None`: the other layer decides.
    pub(super) fn route(&self, event_type: &str) -> Option<RouteWithKey> {
        let exact = || self.types.get(event_type).map(|topic| self.of_type(event_type, topic));
        let pattern = || {
            let mut patterns = self.patterns().into_iter();
            patterns.find(|(prefix, _)| event_type.starts_with(prefix.as_str())).map(|(_, route)| route)
        };
        exact().or_else(pattern).or_else(|| match KNOWN.iter().any(|known| known.name == event_type) {
            true => self.templated(event_type),
            false => self.unknown(),
        })
    }

    fn of_type(&self, name: &str, topic: &Option<String>) -> RouteWithKey {
        self.with_key(&format!("types.{name}"), topic.as_deref())
    }

    /// Prefixes, longest first.
    pub(super) fn patterns(&self) -> Vec<(String, RouteWithKey)> {
        let prefix = |name: &'a String| name.strip_suffix('*');
        let mut patterns: Vec<_> = self
            .types
            .iter()
            .filter_map(|(name, topic)| Some((prefix(name)?.to_owned(), self.of_type(name, topic))))
            .collect();
        patterns.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        patterns
    }

    fn templated(&self, event_type: &str) -> Option<RouteWithKey> {
        self.template.map(|template| self.with_key("template", Some(&template.replace("{type}", event_type))))
    }

    pub(super) fn unknown(&self) -> Option<RouteWithKey> {
        self.unknown.map(|topic| self.with_key("unknown", topic.as_deref()))
    }

    pub(super) fn dead_letter(&self) -> Option<(Topic, String)> {
        self.dead_letter.map(|name| (self.fill(name), format!("{}.dead_letter", self.table)))
    }

    fn with_key(&self, key: &str, topic: Option<&str>) -> RouteWithKey {
        let route = topic.map_or(Route::Drop, |name| Route::To(self.fill(name)));
        (route, format!("{}.{key}", self.table))
    }

    fn fill(&self, name: &str) -> Topic {
        Topic::new(name.replace("{endpoint}", self.endpoint))
    }
}

/// Every topic, with the first key that defines it.
#[derive(Default)]
pub(super) struct TopicRegistry(BTreeMap<Topic, String>);

impl TopicRegistry {
    pub(super) fn register(&mut self, (route, key): RouteWithKey) -> Route {
        if let Some(topic) = route.topic() {
            self.0.entry(topic.clone()).or_insert(key);
        }
        route
    }

    /// At most one of each kind per key.
    pub(super) fn errors(&self) -> Vec<RouteError> {
        let mut errors = BTreeMap::new();
        let mut shapes: BTreeMap<String, (&Topic, &String)> = BTreeMap::new();
        for (topic, key) in &self.0 {
            if let Err(problem) = config::topic_name(topic) {
                let illegal = || RouteError::Illegal { key: key.clone(), topic: topic.clone(), problem };
                errors.entry((key, None)).or_insert_with(illegal);
            }
            let (other, others_key) = *shapes.entry(topic.replace('.', "_")).or_insert((topic, key));
            if other != topic {
                errors.entry((key, Some(others_key))).or_insert_with(|| RouteError::Confusable {
                    key: key.clone(),
                    topic: topic.clone(),
                    other: other.clone(),
                    others_key: others_key.clone(),
                });
            }
        }
        errors.into_values().collect()
    }
}
