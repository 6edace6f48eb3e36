//! Every type's route from every endpoint, resolved once from the configuration and the known vocabulary. A sender
//! can choose among the topics in the table, but cannot create one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::layers::{Layer, RouteError, TopicRegistry};
use super::topic::{Route, Topic};
use crate::config;
use crate::vocabulary::KNOWN;

/// Every type's route from every endpoint.
#[derive(Debug)]
pub struct RouteTable(BTreeMap<String, Ways>);

/// The routes of one endpoint.
#[derive(Debug)]
struct Ways {
    /// Every type that is named anywhere, whichever layer defines its route.
    named: HashMap<String, Route>,
    /// Prefixes; the first match counts.
    patterns: Vec<(String, Route)>,
    unknown: Route,
    dead_letter: Topic,
}

/// A part of what a topic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content<'t> {
    /// A type that is known, or named in the routes.
    Type(&'t str),
    /// Other types that begin with this.
    Prefix(&'t str),
    /// All other types.
    AnyOther,
    DeadLetters,
}

/// What a topic holds, each part with the endpoints that it comes from.
pub type Contents<'t> = BTreeMap<Content<'t>, BTreeSet<&'t str>>;

impl RouteTable {
    /// Resolves a whole configuration.
    ///
    /// # Errors
    /// As for [`Self::build`].
    pub fn of(config: &config::Config) -> Result<Self, Vec<RouteError>> {
        let own = config.endpoints.iter().map(|endpoint| (&*endpoint.name, &endpoint.routes));
        Self::build(&config.routes, own)
    }

    /// Resolves the routes of every endpoint. Its own settings take precedence over all common routes: first its
    /// types, then its template for known types and its `unknown` for others.
    ///
    /// # Errors
    /// All mistakes that only the whole table shows.
    pub fn build<'a>(
        common: &config::Routes,
        endpoints: impl IntoIterator<Item = (&'a str, &'a config::OwnRoutes)>,
    ) -> Result<Self, Vec<RouteError>> {
        let (mut registry, mut ways) = (TopicRegistry::default(), BTreeMap::new());
        for (endpoint, own) in endpoints {
            let layers = [Layer::own(endpoint, own), Layer::common(endpoint, common)];
            ways.insert(endpoint.to_owned(), Ways::new(&layers, &mut registry));
        }
        let errors = registry.errors();
        if errors.is_empty() { Ok(Self(ways)) } else { Err(errors) }
    }

    fn ways(&self, endpoint: &str) -> &Ways {
        self.0.get(endpoint).expect("the table was made with every endpoint")
    }

    /// The route of one event. The endpoint must be one of those in the table.
    pub fn resolve(&self, endpoint: &str, event_type: &str) -> &Route {
        let ways = self.ways(endpoint);
        ways.named.get(event_type).or_else(|| fitting(&ways.patterns, event_type)).unwrap_or(&ways.unknown)
    }

    /// The topic for signed bodies that cannot be read.
    pub fn dead_letter(&self, endpoint: &str) -> &Topic {
        &self.ways(endpoint).dead_letter
    }

    /// Every topic that a message can go to, sorted and unique.
    pub fn topics(&self) -> Vec<Topic> {
        self.contents().into_keys().cloned().collect()
    }

    /// What goes to every topic, and from which endpoints.
    pub fn contents(&self) -> BTreeMap<&Topic, Contents<'_>> {
        let mut contents = BTreeMap::<_, Contents<'_>>::new();
        for (endpoint, ways) in &self.0 {
            for (content, topic) in ways.contents() {
                contents.entry(topic).or_default().entry(content).or_default().insert(endpoint);
            }
        }
        contents
    }

    /// The names of the endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The topics of the wanted types, sorted and unique; a pattern may match any type.
    pub fn topics_of(&self, wanted: impl Fn(&str) -> bool) -> Vec<Topic> {
        let mut topics = BTreeSet::new();
        for ways in self.0.values() {
            let named = ways.named.iter().filter(|(name, _)| wanted(name)).map(|(_, route)| route);
            topics.extend(named.chain(ways.unnamed()).filter_map(Route::topic).cloned());
        }
        topics.into_iter().collect()
    }

    /// The table for display: endpoint, type or pattern, and the route. Rows that are the same for every endpoint,
    /// apart from the named types, come last and once.
    pub fn rows(&self) -> Vec<(String, String, Route)> {
        let all: Vec<_> = self.0.values().map(Ways::others).collect();
        let shared = |row: &(String, Route)| all.iter().all(|others| others.contains(row));
        let mut rows = Vec::new();
        for (endpoint, ways) in &self.0 {
            let named: BTreeMap<_, _> = ways.named.iter().collect();
            let named = named.into_iter().map(|(name, route)| (name.clone(), route.clone()));
            let others = ways.others().into_iter().filter(|row| !shared(row));
            rows.extend(named.chain(others).map(|(name, route)| (endpoint.clone(), name, route)));
        }
        let shared = all.first().into_iter().flatten().filter(|row| shared(row)).cloned();
        rows.extend(shared.map(|(name, route)| ("*".to_owned(), name, route)));
        rows
    }
}

