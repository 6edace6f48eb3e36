//! Every kind of mistake with its exact words, the sources over each other, and the files in `config/`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::keys::{KEYS, Without};
use super::values::BUSES;
use super::*;

mod machines;

const SIGNED: (&str, &str) = ("TERRA_SIGNING_SECRET", "hunter2 the second");

fn read(toml: Option<&str>, variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    if let Some(toml) = toml {
        std::fs::write(&path, toml).unwrap();
    }
    let variables: Vec<(OsString, OsString)> = variables.iter().map(|(n, v)| (n.into(), v.into())).collect();
    load(toml.map(|_| path.as_path()), variables.into_iter(), false).map_err(|mut mistakes| {
        let prefix = format!("{}/", dir.path().display());
        for mistake in &mut mistakes.all {
            mistake.wrong = mistake.wrong.replace(&prefix, "");
            if let Source::File { path, .. } = &mut mistake.source {
                *path = path.file_name().map(PathBuf::from).unwrap();
            }
        }
        mistakes
    })
}

fn from_file(toml: &str) -> Result<Loaded, Mistakes> {
    read(Some(toml), &[SIGNED])
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    read(None, &[variables, &[SIGNED]].concat())
}

fn said(result: Result<Loaded, Mistakes>) -> String {
    result.err().map(|mistakes| mistakes.to_string()).unwrap_or_default()
}

