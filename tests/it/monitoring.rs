//! The alerts and the dashboard of `deploy/monitoring`, against what a bridge measures. `deploy/check` runs the alerts' own
//! tests.

use std::collections::BTreeSet;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::measured::{Everything, Labels, Measured, promtool};
use crate::support::pages::page;

/// The expressions of the alert rules, by their names, and the addresses of their runbooks.
fn rules() -> Vec<(String, String, String)> {
    let text = include_str!("../../deploy/monitoring/rules.yaml");
    let mut rules = Vec::new();
    for rule in text.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name").trim();
        let (_, expr) = rule.split_once("expr: ").expect("an expression");
        let end = ["        for: ", "        labels: "].iter().filter_map(|key| expr.find(key)).min().expect("its end");
        let (_, runbook) = rule.split_once("runbook_url: ").expect("a runbook");
        rules.push((name.to_owned(), expr[..end].to_owned(), runbook.lines().next().expect("a line").to_owned()));
    }
    rules
}

/// Title and expression of everything on the dashboard.
fn shown() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(include_str!("../../deploy/monitoring/dashboard.json")).expect("JSON");
    let mut shown = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let expression =
                expression.replace("$__rate_interval", "5m").replace("$job", ".+").replace("$instance", ".+");
            shown.push((title.to_owned(), expression));
        }
    }
    shown
}

/// The series that an expression selects: each name with its matchers.
fn selected(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut selected = Vec::new();
    for prefix in ["terra_bridge_", "process_"] {
        for (at, _) in expression.match_indices(prefix) {
            if expression[..at].ends_with(is_part) {
                continue;
            }
            let end = expression[at..].find(|c| !is_part(c)).map_or(expression.len(), |end| at + end);
            let inside = expression[end..]
                .strip_prefix('{')
                .and_then(|rest| rest.split_once('}'))
                .map_or("", |(inside, _)| inside);
            let matchers = inside.split(", ").filter(|matcher| !matcher.is_empty()).map(|matcher| {
                let (label, value) = matcher.split_once(['=', '!']).expect("a matcher");
                (label.to_owned(), value.trim_start_matches(['=', '~', '"']).trim_end_matches('"').to_owned())
            });
            selected.push((expression[at..end].to_owned(), matchers.collect()));
        }
    }
    selected
}

/// What of an expression no bridge has.
fn missing(measured: &Measured, expression: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let all = selected(expression);
    assert!(!all.is_empty() || expression.starts_with("up "), "no series was found in {expression}");
    for (name, matchers) in all {
        let series: Vec<_> = measured.0.keys().filter(|(known, _)| *known == name).map(|(_, labels)| labels).collect();
        if series.is_empty() {
            missing.push(name.clone());
        }
        // Prometheus adds these two.
        for (label, values) in matchers.iter().filter(|(label, _)| !["job", "instance"].contains(&label.as_str())) {
            for value in values.split('|') {
                let has = |labels: &&Labels| labels.get(label).is_some_and(|known| known == value);
                if !series.iter().any(has) {
                    missing.push(format!("{name}{{{label}={value:?}}}"));
                }
            }
        }
    }
    missing
}

#[test]
fn the_alerts_and_the_dashboard_name_only_series_that_a_bridge_has() {
    let everything = Everything::ready();
    let measured = Measured::of(&everything.bridge);
    let rules = rules();
    assert!(rules.len() > 20, "{}", rules.len());
    for (alert, expression, _) in &rules {
        assert_eq!(missing(&measured, expression), [""; 0], "{alert}: {expression}");
    }
    for (title, expression) in shown() {
        assert_eq!(missing(&measured, &expression), [""; 0], "{title}: {expression}");
    }
    let wrong = r#"rate(terra_bridge_deliveries_total{outcome=~"kept|lost"}[5m]) / terra_bridge_none"#;
    let expected = ["terra_bridge_deliveries_total{outcome=\"lost\"}", "terra_bridge_none"];
    assert_eq!(missing(&measured, wrong), expected, "what is missing is seen");
}

#[test]
fn the_dashboard_shows_every_metric_in_expressions_that_prometheus_reads() {
    let everything = Everything::ready();
    let measured = Measured::of(&everything.bridge);
    let shown = shown();
    let named: BTreeSet<_> = shown
        .iter()
        .flat_map(|(_, expression)| selected(expression))
        .map(|(name, _)| whole(&name).to_owned())
        .collect();
    let left_out: Vec<_> = measured.names().into_iter().filter(|name| !named.contains(whole(name))).collect();
    assert_eq!(left_out, [""; 0]);

    let dir = TempDir::new().expect("a directory");
    let rules: Vec<_> = shown
        .iter()
        .enumerate()
        .map(|(n, (_, expression))| serde_json::json!({"record": format!("shown:{n}"), "expr": expression}))
        .collect();
    let file = dir.path().join("shown.yaml");
    std::fs::write(&file, serde_json::json!({"groups": [{"name": "shown", "rules": rules}]}).to_string())
        .expect("a file");
    let Some((fine, said)) = promtool(&["check", "rules", "--lint=none", file.to_str().expect("UTF-8")], "") else {
        return;
    };
    assert!(fine, "{said}");
}

/// The name of a histogram without the suffix of its series.
fn whole(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

#[test]
fn every_alert_has_a_runbook_and_tests_of_what_trips_it_and_what_does_not() {
    let anchors = page("deploy/README.md").anchors();
    let tests = include_str!("../../deploy/monitoring/rules.test.yaml");
    for (alert, _, runbook) in rules() {
        let anchor = runbook.strip_prefix("deploy/README.md#").unwrap_or_else(|| panic!("{runbook}"));
        assert!(anchors.iter().any(|known| known == anchor), "{runbook} leads nowhere");
        assert_eq!(anchor, alert.to_lowercase());
        for ends in ["fires", "does not"] {
            assert!(tests.contains(&format!("name: \"{alert} {ends}: ")), "no test that {alert} {ends}");
        }
    }
}
