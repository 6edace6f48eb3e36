//! The document on values: what goes where. That it is valid, and true of real messages, is for the tests of the binary.

use std::ffi::OsString;

use super::*;
use crate::cli::load_for_reader_without;
use crate::samples::SAMPLES;
use crate::vocabulary::{KNOWN, known};

const BUSES: [&[(&str, &str)]; 3] = [
    &[],
    &[("BUS", "kafka"), ("KAFKA__BROKERS", "one:9092,two:9092")],
    &[("BUS", "nats"), ("NATS__SERVERS", "tls://one:4222/"), ("NATS__OBJECT_STORE", "TERRA_LARGE")],
];

fn loaded(settings: &[(&str, &str)]) -> (config::Bus, RouteTable) {
    let variable = |(name, value): &(&str, &str)| (format!("TERRA_BRIDGE_{name}").into(), OsString::from(value));
    load_for_reader_without(&[], None, settings.iter().map(variable)).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn of(settings: &[(&str, &str)]) -> Value {
    let (bus, table) = loaded(settings);
    value(&bus, &table)
}

/// The topics with this message.
fn topics_of<'d>(document: &'d Value, message: &str) -> BTreeSet<&'d str> {
    let channels = document["channels"].as_object().unwrap().iter();
    let with = channels.filter(|(_, channel)| channel["messages"].get(message).is_some());
    with.map(|(topic, _)| topic.as_str()).collect()
}

