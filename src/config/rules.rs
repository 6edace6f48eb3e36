//! How keys belong together: the mistakes that two or more of them make, each sound on its own. A rule is silent
//! where one of its keys is mistaken already.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::buses::Bus;
use super::draft::Draft;
use super::effective::State;
use super::mistake::{Mistake, Source};
use super::units;

/// Adds the mistakes that show.
pub(super) fn check(draft: &mut Draft) {
    let rules = [bus, limits, pairs, ports, paths, dedupe, kafka, nats, embedded];
    let found: Vec<Mistake> = rules.iter().flat_map(|rule| rule(draft)).collect();
    draft.mistakes.extend(found);
}

/// Keys of a broker, and nobody said which bus to use: the embedded log is hardly what they mean.
fn bus(draft: &Draft) -> Vec<Mistake> {
    let mut unused = draft.effective.lines.iter().filter(|line| line.state == State::Unused);
    let of_broker = unused.find(|line| !line.key.starts_with("embedded."));
    let Some(line) = of_broker.filter(|_| draft.source("bus") == Source::Default) else { return Vec::new() };
    let bus = line.key.split('.').next().unwrap_or_default();
    let wrong = format!("is not given, while there are keys of {bus}");
    let remedy = format!("set bus = {bus:?}, or bus = \"embedded\" to keep events in the embedded log");
    vec![Mistake::new("bus", &line.source, wrong).remedy(remedy)]
}

/// Numbers of which one bounds the other.
fn limits(draft: &Draft) -> Vec<Mistake> {
    let server = &draft.config.server;
    let mut mistakes = Vec::new();
    if server.publish_timeout >= server.deadline {
        let remedy = "make it shorter than the deadline";
        mistakes.extend(conflict(draft, "server.publish_timeout", "server.deadline", remedy));
    }
    if server.bytes_in_flight < server.max_body {
        let remedy = "make it large enough for several bodies";
        mistakes.extend(conflict(draft, "server.bytes_in_flight", "server.max_body", remedy));
    }
    if let Bus::Nats(nats) = &draft.config.bus
        && nats.duplicate_window > nats.max_age
    {
        let remedy = "make it at most nats.max_age: NATS refuses it otherwise";
        mistakes.extend(conflict(draft, "nats.duplicate_window", "nats.max_age", remedy));
    }
    mistakes
}

/// Two values that do not go together.
fn conflict(draft: &Draft, key: &str, other: &str, remedy: &str) -> Option<Mistake> {
    let (ours, theirs) = (draft.line(key)?, draft.line(other)?);
    let wrong = format!("is {}, but {other} is {} ({})", ours.value, theirs.value, theirs.source);
    Some(Mistake::new(key, &ours.source, wrong).remedy(remedy))
}

/// Keys of which each needs the other.
fn pairs(draft: &Draft) -> Vec<Mistake> {
    const PAIRS: [[&str; 2]; 6] = [
        ["server.tls.certificate", "server.tls.key"],
        ["embedded.tls.certificate", "embedded.tls.key"],
        ["kafka.tls.certificate", "kafka.tls.key"],
        ["kafka.username", "kafka.password"],
        ["nats.tls.certificate", "nats.tls.key"],
        ["nats.user", "nats.password"],
    ];
    let both_ways = PAIRS.iter().flat_map(|[one, other]| [(one, other), (other, one)]);
    both_ways.filter_map(|(key, needed)| lone(draft, key, needed)).collect()
}

/// A key without another that it needs.
fn lone(draft: &Draft, key: &str, needed: &str) -> Option<Mistake> {
    let line = draft.line(key)?;
    // A key that is mistaken is given all the same.
    if draft.is_sound(needed) || is_mistaken(draft, needed) {
        return None;
    }
    let mistake = Mistake::new(key, &line.source, format!("is given without {needed}"));
    Some(mistake.remedy(format!("set {needed}, or remove it")))
}

fn is_mistaken(draft: &Draft, key: &str) -> bool {
    draft.mistakes.iter().any(|mistake| mistake.key == key)
}

