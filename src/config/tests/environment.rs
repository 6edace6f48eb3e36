//! Reading the variables of the process.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config::{Bus, Senders};

#[test]
fn networks_of_both_families_are_read_and_mapped_ones_are_ipv4() {
    let variables = [
        ("TERRA_BRIDGE_SERVER__ALLOW", "192.0.2.1, 10.0.0.0/8,2001:db8::/32, ::ffff:198.51.100.7, ::ffff:10.0.0.0/104"),
        ("TERRA_BRIDGE_SERVER__TRUSTED_PROXIES", "::1"),
    ];
    let senders = from_environment(&variables).unwrap().config.server.senders;
    let shown: Vec<_> = senders.allow.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["192.0.2.1/32", "10.0.0.0/8", "2001:db8::/32", "198.51.100.7/32", "10.0.0.0/8"]);
    assert_eq!(senders.trusted_proxies.len(), 1);
    assert_eq!(from_file("").unwrap().config.server.senders, Senders::default());
    for wrong in ["", "10.0.0", "localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "::1/129", "1.2.3.4:5"] {
        let text = mistakes_text(from_environment(&[("TERRA_BRIDGE_SERVER__ALLOW", wrong)]));
        assert!(text.starts_with("server.allow (TERRA_BRIDGE_SERVER__ALLOW) is "), "{wrong}: {text}");
        assert!(text.contains(wrong) && text.contains("allowed: a list, each one an IP address"), "{wrong}: {text}");
    }
}

#[test]
fn a_value_that_is_not_utf8_is_a_mistake() {
    let name = "TERRA_BRIDGE_SERVER__LISTEN";
    let variables = [(name.into(), OsString::from_vec(vec![0xff])), (SIGNED.0.into(), SIGNED.1.into())];
    let text = load(None, variables.into_iter(), false).unwrap_err().to_string();
    assert_eq!(text, "server.listen (TERRA_BRIDGE_SERVER__LISTEN) is not UTF-8");
}

#[test]
fn the_environment_alone_is_enough() {
    let loaded = from_environment(&[
        ("TERRA_BRIDGE_BUS", "kafka"),
        ("TERRA_BRIDGE_KAFKA__BROKERS", "[::1]:9092, b:9092"),
        ("TERRA_BRIDGE_KAFKA__USERNAME", "0012"),
        ("TERRA_BRIDGE_KAFKA__PASSWORD", "env:TERRA_SIGNING_SECRET"),
        ("TERRA_BRIDGE_KAFKA__PROPERTIES__LINGER__MS", "5"),
        ("TERRA_BRIDGE_KAFKA__TOPIC_CONFIG__RETENTION__MS", "-1"),
        ("TERRA_BRIDGE_ROUTES__TYPES__LAB_REPORT__COMPLETED", "labs"),
        ("TERRA_BRIDGE_ROUTES__TYPES", "{ \"order.*\" = \"orders\", daily = false, a.b = \"c\" }"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__PATH", "/staging"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__SECRETS", "env:TERRA_SIGNING_SECRET,env:SECOND"),
        ("SECOND", " \"0012\" "),
        ("TERRA_BRIDGE_PORT", "tcp://10.0.0.1:80"),
        ("TERRA_BRIDGE_TEST_KAFKA", "x"),
    ])
    .unwrap();
    let config = loaded.config;
    let Bus::Kafka(kafka) = config.bus else { panic!("not Kafka") };
    assert_eq!(kafka.brokers, ["[::1]:9092", "b:9092"]);
    assert_eq!(kafka.username.as_deref(), Some("0012"));
    assert_eq!(kafka.sasl_mechanism.as_deref(), Some("PLAIN"));
    assert_eq!(kafka.properties["linger.ms"].expose(), b"5");
    assert_eq!(kafka.topic_config["retention.ms"], "-1");
    let types: Vec<(&str, Option<&str>)> =
        config.routes.types.iter().map(|(of, topic)| (of.as_str(), topic.as_deref())).collect();
    let expected =
        [("a.b", Some("c")), ("daily", None), ("lab_report.completed", Some("labs")), ("order.*", Some("orders"))];
    assert_eq!(types, expected);
    assert_eq!(config.endpoints.len(), 1);
    assert_eq!(config.endpoints[0].secrets[1].expose(), b" \"0012\" ");
    let ignored: Vec<&str> = loaded.effective.ignored.iter().map(|ignored| ignored.name.as_str()).collect();
    assert_eq!(ignored, ["TERRA_BRIDGE_PORT", "TERRA_BRIDGE_TEST_KAFKA"]);
}