const SEVERAL: &[(&str, &str)] = &[
    ("ENDPOINTS__LIVE__PATH", "/live"),
    ("ENDPOINTS__STAGING__PATH", "/staging"),
    ("ENDPOINTS__STAGING__ROUTES", r#"{ template = "{endpoint}.{type}", types = { sleep = "nights", body = false } }"#),
    ("ROUTES__UNKNOWN", "false"),
    ("ROUTES__TYPES", r#"{ sleep = "nights", auth = false, body = false, "lab_*" = "labs", "brand.new" = "brand" }"#),
];

#[test]
fn each_known_type_is_on_exactly_the_topics_that_its_routes_lead_to() {
    for settings in [&[][..], &[("ROUTES__TYPES", r#"{ "*" = "all", daily = false }"#)], SEVERAL] {
        let (bus, table) = loaded(settings);
        let document = value(&bus, &table);
        for known in KNOWN {
            let routes = table.endpoints().map(|endpoint| table.resolve(endpoint, known.name));
            let expected: BTreeSet<&str> =
                routes.filter_map(crate::route::Route::topic).map(|topic| &**topic).collect();
            assert_eq!(topics_of(&document, known.name), expected, "{} of {settings:?}", known.name);
            let component = document["components"]["messages"].get(known.name);
            assert_eq!(component.is_some(), !expected.is_empty(), "{}", known.name);
        }
        let topics: Vec<_> = table.topics().iter().map(ToString::to_string).collect();
        for part in ["channels", "operations"] {
            let keys: Vec<_> = document[part].as_object().unwrap().keys().cloned().collect();
            assert_eq!(keys, topics, "{part}");
        }
    }
}

#[test]
fn topics_say_what_they_hold_and_from_whom() {
    let document = of(SEVERAL);
    let held = |topic: &str| document["channels"][topic]["description"].as_str().unwrap().to_owned();
    assert_eq!(held("nights"), "Holds `sleep`.");
    assert_eq!(held("brand"), "Holds `brand.new`.");
    assert_eq!(held("staging.daily"), "Holds `daily`: from the endpoint `staging`.");
    assert_eq!(
        held("labs"),
        "Holds `lab_report`, `lab_report.completed`, `lab_report.failed`: from the endpoint `live`. Holds other types \
         that begin with `lab_`."
    );
    assert_eq!(held("terra.dead-letter"), "Holds what Terra signed but nobody can read.");
    assert_eq!(topics_of(&document, "other-type"), BTreeSet::from(["labs"]));
    assert_eq!(document["components"]["messages"]["other-type"].get("examples"), None, "brand.new has a message");
    assert_eq!(topics_of(&document, "dead-letter"), BTreeSet::from(["terra.dead-letter"]));
    let sources = &document["components"]["messageTraits"]["event"]["headers"]["properties"]["ce-source"]["enum"];
    assert_eq!(*sources, json!(["/terra/live", "/terra/staging"]));
}

#[test]
fn a_type_with_any_name_has_a_message_of_its_own() {
    let document = of(&[("ROUTES__TYPES", r#"{ "a/b" = "odd", "a:b" = "odd", "other-type" = "odd", "a_b" = "odd" }"#)]);
    let messages = document["channels"]["odd"]["messages"].as_object().unwrap();
    let name = |key: &String| document["components"]["messages"][key]["name"].as_str().unwrap();
    let names: BTreeSet<_> = messages.keys().map(name).collect();
    assert_eq!(
        names,
        ["a/b", "a:b", "other-type", "a_b"]
            .map(|name| format!("co.tryterra.{name}"))
            .iter()
            .map(String::as_str)
            .collect()
    );
    assert!(messages.keys().all(|key| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))));
    assert_eq!(topics_of(&document, "other-type"), BTreeSet::from(["terra.unknown"]));
}

#[test]
fn every_header_and_the_whole_payload_of_a_sample_are_an_example() {
    for settings in BUSES {
        let document = of(settings);
        let components = &document["components"];
        for sample in SAMPLES {
            let message = &components["messages"][sample.name];
            let example = &message["examples"][0];
            assert_eq!(example["payload"], serde_json::from_str::<Value>(sample.body).unwrap());
            let common = &components["messageTraits"]["event"]["headers"]["properties"];
            for (name, value) in example["headers"].as_object().unwrap() {
                let own = &message["headers"]["properties"];
                assert!(common.get(name).or(own.get(name)).is_some(), "{}: {name}", sample.name);
                assert!(value.is_string());
            }
            let description = &message["headers"]["properties"];
            let key = description.get("ce_partitionkey").or(description.get("ce-partitionkey")).unwrap();
            assert_eq!(key["description"], format!("the key: {}", known(sample.name).unwrap().concerns.key()));
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    for settings in BUSES.into_iter().chain([SEVERAL]) {
        let document = of(settings);
        let mut references = BTreeSet::new();
        collect(&document, &mut references);
        for reference in &references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
        for (kind, components) in document["components"].as_object().unwrap() {
            for key in components.as_object().unwrap().keys() {
                assert!(references.contains(&format!("#/components/{kind}/{key}")), "{kind} {key}");
            }
        }
    }
}

#[test]
fn the_same_configuration_gives_the_same_text() {
    let text = || {
        let (bus, table) = loaded(SEVERAL);
        document(&bus, &table)
    };
    assert!(text() == text());
}

#[test]
fn servers_and_logins_are_named_without_credentials() {
    let [embedded, kafka, nats] = BUSES.map(of);
    assert_eq!(embedded["servers"]["embedded"]["host"], "127.0.0.1:8082");
    assert_eq!(embedded["channels"]["terra.daily"]["address"], "/topics/terra.daily/messages");
    assert_eq!(kafka["servers"]["kafka-2"]["host"], "two:9092");
    let channel = json!({ "topic": "terra.daily", "partitions": 6, "bindingVersion": "0.5.0" });
    assert_eq!(kafka["channels"]["terra.daily"]["bindings"]["kafka"], channel);
    assert_eq!(nats["servers"]["nats"]["host"], "one:4222");
    assert_eq!(nats["components"].get("securitySchemes"), None);
    assert_eq!(topics_of(&nats, "claim-check").len(), nats["channels"].as_object().unwrap().len());
    assert_eq!(topics_of(&kafka, "claim-check").len(), 0);

    let kafka = [BUSES[1], &[("KAFKA__USERNAME", "bridge"), ("KAFKA__PASSWORD", "env:TERRA_BRIDGE_OURS")]].concat();
    for (more, protocol, scheme) in [
        (&[][..], "kafka", "plain"),
        (&[("KAFKA__SASL_MECHANISM", "SCRAM-SHA-512"), ("KAFKA__TLS__CA", "system")], "kafka-secure", "scramSha512"),
        (&[("KAFKA__PROPERTIES", r#"{ "security.protocol" = "sasl_ssl" }"#)], "kafka-secure", "plain"),
    ] {
        let document = of(&[&kafka[..], more, &[("OURS", "sesame")]].concat());
        assert_eq!(document["servers"]["kafka-1"]["protocol"], protocol);
        assert_eq!(document["components"]["securitySchemes"]["login"]["type"], scheme);
        assert!(!document.to_string().contains("sesame"));
    }
}