#[test]
fn each_mistake_in_a_file_has_its_words() {
    let cases = [
        ("x = 1\ny = = 2", "@t.toml:2 is not TOML at column 5:"),
        ("[server]\nmax_bdy = 1", "server.max_bdy (t.toml:2) is not a key; did you mean server.max_body?"),
        ("[nats]\nusername = \"u\"", "nats.username (t.toml:2) is not a key; did you mean nats.user?"),
        (
            "[kafka]\nbootstrap.servers = \"b:1\"",
            "kafka.bootstrap.servers (t.toml:2) is not a key; did you mean kafka.brokers?",
        ),
        (
            "[kafka]\n\"linger.ms\" = 5",
            "kafka.linger.ms (t.toml:2) is not a key; did you mean kafka.properties.linger.ms?",
        ),
        ("[kafka]\nstream = \"S\"", "kafka.stream (t.toml:2) is not a key; remove it"),
        ("[routes]\ndaily = \"d\"", "routes.daily (t.toml:2) is not a key; did you mean routes.types.daily?"),
        (
            "[endpoints.terra.routes]\nlab_report.completed = \"d\"",
            "endpoints.terra.routes.lab_report.completed (t.toml:2) is not a key; did you mean \
             endpoints.terra.routes.types.lab_report.completed?",
        ),
        ("max_body = 1", "max_body (t.toml:1) is not a key; did you mean server.max_body?"),
        ("[colour]\nof = 1", "colour.of (t.toml:2) is not a key; remove it"),
        ("[server.listen]\nx = 1", "server.listen.x (t.toml:2) is not a key; server.listen has no keys below it"),
        ("server = 5", "server (t.toml:1) is a number without quotes; allowed: a table, such as { name = \"value\" }"),
        ("bus = 5", "bus (t.toml:1) is a number without quotes; allowed: \"embedded\" or \"kafka\" or \"nats\""),
        (
            "[server]\ndeadline = \"7\"",
            "server.deadline (t.toml:2) is \"7\", which has no unit; allowed: a duration such as \"5s\" or \"1h 30m\", \
             from 1.5s to 7.5s",
        ),
        (
            "[server]\nmax_body = \"12 M\"",
            "server.max_body (t.toml:2) is \"12 M\", which is not a size; allowed: a size such as \"12 MiB\", \
             from 1 KiB to 512 MiB",
        ),
        (
            "[server]\nmax_headers = 1",
            "server.max_headers (t.toml:2) is \"1\", which is too little; allowed: a whole number from 10 to 1000",
        ),
        (
            "[server]\nmax_headers = \"100\"",
            "server.max_headers (t.toml:2) is a text in quotes; allowed: a whole number from 10 to 1000",
        ),
        (
            "[server]\nallow = [\"192.0.2.1\", \"10.1.2.3/8\"]",
            "server.allow (t.toml:2) at number 2: is \"10.1.2.3/8\", which is an address within a network: write the \
             network's first address, or the address alone; allowed: a list, each one an IP address, or a network such as \
             \"10.0.0.0/8\" or \"2001:db8::/32\"",
        ),
        (
            "[server]\nallow = []",
            "server.allow (t.toml:2) is an empty list; allowed: a list, each one an IP address, or a network such as \
             \"10.0.0.0/8\" or \"2001:db8::/32\"",
        ),
        (
            "[server]\ntrusted_proxies = \"0.0.0.0/0\"",
            "server.trusted_proxies (t.toml:2) is \"0.0.0.0/0\", which is everybody, so that anybody could claim any \
             address: name the proxies; allowed: a list, each one an IP address, or a network such as \"10.0.0.0/8\" \
             that is not everybody",
        ),
        (
            "[server]\npublish_timeout = \"3s\"\ndeadline = \"2s\"",
            "server.publish_timeout (t.toml:2) is \"3s\", but server.deadline is \"2s\" (t.toml:3); \
             make it shorter than the deadline",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"b:1\"\n[kafka.properties]\n\"message.timeout.ms\" = \"4500\"\n\
             [spool]\ndir = \"/spool\"",
            "kafka.properties.message.timeout.ms (t.toml:5) is 4500: the answer has to come within \
             server.publish_timeout, less what a spool needs of it; set it below 4000, or leave it out",
        ),
        (
            "[server]\nbytes_in_flight = \"1 MiB\"",
            "server.bytes_in_flight (t.toml:2) is \"1 MiB\", but server.max_body is \"12 MiB\" (default); \
             make it large enough for several bodies",
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:8080\"",
            "admin.listen (t.toml:2) is \"127.0.0.1:8080\", but server.listen is \"0.0.0.0:8080\" (default); \
             give each listener a port of its own",
        ),
        (
            "[endpoints.terra]\nrejected_status = 403",
            "endpoints.terra.rejected_status (t.toml:2) is 403; allowed: 401 or 503",
        ),
        (
            "[endpoints.terra]\nsecrets = [\"hunter2\"]",
            "endpoints.terra.secrets (t.toml:2) is not a reference; allowed: a list, each one env:NAME, file:PATH or \
             credential:NAME; put the secret itself in a file or an environment variable, and name that here",
        ),
        (
            "[endpoints.terra]\nsecrets = []",
            "endpoints.terra.secrets (t.toml:2) is an empty list; allowed: a list, each one env:NAME, file:PATH or \
             credential:NAME",
        ),
        (
            "[endpoints]\na = { path = \"/x\", secrets = \"env:TERRA_SIGNING_SECRET\" }\n\
             b = { path = \"/x\", secrets = \"env:TERRA_SIGNING_SECRET\" }",
            "endpoints.b.path (t.toml:3) is the same as endpoints.a.path (t.toml:2); give each endpoint a path of its own",
        ),
        (
            "[endpoints]\na = { path = \"/x/\", secrets = \"env:TERRA_SIGNING_SECRET\" }\n\
             b = { path = \"/x\", secrets = \"env:TERRA_SIGNING_SECRET\" }",
            "endpoints.b.path (t.toml:3) differs only in its final slash from endpoints.a.path (t.toml:2); \
             give each endpoint a path of its own",
        ),
        (
            "[endpoints.terra.routes]\ntypes.daily = \"my day\"",
            "endpoints.terra.routes.types.daily (t.toml:2) is \"my day\", which has a character that not every bus takes; \
             allowed: a topic of letters, digits, \".\", \"_\" and \"-\", at most 249, and {endpoint} if you like, or false",
        ),
        (
            "[endpoints.terra.routes]\ntemplate = \"staging\"",
            "endpoints.terra.routes.template (t.toml:2) is \"staging\", which has no {type} in it, so that all types would \
             share a topic; allowed: a topic with {type} in it, such as \"terra.{type}\", and {endpoint} if you like",
        ),
        (
            "[endpoints.terra.routes]\ntemplat = \"staging\"",
            "endpoints.terra.routes.templat (t.toml:2) is not a key; did you mean endpoints.terra.routes.template?",
        ),
        (
            "[endpoints.terra.routes.types]\n\"a*b\" = \"x\"",
            "endpoints.terra.routes.types.a*b (t.toml:2) has a * before its end; allowed: a type such as \"daily\", or its \
             beginning and a final *",
        ),
        (
            "[endpoints.terra]\nroutes = \"x\"",
            "endpoints.terra.routes (t.toml:2) is a text in quotes; allowed: a table, such as { name = \"value\" }",
        ),
        (
            "[endpoints.terra.routes.types]\na.b = \"x\"\n\"a.b\" = \"y\"",
            "endpoints.terra.routes.types.a.b (t.toml:3) is given twice, also by t.toml:2; keep one",
        ),
        (
            "[routes.types]\ndaily = \"my.daily\"\n[endpoints.terra.routes.types]\nsleep = \"my_daily\"\ndaily = \"my.daily\"",
            "endpoints.terra.routes.types.sleep (t.toml:4) makes the topic `my_daily`, which differs only in `.` and `_` from \
             `my.daily` of endpoints.terra.routes.types.daily (t.toml:5), and Kafka refuses that; rename one of them",
        ),
        (
            "[endpoints.terra.routes]\ntemplate = \"TEMPLATE{type}\"",
            "@endpoints.terra.routes.template (t.toml:2) makes the topic `xxx",
        ),
        (
            "[endpoints.Big]\npath = \"/x\"\nsecrets = \"env:TERRA_SIGNING_SECRET\"",
            "endpoints.Big (t.toml:2) is not a name for an endpoint; allowed: a-z, 0-9, \"_\" and \"-\"",
        ),
        (
            "[routes]\ntemplate = \"terra\"",
            "routes.template (t.toml:2) is \"terra\", which has no {type} in it, so that all types would share a topic; \
             allowed: a topic with {type} in it, such as \"terra.{type}\", and {endpoint} if you like",
        ),
        (
            "[routes]\ndead_letter = false",
            "routes.dead_letter (t.toml:2) is a flag; allowed: a topic of letters, digits, \".\", \"_\" and \"-\", at most 249, \
             and {endpoint} if you like",
        ),
        (
            "[routes.types]\n\"a*b\" = \"x\"",
            "routes.types.a*b (t.toml:2) has a * before its end; allowed: a type such as \"daily\", or its beginning and \
             a final *",
        ),
        (
            "[routes.types]\na.b = \"x\"\n\"a.b\" = \"y\"",
            "routes.types.a.b (t.toml:3) is given twice, also by t.toml:2; keep one",
        ),
        (
            "[embedded]\nlisten = \"0.0.0.0:9\"",
            "embedded.listen (t.toml:2) is \"0.0.0.0:9\", which others can reach, and embedded.token is not given; \
             set embedded.token to a reference such as \"file:/path\", or listen on 127.0.0.1",
        ),
        (
            "[s3]\nhosts = [\"*.s3.*.amazonaws.com\", \"https://store\"]",
            "s3.hosts (t.toml:2) at number 2: is \"https://store\", which is more than a host; allowed: a list, each one \
             a host such as \"store.example.com\" or \"*.s3.*.amazonaws.com\"",
        ),
        (
            "[s3]\nhosts = \"a*.b\"",
            "s3.hosts (t.toml:2) is \"a*.b\", which has a * that is only a part of a part; allowed: a list, each one \
             a host such as \"store.example.com\" or \"*.s3.*.amazonaws.com\"",
        ),
        (
            "[s3]\nmode = \"off\"",
            "s3.mode (t.toml:2) is \"off\", which is none of the words allowed; allowed: \"fetch\" or \"forward\"",
        ),
        (
            "bus = \"kafka\"",
            "kafka.brokers (default) is not given (Brokers to start from, host:port); allowed: a list, each one an address \
             such as \"localhost:9092\"; set it, such as kafka.brokers = [\"localhost:9092\"] or \
             TERRA_BRIDGE_KAFKA__BROKERS=localhost:9092",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = [\"a:1\", \"b\"]",
            "kafka.brokers (t.toml:3) at number 2: is \"b\", which has no port; allowed: a list, each one an address \
             such as \"localhost:9092\"",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\nusername = \"u\"",
            "kafka.username (t.toml:4) is given without kafka.password; set kafka.password, or remove it",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\ntls.ca = \"/nowhere\"",
            "kafka.tls.ca (t.toml:4) is \"/nowhere\", which cannot be read: No such file or directory (os error 2); \
             allowed: \"system\" or the path of a readable PEM file",
        ),
        (
            "bus = \"nats\"\n[nats]\nservers = \"nats://u:hunter2@a\"",
            "nats.servers (t.toml:3) is a text, which has credentials in it: they belong in nats.user and nats.password, \
             or nats.token; allowed: a list, each one a URL such as \"nats://localhost:4222\" or \"tls://…\"",
        ),
        (
            "bus = \"nats\"\n[nats]\nservers = \"a\"\nnkey = \"env:TERRA_SIGNING_SECRET\"\ntoken = \"env:TERRA_SIGNING_SECRET\"",
            "nats.token (t.toml:5) is a second way to log in, beside nats.nkey (t.toml:4); \
             keep one of nats.credentials, nats.nkey, nats.user, nats.token",
        ),
        (
            "bus = \"nats\"\n[nats]\nservers = \"a\"\nmax_age = \"1h\"",
            "nats.duplicate_window (default) is \"2h\", but nats.max_age is \"1h\" (t.toml:4); \
             make it at most nats.max_age: NATS refuses it otherwise",
        ),
        (
            "[log]\nfilter = \"a=b=c\"",
            "log.filter (t.toml:2) is \"a=b=c\", which is not a filter; allowed: a filter such as \"info\" or \
             \"info,terra_bridge::relay=debug\"",
        ),
    ];
    for (toml, words) in cases {
        let toml = &toml.replace("TEMPLATE", &"x".repeat(245));
        let said = said(from_file(toml));
        match words.strip_prefix('@') {
            Some(beginning) => assert!(said.starts_with(beginning), "{toml}\n{said}"),
            None => assert_eq!(said, words, "{toml}"),
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}

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
        let said = said(from_environment(&[("TERRA_BRIDGE_SERVER__ALLOW", wrong)]));
        assert!(said.starts_with("server.allow (TERRA_BRIDGE_SERVER__ALLOW) is "), "{wrong}: {said}");
        assert!(said.contains(wrong) && said.contains("allowed: a list, each one an IP address"), "{wrong}: {said}");
    }
}

#[test]
fn each_mistake_in_the_environment_has_its_words() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("TERRA_BRIDGE_SERVER__MAX_BDY", "x")],
            "server.max_bdy (TERRA_BRIDGE_SERVER__MAX_BDY) is not a key; did you mean TERRA_BRIDGE_SERVER__MAX_BODY?",
        ),
        (
            &[("TERRA_BRIDGE_ADMIN__READY_NEEDS_BUS", "yes")],
            "admin.ready_needs_bus (TERRA_BRIDGE_ADMIN__READY_NEEDS_BUS) is \"yes\", which is neither true nor false; \
             allowed: true or false",
        ),
        (
            &[("TERRA_BRIDGE_ROUTES__TYPES", "{ daily = ")],
            "@routes.types (TERRA_BRIDGE_ROUTES__TYPES) is not TOML at column",
        ),
        (
            &[("TERRA_BRIDGE_ROUTES__TYPES", "5")],
            "routes.types (TERRA_BRIDGE_ROUTES__TYPES) is not a table; allowed: a table, such as { name = \"value\" }",
        ),
        (
            &[("TERRA_BRIDGE_ROUTES", "false")],
            "routes (TERRA_BRIDGE_ROUTES) is not a table; allowed: a table, such as { name = \"value\" }",
        ),
        (&[("TERRA_BRIDGE_LOG", "debug")], "@log (TERRA_BRIDGE_LOG) is not TOML at column"),
        (
            &[("TERRA_BRIDGE_S3", "{ mod = \"forward\" }")],
            "s3.mod (TERRA_BRIDGE_S3) is not a key; did you mean TERRA_BRIDGE_S3__MODE?",
        ),
        (
            &[("TERRA_BRIDGE_S3", "{ mode = \"forward\" }"), ("TERRA_BRIDGE_S3__MODE", "fetch")],
            "s3.mode (TERRA_BRIDGE_S3__MODE) is given twice, also by TERRA_BRIDGE_S3; keep one",
        ),
        (
            &[("TERRA_BRIDGE_SERVER__LISTEN", "0.0.0.0:1"), ("TERRA_BRIDGE_server__listen", "0.0.0.0:2")],
            "server.listen (TERRA_BRIDGE_server__listen) is given twice, also by TERRA_BRIDGE_SERVER__LISTEN; keep one",
        ),
        (
            &[("TERRA_BRIDGE_KAFKA__PARTITIONS", "3")],
            "kafka.partitions (TERRA_BRIDGE_KAFKA__PARTITIONS) is a key of kafka, while bus is \"embedded\" (default); \
             set TERRA_BRIDGE_BUS=kafka, or remove it",
        ),
        (
            &[("TERRA_BRIDGE_KAFKA", "{ partitons = 3 }")],
            "kafka.partitons (TERRA_BRIDGE_KAFKA) is not a key; did you mean TERRA_BRIDGE_KAFKA__PARTITIONS?",
        ),
        (
            &[("TERRA_BRIDGE_ENDPOINTS__STAGING__PATH", "/staging")],
            "endpoints.staging.secrets (default) is not given (References to signing secrets, each one valid: env:NAME, \
             file:PATH, credential:NAME); allowed: a list, each one env:NAME, file:PATH or credential:NAME; set it, such as \
             endpoints.staging.secrets = [\"env:STAGING_SIGNING_SECRET\"] or \
             TERRA_BRIDGE_ENDPOINTS__STAGING__SECRETS=env:STAGING_SIGNING_SECRET",
        ),
        (
            &[("TERRA_BRIDGE_CONFIG", "/nowhere.toml")],
            "nowhere.toml cannot be read: No such file or directory (os error 2); correct --config or \
             TERRA_BRIDGE_CONFIG, or let the user who runs the bridge read it",
        ),
    ];
    for (variables, words) in cases {
        let said = said(from_environment(variables));
        match words.strip_prefix('@') {
            Some(beginning) => assert!(said.starts_with(beginning), "{variables:?}\n{said}"),
            None => assert_eq!(said, *words, "{variables:?}"),
        }
    }
}

