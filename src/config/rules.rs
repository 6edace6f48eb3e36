//! Rules between keys: mistakes that two or more values make together, each valid on its own. A rule is skipped if
//! one of its keys already has a mistake.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::buses::Bus;
use super::draft::Draft;
use super::effective::State;
use super::mistake::{Mistake, Source};
use super::units;

/// Adds the mistakes of all rules.
pub(super) fn check(draft: &mut Draft) {
    let mut found = Vec::new();
    for rule in [bus, limits, pairs, ports, paths, dedupe, kafka_login, nats_login, embedded_token, otlp] {
        rule(draft, &mut found);
    }
    draft.mistakes.extend(found);
}

/// Keys of a broker are given, but no bus is selected: the embedded log is hardly intended.
fn bus(draft: &Draft, found: &mut Vec<Mistake>) {
    let mut unused = draft.effective.lines.iter().filter(|line| line.state == State::Unused);
    let of_broker = unused.find(|line| !line.key.starts_with("embedded."));
    let Some(line) = of_broker.filter(|_| draft.source("bus") == Source::Default) else { return };
    let bus = line.key.split('.').next().unwrap_or_default();
    let wrong = format!("is not given, while there are keys of {bus}");
    let remedy = format!("set bus = {bus:?}, or bus = \"embedded\" to keep events in the embedded log");
    found.push(Mistake::new("bus", &line.source, wrong).remedy(remedy));
}

/// Numbers of which one limits the other.
fn limits(draft: &Draft, found: &mut Vec<Mistake>) {
    let server = &draft.config.server;
    if server.publish_timeout >= server.deadline {
        let remedy = "make it shorter than the deadline";
        found.extend(conflict(draft, "server.publish_timeout", "server.deadline", remedy));
    }
    if server.bytes_in_flight < server.max_body {
        let remedy = "make it large enough for several bodies";
        found.extend(conflict(draft, "server.bytes_in_flight", "server.max_body", remedy));
    }
    if let Bus::Nats(nats) = &draft.config.bus
        && nats.duplicate_window > nats.max_age
    {
        let remedy = "make it at most nats.max_age: NATS refuses it otherwise";
        found.extend(conflict(draft, "nats.duplicate_window", "nats.max_age", remedy));
    }
}

/// Two values that conflict.
fn conflict(draft: &Draft, key: &str, other: &str, remedy: &str) -> Option<Mistake> {
    let (ours, theirs) = (draft.line(key)?, draft.line(other)?);
    let wrong = format!("is {}, but {other} is {} ({})", ours.value, theirs.value, theirs.source);
    Some(Mistake::new(key, &ours.source, wrong).remedy(remedy))
}

/// Keys that need each other.
fn pairs(draft: &Draft, found: &mut Vec<Mistake>) {
    for (one, other) in [
        ("server.tls.certificate", "server.tls.key"),
        ("embedded.tls.certificate", "embedded.tls.key"),
        ("kafka.tls.certificate", "kafka.tls.key"),
        ("kafka.username", "kafka.password"),
        ("kafka.oauth.token_url", "kafka.oauth.client_id"),
        ("kafka.oauth.token_url", "kafka.oauth.client_secret"),
        ("nats.tls.certificate", "nats.tls.key"),
        ("nats.user", "nats.password"),
    ] {
        found.extend(lone(draft, one, other).or_else(|| lone(draft, other, one)));
    }
}

/// A key without another that it needs.
fn lone(draft: &Draft, key: &str, needed: &str) -> Option<Mistake> {
    let line = draft.line(key).filter(|_| !draft.is_given(needed))?;
    let mistake = Mistake::new(key, &line.source, format!("is given without {needed}"));
    Some(mistake.remedy(format!("set {needed}, or remove it")))
}

/// Listeners that would use the same port.
fn ports(draft: &Draft, found: &mut Vec<Mistake>) {
    let config = &draft.config;
    let mut listeners = vec![("server.listen", config.server.listen), ("admin.listen", config.admin.listen)];
    if let Bus::Embedded(embedded) = &config.bus {
        listeners.push(("embedded.listen", embedded.listen));
    }
    for (at, (key, address)) in listeners.iter().enumerate() {
        for (other, _) in listeners[..at].iter().filter(|(_, taken)| overlap(*taken, *address)) {
            found.extend(conflict(draft, key, other, "give each listener a port of its own"));
        }
    }
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let wide = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || wide)
}

