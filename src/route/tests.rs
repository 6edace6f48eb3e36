//! Every combination of two layers of routes, on values.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config;
use crate::vocabulary::KNOWN;

type Types<'a> = &'a [(&'a str, Option<&'a str>)];

fn types(types: Types<'_>) -> BTreeMap<String, Option<String>> {
    types.iter().map(|(name, topic)| ((*name).into(), topic.map(Into::into))).collect()
}

fn routes(of: Types<'_>) -> config::Routes {
    config::Routes {
        template: "terra.{type}".into(),
        unknown: Some("terra.unknown".into()),
        dead_letter: "terra.dead-letter".into(),
        types: types(of),
    }
}

fn build(common: &config::Routes, own: &[(&str, config::OwnRoutes)]) -> Result<RouteTable, Vec<RouteError>> {
    RouteTable::build(common, own.iter().map(|(name, own)| (*name, own)))
}

fn table(of: Types<'_>) -> RouteTable {
    build(&routes(of), &[("terra", config::OwnRoutes::default())]).unwrap()
}

fn to(topic: &str) -> Route {
    Route::To(topic.into())
}

#[test]
fn known_types_follow_the_template_and_other_types_go_to_unknown() {
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
    assert_eq!(*table.resolve("terra", "lab_report.brand_new"), to("reports"));
    assert_eq!(*table.resolve("terra", "xyz"), Route::Drop);
    assert!(!table.topics().contains(&"terra.daily".into()));
    assert!(!table.topics().contains(&"terra.lab_report".into()));
}

#[test]
fn a_pattern_that_matches_everything_leaves_nothing_unknown() {
    let table = table(&[("*", Some("all")), ("sleep", Some("nights"))]);
    assert_eq!(*table.resolve("terra", "daily"), to("all"));
    assert_eq!(*table.resolve("terra", "whatever"), to("all"));
    assert_eq!(*table.resolve("terra", "sleep"), to("nights"));
}

/// One column for each endpoint, according to its own settings.
#[test]
fn an_endpoints_own_routes_come_before_all_common_routes() {
    let common = routes(&[
        ("sleep", Some("nights")),
        ("lab_report.*", Some("labs")),
        ("brand.new", Some("new")),
        ("brand.*", Some("brand")),
        ("s3_upload", None),
    ]);
    let nothing = config::OwnRoutes::default;
    let own = [
        ("nothing", nothing()),
        ("template", config::OwnRoutes { template: Some("{endpoint}.{type}".into()), ..nothing() }),
        ("unknown", config::OwnRoutes { unknown: Some(Some("{endpoint}.rest".into())), ..nothing() }),
        ("types", config::OwnRoutes { types: types(&[("s*", Some("{endpoint}.s")), ("body", None)]), ..nothing() }),
        ("drops", config::OwnRoutes { unknown: Some(None), types: types(&[("brand.x", Some("x"))]), ..nothing() }),
    ];
    let table = build(&common, &own).unwrap();
    let rows: [(&str, [&str; 5]); 9] = [
        ("daily", ["terra.daily", "template.daily", "terra.daily", "terra.daily", "terra.daily"]),
        ("body", ["terra.body", "template.body", "terra.body", "-", "terra.body"]),
        ("sleep", ["nights", "template.sleep", "nights", "types.s", "nights"]),
        ("s3_upload", ["-", "template.s3_upload", "-", "types.s", "-"]),
        ("lab_report.failed", ["labs", "template.lab_report.failed", "labs", "labs", "labs"]),
        ("brand.new", ["new", "new", "unknown.rest", "new", "-"]),
        ("brand.x", ["brand", "brand", "unknown.rest", "brand", "x"]),
        ("brand.y", ["brand", "brand", "unknown.rest", "brand", "-"]),
        ("strange", ["terra.unknown", "terra.unknown", "unknown.rest", "types.s", "-"]),
    ];
    for (event_type, topics) in rows {
        for ((endpoint, _), topic) in own.iter().zip(topics) {
            let route = if topic == "-" { Route::Drop } else { to(topic) };
            assert_eq!(*table.resolve(endpoint, event_type), route, "{event_type} of {endpoint}");
        }
    }
    let reached: BTreeSet<Topic> = rows
        .iter()
        .flat_map(|(_, topics)| topics)
        .filter(|topic| **topic != "-")
        .map(|topic| (*topic).into())
        .collect();
    let topics = table.topics();
    assert!(reached.iter().all(|topic| topics.contains(topic)), "every topic that is used is made: {topics:?}");
    assert!(!topics.contains(&"template.rest".into()));
}

