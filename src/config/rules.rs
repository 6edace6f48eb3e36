//! How keys belong together. Comes in: values that are sound each on its own. Goes out: the mistakes
//! that two or more of them make. A rule is silent where one of its keys is mistaken already.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::mistake::Mistake;
use super::values::Values;
use super::{resolve, units};
use crate::bus;
use crate::route::{RouteError, RouteTable};
use crate::server;

pub(super) fn judge(values: &Values) -> Vec<Mistake> {
    let rules = [times, sizes, certificates, ports, paths, routes, dedupe, kafka, nats, embedded];
    rules.iter().flat_map(|rule| rule(values)).collect()
}

fn together(key: &str, values: &Values, wrong: String, remedy: impl Into<String>) -> Mistake {
    Mistake::new(key, &values.source(key), wrong).remedy(remedy)
}

fn times(values: &Values) -> Vec<Mistake> {
    let publish: Option<Duration> = values.get("server.publish_timeout");
    let deadline: Option<Duration> = values.get("server.deadline");
    let (Some(publish), Some(deadline)) = (publish, deadline) else { return Vec::new() };
    if publish < deadline {
        return Vec::new();
    }
    let (publish, deadline) = (units::show_duration(publish), units::show_duration(deadline));
    let wrong = format!("is {publish:?}, but server.deadline is {deadline:?} ({})", values.source("server.deadline"));
    vec![together("server.publish_timeout", values, wrong, "make it shorter than the deadline")]
}

fn sizes(values: &Values) -> Vec<Mistake> {
    let whole: Option<u64> = values.get("server.bytes_in_flight");
    let one: Option<u64> = values.get("server.max_body");
    let (Some(whole), Some(one)) = (whole, one) else { return Vec::new() };
    if whole >= one {
        return Vec::new();
    }
    let (whole, one) = (units::show_size(whole), units::show_size(one));
    let wrong = format!("is {whole:?}, but server.max_body is {one:?} ({})", values.source("server.max_body"));
    vec![together("server.bytes_in_flight", values, wrong, "make it large enough for several bodies")]
}

fn certificates(values: &Values) -> Vec<Mistake> {
    let pairs = ["server", "embedded"].map(|section| {
        let key = |name: &str| format!("{section}.tls.{name}");
        pair(values, &key("certificate"), &key("key"))
    });
    pairs.into_iter().flatten().collect()
}

/// Listeners that would take each other's port.
fn ports(values: &Values) -> Vec<Mistake> {
    let keys = ["server.listen", "admin.listen", "embedded.listen"];
    let listeners: Vec<(&str, SocketAddr)> = keys.iter().filter_map(|key| Some((*key, values.get(key)?))).collect();
    let mut mistakes = Vec::new();
    for (at, (key, address)) in listeners.iter().enumerate() {
        for (other, taken) in listeners[..at].iter().filter(|(_, taken)| overlap(*taken, *address)) {
            let wrong = format!("is \"{address}\", but {other} is \"{taken}\" ({})", values.source(other));
            mistakes.push(together(key, values, wrong, "give each listener a port of its own"));
        }
    }
    mistakes
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let wide = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || wide)
}

fn paths(values: &Values) -> Vec<Mistake> {
    // What stands between a sender and the bridge may add or take away a final slash.
    let mut taken: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for endpoint in &values.endpoints {
        let key = format!("endpoints.{endpoint}.path");
        let Some(path) = values.get::<String>(&key) else { continue };
        match taken.get(path.trim_end_matches('/')) {
            Some((other, theirs)) => {
                let place = values.source(other);
                let wrong = match *theirs == path {
                    true => format!("is the same as {other} ({place})"),
                    false => format!("differs only in its final slash from {other} ({place})"),
                };
                mistakes.push(together(&key, values, wrong, "give each endpoint a path of its own"));
            }
            None => drop(taken.insert(path.trim_end_matches('/').to_owned(), (key, path))),
        }
    }
    mistakes
}

fn routes(values: &Values) -> Vec<Mistake> {
    let Some(routes) = resolve::routes(values) else { return Vec::new() };
    let own = |name: &String| Some((name.clone(), resolve::own_routes(values, name)?));
    let own: Vec<_> = values.endpoints.iter().filter_map(own).collect();
    // Only the complete table shows topics that collide over all known types.
    let wrongs =
        RouteTable::build(&routes, own.iter().map(|(name, own)| (name.as_str(), own))).err().unwrap_or_default();
    let mistake = |wrong| match wrong {
        RouteError::Illegal { key, topic, problem } => {
            let wrong = format!("makes the topic `{topic}`, which is no name for one: it {problem}");
            together(&key, values, wrong, "change it")
        }
        RouteError::Confusable { key, topic, other, others_key } => {
            let place = values.source(&others_key);
            let wrong = format!(
                "makes the topic `{topic}`, which differs only in `.` and `_` from `{other}` of {others_key} ({place}), \
                 and Kafka refuses that"
            );
            together(&key, values, wrong, "rename one of them")
        }
    };
    wrongs.into_iter().map(mistake).collect()
}