/// Why the common layer always answers.
const COMMON: &str = "the common routes leave nothing out";

impl Ways {
    fn new(layers: &[Layer<'_>; 2], registry: &mut TopicRegistry) -> Self {
        let [own, common] = layers;
        let decided = |name: &str| own.route(name).or_else(|| common.route(name)).expect(COMMON);
        let exact = layers.iter().flat_map(|layer| layer.types.keys().map(String::as_str));
        let names = KNOWN.iter().map(|known| known.name).chain(exact.filter(|name| !name.ends_with('*')));
        let named = names.map(|name| (name.to_owned(), registry.register(decided(name)))).collect();
        let mut patterns = own.patterns();
        if own.unknown.is_none() {
            patterns.extend(common.patterns());
        }
        let patterns = patterns.into_iter().map(|(prefix, route)| (prefix, registry.register(route))).collect();
        let unknown = own.unknown().or_else(|| common.unknown()).expect(COMMON);
        let (dead_letter, key) = own.dead_letter().or_else(|| common.dead_letter()).expect(COMMON);
        registry.register((Route::To(dead_letter.clone()), key));
        Self { named, patterns, unknown: registry.register(unknown), dead_letter }
    }

    /// The routes of unnamed types.
    fn unnamed(&self) -> impl Iterator<Item = &Route> {
        self.patterns.iter().map(|(_, route)| route).chain([&self.unknown])
    }

    /// Each part of what is published, and its topic.
    fn contents(&self) -> impl Iterator<Item = (Content<'_>, &Topic)> {
        let named = self.named.iter().map(|(name, route)| (Content::Type(name), route));
        let patterns = self.patterns.iter().map(|(prefix, route)| (Content::Prefix(prefix), route));
        let routed = named.chain(patterns).chain([(Content::AnyOther, &self.unknown)]);
        let routed = routed.filter_map(|(content, route)| Some((content, route.topic()?)));
        routed.chain([(Content::DeadLetters, &self.dead_letter)])
    }

    /// The rows besides the named types.
    fn others(&self) -> Vec<(String, Route)> {
        let patterns = self.patterns.iter().map(|(prefix, route)| (format!("{prefix}*"), route.clone()));
        let unknown = ("(any other type)".to_owned(), self.unknown.clone());
        let dead_letter = ("(unreadable)".to_owned(), Route::To(self.dead_letter.clone()));
        patterns.chain([unknown, dead_letter]).collect()
    }
}

fn fitting<'p>(patterns: &'p [(String, Route)], event_type: &str) -> Option<&'p Route> {
    patterns.iter().find(|(prefix, _)| event_type.starts_with(prefix.as_str())).map(|(_, route)| route)
}