#[test]
fn every_endpoint_has_a_dead_letter_topic() {
    let common = config::Routes { dead_letter: "{endpoint}.dead".into(), ..routes(&[]) };
    let own = config::OwnRoutes { dead_letter: Some("staging.letters".into()), ..config::OwnRoutes::default() };
    let table = build(&common, &[("live", config::OwnRoutes::default()), ("staging", own)]).unwrap();
    assert_eq!(*table.dead_letter("live"), "live.dead".into());
    assert_eq!(*table.dead_letter("staging"), "staging.letters".into());
    assert!(table.topics().contains(&"live.dead".into()) && table.topics().contains(&"staging.letters".into()));
}

#[test]
fn topics_of_some_types_include_those_of_unknown_types() {
    let table = table(&[("sleep", Some("nights")), ("daily", None), ("new.*", Some("new")), ("auth", Some("nights"))]);
    let topics = table.topics_of(|name| ["sleep", "daily", "body"].contains(&name));
    let topics: Vec<_> = topics.iter().map(|topic| &**topic).collect();
    assert_eq!(topics, ["new", "nights", "terra.body", "terra.unknown"]);
}

#[test]
fn rows_differ_per_endpoint_only_where_routes_do() {
    let own = config::OwnRoutes {
        unknown: Some(None),
        types: types(&[("brand.*", Some("brand"))]),
        ..config::OwnRoutes::default()
    };
    let table = build(&routes(&[]), &[("live", config::OwnRoutes::default()), ("staging", own)]).unwrap();
    let others: Vec<_> =
        table.rows().into_iter().filter(|(_, name, _)| !KNOWN.iter().any(|k| k.name == name)).collect();
    let row = |endpoint: &str, name: &str, route| (endpoint.to_owned(), name.to_owned(), route);
    let expected = [
        row("live", "(any other type)", to("terra.unknown")),
        row("staging", "brand.*", to("brand")),
        row("staging", "(any other type)", Route::Drop),
        row("*", "(unreadable)", to("terra.dead-letter")),
    ];
    assert_eq!(others, expected);
    assert_eq!(table.rows().len(), expected.len() + 2 * KNOWN.len());
}

#[test]
fn topics_that_differ_in_dot_and_underscore_are_a_mistake() {
    let own = config::OwnRoutes { template: Some("my_{type}".into()), ..config::OwnRoutes::default() };
    let confusable = |key: &str, topic: &str, others_key: &str, other: &str| RouteError::Confusable {
        key: key.into(),
        topic: topic.into(),
        other: other.into(),
        others_key: others_key.into(),
    };
    let common = routes(&[("daily", Some("my.daily")), ("sleep", Some("my_daily"))]);
    let plain = [("terra", config::OwnRoutes::default())];
    let expected = confusable("routes.types.sleep", "my_daily", "routes.types.daily", "my.daily");
    assert_eq!(build(&common, &plain).unwrap_err(), [expected]);
    let common = routes(&[("daily", Some("my.daily"))]);
    let expected = confusable("endpoints.b.routes.template", "my_daily", "routes.types.daily", "my.daily");
    assert_eq!(build(&common, &[plain[0].clone(), ("b", own)]).unwrap_err(), [expected]);
}

#[test]
fn a_template_that_is_too_long_for_some_types_is_one_mistake() {
    let common = config::Routes { template: format!("{}{{type}}", "x".repeat(245)), ..routes(&[]) };
    let mistakes = build(&common, &[("terra", config::OwnRoutes::default())]).unwrap_err();
    assert!(matches!(&mistakes[..], [RouteError::Illegal { key, .. }] if key == "routes.template"), "{mistakes:?}");
}