#[test]
fn whole_tables_come_from_the_environment_and_single_values_beside_them() {
    let loaded = from_environment(&[
        ("TERRA_BRIDGE_ENDPOINTS", "{ eu-west = { path = \"/eu\", secrets = [\"env:TERRA_SIGNING_SECRET\"] } }"),
        ("TERRA_BRIDGE_ENDPOINTS__TERRA__PATH", "/terra"),
        ("TERRA_BRIDGE_ROUTES", "{ template = \"t.{type}\", types = { \"lab_report.*\" = \"labs\", daily = false } }"),
        ("TERRA_BRIDGE_S3", "{ mode = \"forward\" }"),
        ("TERRA_BRIDGE_server", "{ max_headers = 50 }"),
    ]);
    let Loaded { config, effective, .. } = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let paths: Vec<_> = config.endpoints.iter().map(|endpoint| endpoint.path.as_str()).collect();
    assert_eq!((paths, config.routes.template.as_str()), (vec!["/eu", "/terra"], "t.{type}"));
    let types: Vec<_> = config.routes.types.iter().map(|(of, topic)| (of.as_str(), topic.as_deref())).collect();
    assert_eq!(types, [("daily", None), ("lab_report.*", Some("labs"))]);
    assert!(config.s3.is_none());
    assert_eq!(config.server.max_headers, 50);
    assert_eq!(effective.ignored, []);
}

#[test]
fn variables_that_kubernetes_injects_are_ignored_and_distinguished_from_others() {
    let injected = [
        "TERRA_BRIDGE_PORT",
        "TERRA_BRIDGE_SERVICE_HOST",
        "TERRA_BRIDGE_SERVICE_PORT",
        "TERRA_BRIDGE_SERVICE_PORT_HTTP",
        "TERRA_BRIDGE_PORT_80_TCP",
        "TERRA_BRIDGE_PORT_80_TCP_ADDR",
        "TERRA_BRIDGE_ADMIN_PORT",
        "TERRA_BRIDGE_ADMIN_PORT_8081_TCP_PROTO",
        "TERRA_BRIDGE_ADMIN_SERVICE_HOST",
        "TERRA_BRIDGE_ADMIN_SERVICE_PORT_ADMIN",
        "TERRA_BRIDGE_KAFKA_PORT_9092_UDP_PORT",
    ];
    let set =
        ["TERRA_BRIDGE_ROUTE", "TERRA_BRIDGE_ADMIN_PORTS", "TERRA_BRIDGE_SERVER_LISTEN", "TERRA_BRIDGE_TEST_PORT_X"];
    let variables: Vec<_> = injected.iter().chain(&set).map(|name| (*name, "tcp://10.0.0.1:80")).collect();
    let ignored = from_environment(&variables).unwrap().effective.ignored;
    assert_eq!(ignored.len(), variables.len());
    for variable in ignored {
        assert_eq!(variable.injected, injected.contains(&variable.name.as_str()), "{variable}");
        if variable.name == "TERRA_BRIDGE_SERVER_LISTEN" {
            assert_eq!(variable.meant.as_deref(), Some("TERRA_BRIDGE_SERVER__LISTEN"));
        }
    }
}

#[test]
fn endpoints_with_routes_of_their_own_come_from_the_environment_alone() {
    let loaded = from_environment(&[
        ("TERRA_BRIDGE_ENDPOINTS__TERRA__MAX_AGE", "1h"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__PATH", "/staging"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__SECRETS", "env:TERRA_SIGNING_SECRET"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__REJECTED_STATUS", "503"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__ROUTES__TEMPLATE", "{endpoint}.{type}"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__ROUTES__UNKNOWN", "false"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__ROUTES__DEAD_LETTER", "{endpoint}.letters"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__ROUTES__TYPES", "{ \"lab_report.*\" = \"labs\", daily = false }"),
        ("TERRA_BRIDGE_ENDPOINTS__STAGING__ROUTES__TYPES__ORDER__STATUS_CHANGED", "orders"),
        ("TERRA_BRIDGE_ENDPOINTS__EU-WEST_1", "{ path = \"/eu\", secrets = [\"env:TERRA_SIGNING_SECRET\"] }"),
        ("TERRA_BRIDGE_ENDPOINTS__EU_WEST_1__ROUTES__TYPES__DAILY", "eu.days"),
        ("TERRA_BRIDGE_ENDPOINTS__EU_NORTH__PATH", "/north"),
        ("TERRA_BRIDGE_ENDPOINTS__EU_NORTH__SECRETS", "env:TERRA_SIGNING_SECRET"),
    ]);
    let config = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).config;
    let [west, north, staging, terra] = &config.endpoints[..] else { panic!("{:?}", config.endpoints) };
    assert_eq!(
        [&west.name, &north.name, &staging.name, &terra.name].map(|name| &**name),
        ["eu-west_1", "eu_north", "staging", "terra"]
    );
    assert_eq!((terra.path.as_str(), terra.max_age.as_secs()), ("/terra", 3600));
    assert_eq!(west.routes.types, [("daily".to_owned(), Some("eu.days".to_owned()))].into());
    assert_eq!(staging.rejected_status, 503);
    assert_eq!(staging.routes.template.as_deref(), Some("{endpoint}.{type}"));
    assert_eq!(staging.routes.unknown, Some(None));
    assert_eq!(staging.routes.dead_letter.as_deref(), Some("{endpoint}.letters"));
    let types: Vec<_> = staging.routes.types.iter().map(|(of, topic)| (of.as_str(), topic.as_deref())).collect();
    let expected = [("daily", None), ("lab_report.*", Some("labs")), ("order.status_changed", Some("orders"))];
    assert_eq!(types, expected);
    assert!(terra.routes.types.is_empty() && terra.routes.template.is_none());
}