/// Who replays a delivery that is still taken must find it remembered.
fn dedupe(values: &Values) -> Vec<Mistake> {
    let Some(window) = values.get::<Duration>("dedupe.window") else { return Vec::new() };
    let get = |endpoint: &str, key: &str| values.get::<Duration>(&format!("endpoints.{endpoint}.{key}"));
    let taken = |name: &String| Some((get(name, "max_age")? + get(name, "max_skew")?, name.clone()));
    let Some((longest, endpoint)) = values.endpoints.iter().filter_map(taken).max() else { return Vec::new() };
    if window >= longest {
        return Vec::new();
    }
    let wrong = format!(
        "is {:?}, but max_age and max_skew of endpoint {endpoint} are {:?} together",
        units::show_duration(window),
        units::show_duration(longest)
    );
    vec![together("dedupe.window", values, wrong, "make it at least as long")]
}

fn kafka(values: &Values) -> Vec<Mistake> {
    if !values.uses("kafka") {
        return Vec::new();
    }
    let mut mistakes: Vec<Mistake> = pair(values, "kafka.tls.certificate", "kafka.tls.key").into_iter().collect();
    mistakes.extend(pair(values, "kafka.username", "kafka.password"));
    let named = values.has("kafka.username") || values.has("kafka.properties.sasl.username");
    if values.has("kafka.sasl_mechanism") && !named {
        let wrong = "is given without kafka.username".to_owned();
        mistakes.push(together("kafka.sasl_mechanism", values, wrong, "set kafka.username, or remove it"));
    }
    // Where a bound is mistaken itself, nothing is held against it.
    let publish_timeout = values.get("server.publish_timeout").unwrap_or(Duration::from_secs(7));
    let bus_timeout = super::bus_timeout(publish_timeout, values.has("spool.dir"));
    let max_body = values.get("server.max_body").unwrap_or(0);
    if let Some(properties) = resolve::properties(values) {
        let wrongs = bus::kafka::check_properties(&properties, bus_timeout, max_body).into_iter();
        mistakes.extend(wrongs.map(|(property, wrong, remedy)| {
            let key = format!("kafka.properties.{property}");
            Mistake::new(key.clone(), &values.source(&key), wrong).remedy(remedy)
        }));
    }
    mistakes
}

/// Two keys of which each needs the other.
fn pair(values: &Values, one: &str, other: &str) -> Option<Mistake> {
    let lone = |has: &str, lacks: &str| {
        let wrong = format!("is given without {lacks}");
        // A key that is mistaken is given all the same.
        let mistaken = values.mistakes.iter().any(|mistake| mistake.key == lacks);
        (!mistaken).then(|| together(has, values, wrong, format!("set {lacks}, or remove it")))
    };
    match (values.has(one), values.has(other)) {
        (true, false) => lone(one, other),
        (false, true) => lone(other, one),
        _ => None,
    }
}

fn nats(values: &Values) -> Vec<Mistake> {
    if !values.uses("nats") {
        return Vec::new();
    }
    let mut mistakes: Vec<Mistake> = pair(values, "nats.tls.certificate", "nats.tls.key").into_iter().collect();
    mistakes.extend(pair(values, "nats.user", "nats.password"));
    let ways = ["nats.credentials", "nats.nkey", "nats.user", "nats.token"];
    let mut used = ways.iter().filter(|key| values.has(key));
    if let Some(first) = used.next() {
        mistakes.extend(used.map(|key| {
            let wrong = format!("is a second way to log in, beside {first} ({})", values.source(first));
            together(key, values, wrong, "keep one of nats.credentials, nats.nkey, nats.user, nats.token")
        }));
    }
    mistakes.extend(window(values));
    mistakes
}

fn window(values: &Values) -> Option<Mistake> {
    let window: Duration = values.get("nats.duplicate_window")?;
    let age: Duration = values.get("nats.max_age")?;
    if window <= age {
        return None;
    }
    let (window, age) = (units::show_duration(window), units::show_duration(age));
    let wrong = format!("is {window:?}, but nats.max_age is {age:?} ({})", values.source("nats.max_age"));
    Some(together("nats.duplicate_window", values, wrong, "make it at most nats.max_age: NATS refuses it otherwise"))
}

fn embedded(values: &Values) -> Vec<Mistake> {
    const TOKEN: &str = "embedded.token";
    let listen: Option<SocketAddr> = values.get("embedded.listen");
    let mistaken = values.mistakes.iter().any(|mistake| mistake.key == TOKEN);
    match listen {
        Some(listen) if !server::is_loopback(listen.ip()) && !values.has(TOKEN) && !mistaken => {
            let wrong = format!("is \"{listen}\", which others can reach, and {TOKEN} is not given");
            let remedy = "set embedded.token to a reference such as \"file:/path\", or listen on 127.0.0.1";
            vec![together("embedded.listen", values, wrong, remedy)]
        }
        _ => Vec::new(),
    }
}