/// Listeners that would take each other's port.
fn ports(draft: &Draft) -> Vec<Mistake> {
    let config = &draft.config;
    let mut listeners = vec![("server.listen", config.server.listen), ("admin.listen", config.admin.listen)];
    if let Bus::Embedded(embedded) = &config.bus {
        listeners.push(("embedded.listen", embedded.listen));
    }
    let mut mistakes = Vec::new();
    for (at, (key, address)) in listeners.iter().enumerate() {
        for (other, _) in listeners[..at].iter().filter(|(_, taken)| overlap(*taken, *address)) {
            mistakes.extend(conflict(draft, key, other, "give each listener a port of its own"));
        }
    }
    mistakes
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let wide = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || wide)
}

/// What stands between a sender and the bridge may add or take away a final slash.
fn paths(draft: &Draft) -> Vec<Mistake> {
    let mut taken: BTreeMap<&str, (String, &str)> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for endpoint in &draft.config.endpoints {
        let (key, path) = (format!("endpoints.{}.path", endpoint.name), endpoint.path.as_str());
        let Some(line) = draft.line(&key) else { continue };
        if let Some((other, theirs)) = taken.get(path.trim_end_matches('/')) {
            let same = if *theirs == path { "is the same as" } else { "differs only in its final slash from" };
            let wrong = format!("{same} {other} ({})", draft.source(other));
            let mistake = Mistake::new(key, &line.source, wrong);
            mistakes.push(mistake.remedy("give each endpoint a path of its own"));
        } else {
            taken.insert(path.trim_end_matches('/'), (key, path));
        }
    }
    mistakes
}

/// Who replays a delivery that is still taken must find it remembered.
fn dedupe(draft: &Draft) -> Vec<Mistake> {
    let is_sound = |endpoint: &str, key: &str| draft.is_sound(&format!("endpoints.{endpoint}.{key}"));
    let sound =
        draft.config.endpoints.iter().filter(|of| is_sound(&of.name, "max_age") && is_sound(&of.name, "max_skew"));
    let Some((longest, endpoint)) = sound.map(|of| (of.max_age + of.max_skew, &of.name)).max() else {
        return Vec::new();
    };
    let window = draft.line("dedupe.window").filter(|_| draft.config.dedupe.window < longest);
    let mistake = window.map(|window| {
        let longest = units::show_duration(longest);
        let together = format!("max_age and max_skew of endpoint {endpoint} are {longest:?} together");
        Mistake::new("dedupe.window", &window.source, format!("is {}, but {together}", window.value))
            .remedy("make it at least as long")
    });
    mistake.into_iter().collect()
}

fn kafka(draft: &Draft) -> Vec<Mistake> {
    let named_otherwise = draft.is_sound("kafka.properties.sasl.username");
    let lone = lone(draft, "kafka.sasl_mechanism", "kafka.username");
    lone.filter(|_| !named_otherwise).into_iter().collect()
}

fn nats(draft: &Draft) -> Vec<Mistake> {
    let ways = ["nats.credentials", "nats.nkey", "nats.user", "nats.token"];
    let mut used = ways.iter().filter_map(|key| draft.line(key));
    let Some(first) = used.next() else { return Vec::new() };
    let second = used.map(|second| {
        let wrong = format!("is a second way to log in, beside {} ({})", first.key, first.source);
        Mistake::new(&second.key, &second.source, wrong).remedy(format!("keep one of {}", ways.join(", ")))
    });
    second.collect()
}

fn embedded(draft: &Draft) -> Vec<Mistake> {
    const TOKEN: &str = "embedded.token";
    let (Bus::Embedded(embedded), Some(listen)) = (&draft.config.bus, draft.line("embedded.listen")) else {
        return Vec::new();
    };
    let is_private = embedded.listen.ip().to_canonical().is_loopback();
    if is_private || draft.is_sound(TOKEN) || is_mistaken(draft, TOKEN) {
        return Vec::new();
    }
    let wrong = format!("is {}, which others can reach, and {TOKEN} is not given", listen.value);
    let remedy = "set embedded.token to a reference such as \"file:/path\", or listen on 127.0.0.1";
    vec![Mistake::new("embedded.listen", &listen.source, wrong).remedy(remedy)]
}