#[test]
fn a_missing_or_empty_signing_secret_says_what_to_do() {
    let remedy = "allowed: a list, each one env:NAME, file:PATH or credential:NAME; set it to the signing secret of this \
                  destination, from the webhook's settings in the Terra dashboard, or name a file with \
                  endpoints.terra.secrets = [\"file:/path\"]";
    let refers = "endpoints.terra.secrets (default) refers to the environment variable TERRA_SIGNING_SECRET, which is";
    assert_eq!(said(read(None, &[])), format!("{refers} not set; {remedy}"));
    assert_eq!(said(read(None, &[("TERRA_SIGNING_SECRET", "")])), format!("{refers} empty; {remedy}"));
}

#[test]
fn a_value_that_is_not_utf8_is_a_mistake() {
    let name = "TERRA_BRIDGE_SERVER__LISTEN";
    let variables = [(name.into(), OsString::from_vec(vec![0xff])), (SIGNED.0.into(), SIGNED.1.into())];
    let said = load(None, variables.into_iter(), false).unwrap_err().to_string();
    assert_eq!(said, "server.listen (TERRA_BRIDGE_SERVER__LISTEN) is not UTF-8");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let toml = "bus = \"kafka\"\n[server]\ndeadline = 7\nlisten = \"x\"\ncolour = 1\n[nats]\nstreem = \"S\"";
    let variables = [("TERRA_BRIDGE_LOG__FORMAT", "xml"), ("TERRA_BRIDGE_LOG__FORMATT", "xml")];
    let mistakes = read(Some(toml), &variables).unwrap_err();
    let mut keys: Vec<&str> = mistakes.all.iter().map(|mistake| mistake.key.as_str()).collect();
    keys.sort_unstable();
    let all = [
        "endpoints.terra.secrets",
        "kafka.brokers",
        "log.format",
        "log.formatt",
        "nats.streem",
        "server.colour",
        "server.deadline",
        "server.listen",
    ];
    assert_eq!(keys, all, "{mistakes}");
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
fn what_kubernetes_tells_of_services_is_ignored_and_told_from_what_somebody_set() {
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
    assert_eq!([&west.name, &north.name, &staging.name, &terra.name], ["eu-west_1", "eu_north", "staging", "terra"]);
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

#[test]
fn underscores_in_the_environment_are_the_dashes_of_the_file_unless_that_names_both() {
    let toml = |name: &str| format!("[endpoints.{name}]\npath = \"/{name}\"\nsecrets = \"env:TERRA_SIGNING_SECRET\"\n");
    let variables = [SIGNED, ("TERRA_BRIDGE_ENDPOINTS__MY_STAGING__PATH", "/given")];
    let paths = |toml: String| {
        let config = read(Some(&toml), &variables).unwrap_or_else(|mistakes| panic!("{mistakes}")).config;
        config.endpoints.into_iter().map(|endpoint| (endpoint.name, endpoint.path)).collect::<Vec<_>>()
    };
    let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
    assert_eq!(paths(toml("my-staging")), [pair("my-staging", "/given")]);
    let both = toml("my-staging") + &toml("my_staging");
    assert_eq!(paths(both), [pair("my-staging", "/my-staging"), pair("my_staging", "/given")]);
    let missing = said(read(Some("[endpoints.my-staging]\npath = \"/a\""), &[SIGNED]));
    assert!(
        missing.ends_with("or TERRA_BRIDGE_ENDPOINTS__MY_STAGING__SECRETS=env:MY_STAGING_SIGNING_SECRET"),
        "{missing}"
    );
    let twice = [variables[1], ("TERRA_BRIDGE_ENDPOINTS__MY-STAGING__PATH", "/other"), SIGNED];
    let said = said(read(Some(&toml("my-staging")), &twice));
    assert!(said.contains("endpoints.my-staging.path") && said.contains("is given twice"), "{said}");
}

#[test]
fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
    let toml =
        "[server]\nlisten = \"127.0.0.1:1\"\nmax_headers = 50\n[routes.types]\nlab_report.completed = \"a\"\nx = \"b\"";
    let variables =
        [SIGNED, ("TERRA_BRIDGE_SERVER__LISTEN", "127.0.0.1:2"), ("TERRA_BRIDGE_ROUTES__TYPES__X", "false")];
    let loaded = read(Some(toml), &variables).unwrap();
    assert_eq!(loaded.config.server.listen.port(), 2);
    assert_eq!(loaded.config.server.max_headers, 50);
    assert_eq!(loaded.config.server.deadline, Duration::from_millis(7500));
    assert_eq!(loaded.config.routes.types["lab_report.completed"].as_deref(), Some("a"));
    assert_eq!(loaded.config.routes.types["x"], None);
    let source = |key: &str| {
        let line = loaded.effective.lines.iter().find(|line| line.key == key).unwrap();
        line.source.rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(source("server.listen"), "TERRA_BRIDGE_SERVER__LISTEN");
    assert_eq!(source("server.max_headers"), "t.toml:3");
    assert_eq!(source("server.deadline"), "default");
}

#[test]
fn the_default_endpoint_gives_way_unless_it_is_named() {
    let names = |toml: &str| {
        let config = from_file(toml).unwrap().config;
        config.endpoints.into_iter().map(|endpoint| endpoint.name).collect::<Vec<_>>()
    };
    let other = "[endpoints.b]\npath = \"/b\"\nsecrets = [\"env:TERRA_SIGNING_SECRET\"]\n";
    assert_eq!(names(""), ["terra"]);
    assert_eq!(names(other), ["b"]);
    assert_eq!(names(&format!("{other}[endpoints.terra]\nmax_age = \"1h\"")), ["b", "terra"]);
    assert_eq!(names(&format!("{other}[endpoints.terra]")), ["b", "terra"]);
}

#[test]
fn computed_defaults_follow_the_surroundings() {
    let variables = [SIGNED, ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")].map(|(n, v)| (n.into(), v.into()));
    let config = load(None, variables.into_iter(), true).unwrap().config;
    let Bus::Embedded(embedded) = config.bus else { panic!("not embedded") };
    assert_eq!(embedded.dir, PathBuf::from("/var/lib/a"));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(from_file("").unwrap().config.log.format, LogFormat::Json);
}

#[test]
fn the_embedded_logs_keys_rest_while_the_bus_is_another() {
    let toml = "bus = \"nats\"\n[nats]\nservers = \"a:4222\"\n[embedded]\ndir = \"/data\"";
    let loaded = from_file(toml).unwrap();
    let Bus::Nats(nats) = &loaded.config.bus else { panic!("not NATS") };
    assert_eq!(nats.servers, ["nats://a:4222"]);
    assert!(loaded.effective.to_string().contains("unused while bus is another"));
}

#[test]
fn no_secret_is_ever_printed() {
    for secret in ["00123456", "\"quo'ted\"", " blank inside ", "tr\\icky\n"] {
        let variables = [
            ("S", secret),
            ("TERRA_BRIDGE_BUS", "kafka"),
            ("TERRA_BRIDGE_KAFKA__BROKERS", "b:1"),
            ("TERRA_BRIDGE_KAFKA__USERNAME", "u"),
            ("TERRA_BRIDGE_KAFKA__PASSWORD", "env:S"),
            ("TERRA_BRIDGE_KAFKA__PROPERTIES__SSL__KEY__PASSWORD", secret),
            ("TERRA_BRIDGE_ENDPOINTS__TERRA__SECRETS", "env:S"),
        ];
        let loaded = read(None, &variables).unwrap();
        let shown = format!("{loaded:?} {}", loaded.effective);
        let literal = [("TERRA_BRIDGE_ENDPOINTS__TERRA__SECRETS", secret), ("TERRA_BRIDGE_EMBEDDED__TOKEN", secret)];
        let toml = format!("[endpoints.terra]\nsecrets = '''{secret}'''\n[kafka]\npassword = '''{secret}'''");
        let mistakes = [read(None, &literal).unwrap_err(), from_file(&toml).unwrap_err()];
        for text in [shown, format!("{mistakes:?} {} {}", mistakes[0], mistakes[1])] {
            assert!(!text.contains(secret.trim()), "{text}");
            assert!(!text.contains(secret.trim().escape_debug().to_string().as_str()), "{text}");
        }
    }
}

fn reference() -> String {
    let mut text = String::from(
        "# Every key with its default. What begins with # and no blank is optional, an example, or the\n\
         # default of a bus that is not in use: keys of such a bus may stay, so that one file serves several\n\
         # machines, each with its own TERRA_BRIDGE_BUS. Each key has an environment variable: server.listen is\n\
         # TERRA_BRIDGE_SERVER__LISTEN. References to secrets: env:NAME, file:PATH, credential:NAME.\n",
    );
    text += &format!(
        "# SIGHUP takes over {};\n\
         # the rest takes effect at the next start. Files of signing secrets, of embedded.token and of certificates are\n\
         # looked at by themselves.\n",
        keys::LIVE.join(", ")
    );
    let mut table = "";
    for key in KEYS {
        let name = key.name.replace("<name>", "terra");
        let of_bus = name.starts_with("kafka.") || name.starts_with("nats.");
        let top = key.name.rsplit_once('.').map_or("", |(table, _)| table);
        if top != table {
            table = top;
            let off = if of_bus { "#" } else { "" };
            text += &format!("\n{off}[{}]\n", name.rsplit_once('.').map_or("", |(table, _)| table));
        }
        let (off, value) = match key.without {
            Without::Default(value) | Without::OfTerra(value) => (if of_bus { "#" } else { "" }, value),
            Without::Unset(value) | Without::Mistake(value) => ("#", value),
        };
        let leaf = match key.name.rsplit('.').next().unwrap() {
            "<type>" => "daily",
            "<key>" if top.ends_with("properties") => "linger.ms",
            "<key>" => "retention.ms",
            leaf => leaf,
        };
        text += &format!("# {}\n{off}{leaf} = {}\n", key.doc, file::written(&key.kind, value));
    }
    text
}

#[test]
fn the_reference_file_names_every_key_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/terra-bridge.toml");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, reference(), "write this into config/terra-bridge.toml:\n{}", reference());
    let (as_written, empty) = (from_file(&text).unwrap().config, from_file("").unwrap().config);
    assert_eq!(format!("{as_written:?}"), format!("{empty:?}"));
}

#[test]
fn the_commented_keys_of_each_bus_are_keys_with_their_defaults() {
    for (bus, needed) in [
        ("kafka", ("TERRA_BRIDGE_KAFKA__BROKERS", "localhost:9092")),
        ("nats", ("TERRA_BRIDGE_NATS__SERVERS", "nats://localhost:4222")),
    ] {
        let text = reference();
        let (_, section) = text.split_once(&format!("\n#[{bus}]\n")).unwrap();
        let (section, _) = section.split_once("\n\n").unwrap();
        let is_default = |leaf: &str| {
            let mut keys = KEYS.iter().filter(|key| key.name == format!("{bus}.{leaf}"));
            keys.any(|key| !matches!(key.without, Without::Unset(_)))
        };
        let given = section.lines().filter_map(|line| line.strip_prefix('#'));
        let given = given.filter(|line| line.split_once(" = ").is_some_and(|(leaf, _)| is_default(leaf)));
        let toml = format!("bus = {bus:?}\n[{bus}]\n{}", given.collect::<Vec<_>>().join("\n"));
        let plain = from_environment(&[("TERRA_BRIDGE_BUS", bus), needed]).unwrap();
        let written = from_file(&toml).unwrap_or_else(|mistakes| panic!("{toml}\n{mistakes}"));
        assert_eq!(format!("{:?}", written.config), format!("{:?}", plain.config));
    }
}

#[test]
fn the_short_files_load_without_mistakes() {
    for bus in BUSES {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("config/{bus}.toml"));
        let variables = [(SIGNED.0.into(), SIGNED.1.into())];
        let loaded = load(Some(&path), variables.into_iter(), false).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(loaded.effective.to_string().contains(&format!("{bus:?}")));
    }
}