/// A proxy between a sender and the bridge may add or remove a trailing slash.
fn paths(draft: &Draft, found: &mut Vec<Mistake>) {
    let mut taken: BTreeMap<&str, (String, &str)> = BTreeMap::new();
    for endpoint in &draft.config.endpoints {
        let (key, path) = (format!("endpoints.{}.path", endpoint.name), endpoint.path.as_str());
        let Some(line) = draft.line(&key) else { continue };
        if let Some((other, theirs)) = taken.get(path.trim_end_matches('/')) {
            let same = if *theirs == path { "is the same as" } else { "differs only in its final slash from" };
            let wrong = format!("{same} {other} ({})", draft.source(other));
            found.push(Mistake::new(key, &line.source, wrong).remedy("give each endpoint a path of its own"));
        } else {
            taken.insert(path.trim_end_matches('/'), (key, path));
        }
    }
}

/// A replay of a delivery that is still accepted must be recognised.
fn dedupe(draft: &Draft, found: &mut Vec<Mistake>) {
    let is_sound = |endpoint: &str, key: &str| draft.is_sound(&format!("endpoints.{endpoint}.{key}"));
    let endpoints = draft.config.endpoints.iter();
    let sound = endpoints.filter(|of| is_sound(&of.name, "max_age") && is_sound(&of.name, "max_skew"));
    let longest = sound.map(|of| (of.max_age + of.max_skew, &of.name)).max();
    let longest = longest.filter(|(longest, _)| draft.config.dedupe.window < *longest);
    if let (Some((longest, endpoint)), Some(window)) = (longest, draft.line("dedupe.window")) {
        let longest = units::show_duration(longest);
        let wrong =
            format!("is {}, but max_age and max_skew of endpoint {endpoint} are {longest:?} together", window.value);
        found.push(Mistake::new("dedupe.window", &window.source, wrong).remedy("make it at least as long"));
    }
}

fn kafka_login(draft: &Draft, found: &mut Vec<Mistake>) {
    const OAUTH: &str = "kafka.oauth.token_url";
    for key in ["kafka.oauth.scope", "kafka.oauth.extensions", "kafka.oauth.ca"] {
        found.extend(lone(draft, key, OAUTH));
    }
    if let (Some(username), Some(oauth)) = (draft.line("kafka.username"), draft.line(OAUTH)) {
        let wrong = format!("is a second way to log in, beside {OAUTH} ({})", oauth.source);
        found.push(Mistake::new("kafka.username", &username.source, wrong).remedy("keep one of the two"));
    }
    let key = "kafka.sasl_mechanism";
    let is_oauth = draft.line(key).is_some_and(|mechanism| mechanism.value == "\"OAUTHBEARER\"");
    match draft.is_given(OAUTH) {
        true if !is_oauth => found.extend(conflict(draft, key, OAUTH, "remove one of the two")),
        true => {}
        // Which is a mistake of its own.
        false if draft.is_sound("kafka.properties.sasl.username") => {}
        false => found.extend(lone(draft, key, if is_oauth { OAUTH } else { "kafka.username" })),
    }
}

fn nats_login(draft: &Draft, found: &mut Vec<Mistake>) {
    let ways = ["nats.credentials", "nats.nkey", "nats.user", "nats.token"];
    let mut used = ways.iter().filter_map(|key| draft.line(key));
    let Some(first) = used.next() else { return };
    for second in used {
        let wrong = format!("is a second way to log in, beside {} ({})", first.key, first.source);
        let remedy = format!("keep one of {}", ways.join(", "));
        found.push(Mistake::new(&second.key, &second.source, wrong).remedy(remedy));
    }
}

fn otlp(draft: &Draft, found: &mut Vec<Mistake>) {
    const HEADERS: &str = "otlp.headers";
    for key in [HEADERS, "otlp.ca"] {
        found.extend(lone(draft, key, "otlp.endpoint"));
    }
    let is_odd = draft.config.otlp.as_ref().is_some_and(|otlp| otlp.header_pairs().is_none());
    if let Some(line) = draft.line(HEADERS).filter(|_| is_odd) {
        let mistake = Mistake::new(HEADERS, &line.source, "is no list of headers");
        found.push(mistake.allowed("name=value, with commas between them; a value may be percent-encoded"));
    }
}

fn embedded_token(draft: &Draft, found: &mut Vec<Mistake>) {
    let (Bus::Embedded(embedded), Some(listen)) = (&draft.config.bus, draft.line("embedded.listen")) else { return };
    if !embedded.listen.ip().to_canonical().is_loopback() && !draft.is_given("embedded.token") {
        let wrong = format!("is {}, which others can reach, and embedded.token is not given", listen.value);
        let remedy = "set embedded.token to a reference such as \"file:/path\", or listen on 127.0.0.1";
        found.push(Mistake::new("embedded.listen", &listen.source, wrong).remedy(remedy));
    }
}
