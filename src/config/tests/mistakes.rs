//! Every kind of mistake with its exact text.

use super::*;

#[test]
fn each_mistake_in_a_file_has_its_text() {
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
            "[endpoints.\"eu.prod\"]\npath = \"/x\"\nsecrets = \"env:TERRA_SIGNING_SECRET\"",
            "endpoints.\"eu.prod\" (t.toml:2) is not a name for an endpoint; allowed: a-z, 0-9, \"_\" and \"-\"",
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
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\ncompression = \"brotli\"",
            "kafka.compression (t.toml:4) is \"brotli\", which is none of the words allowed; allowed: \"lz4\" or \"zstd\" or \
             \"snappy\" or \"gzip\" or \"none\"",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\nsasl_mechanism = \"OAUTHBEARER\"",
            "kafka.sasl_mechanism (t.toml:4) is given without kafka.oauth.token_url; set kafka.oauth.token_url, or remove it",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\noauth.token_url = \"https://h/t\"\noauth.client_id = \"c\"",
            "kafka.oauth.token_url (t.toml:4) is given without kafka.oauth.client_secret; set kafka.oauth.client_secret, or \
             remove it",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\noauth.scope = \"s\"",
            "kafka.oauth.scope (t.toml:4) is given without kafka.oauth.token_url; set kafka.oauth.token_url, or remove it",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\nusername = \"u\"\npassword = \"env:TERRA_SIGNING_SECRET\"\n\
             oauth = OAUTH",
            "kafka.username (t.toml:4) is a second way to log in, beside kafka.oauth.token_url (t.toml:6); keep one of the two",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\nsasl_mechanism = \"PLAIN\"\noauth = OAUTH",
            "kafka.sasl_mechanism (t.toml:4) is \"PLAIN\", but kafka.oauth.token_url is \"https://h/t\" (t.toml:5); remove one \
             of the two",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\n[kafka.oauth]\ntoken_url = \"http://h/t\"\nclient_id = \"c\"\n\
             client_secret = \"env:TERRA_SIGNING_SECRET\"",
            "kafka.oauth.token_url (t.toml:5) is \"http://h/t\", which is not https://: whoever listens would read the \
             client's secret; allowed: a URL such as \"https://login.example.com/oauth2/token\"",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\n[kafka.oauth]\ntoken_url = \"https://h/t\"\nclient_id = \"a:b\"\n\
             client_secret = \"env:TERRA_SIGNING_SECRET\"",
            "kafka.oauth.client_id (t.toml:6) is \"a:b\", which has a colon in it; allowed: a text that is not empty, without \
             a colon",
        ),
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"a:1\"\n[kafka.oauth]\ntoken_url = \"https://h/t\"\nclient_id = \"a\"\n\
             client_secret = \"env:TERRA_SIGNING_SECRET\"\nextensions = [\"logicalCluster=1\", \"pool-id=2\"]",
            "kafka.oauth.extensions (t.toml:8) at number 2: is \"pool-id=2\", which has a name that is not of letters, or \
             the token's own; allowed: a list, each one a name of letters and its value, such as \
             \"logicalCluster=lkc-abc123\"",
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
            "[otlp]\nendpoint = \"http://u:hunter2@h\"",
            "otlp.endpoint (t.toml:2) is a text, which has credentials in it: they belong in otlp.headers; \
             allowed: a URL such as \"http://localhost:4318\"",
        ),
        (
            "[otlp]\nendpoint = \"http://h:1/v1/traces\"",
            "otlp.endpoint (t.toml:2) is \"http://h:1/v1/traces\", which ends in /v1/traces, which the bridge adds; \
             allowed: a URL such as \"http://localhost:4318\"",
        ),
        (
            "[otlp]\nendpoint = \"http://h\"\nheaders = \"env:TERRA_SIGNING_SECRET\"",
            "otlp.headers (t.toml:3) is no list of headers; \
             allowed: name=value, with commas between them; a value may be percent-encoded",
        ),
        (
            "[otlp]\nheaders = \"env:TERRA_SIGNING_SECRET\"",
            "otlp.headers (t.toml:2) is given without otlp.endpoint; set otlp.endpoint, or remove it",
        ),
        (
            "[otlp]\nsampling = 1.5",
            "otlp.sampling (t.toml:2) is \"1.5\", which is not from 0 to 1; allowed: a number from 0 to 1",
        ),
        (
            "[log]\nfilter = \"a=b=c\"",
            "log.filter (t.toml:2) is \"a=b=c\", which is not a filter; allowed: a filter such as \"info\" or \
             \"info,terra_bridge::relay=debug\"",
        ),
    ];
    for (toml, words) in cases {
        let oauth = "{ token_url = \"https://h/t\", client_id = \"c\", client_secret = \"env:TERRA_SIGNING_SECRET\" }";
        let toml = &toml.replace("TEMPLATE", &"x".repeat(245)).replace("= OAUTH", &format!("= {oauth}"));
        let text = mistakes_text(from_file(toml));
        match words.strip_prefix('@') {
            Some(beginning) => assert!(text.starts_with(beginning), "{toml}\n{text}"),
            None => assert_eq!(text, words, "{toml}"),
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn each_mistake_in_the_environment_has_its_text() {
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
        let text = mistakes_text(from_environment(variables));
        match words.strip_prefix('@') {
            Some(beginning) => assert!(text.starts_with(beginning), "{variables:?}\n{text}"),
            None => assert_eq!(text, *words, "{variables:?}"),
        }
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
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
fn a_bus_that_was_left_out_of_the_build_is_named_where_it_is_chosen() {
    let variables = [("TERRA_BRIDGE_BUS", "kafka"), ("TERRA_BRIDGE_KAFKA__BROKERS", "b:1"), SIGNED];
    let variables = || variables.iter().map(|(name, value)| (name.into(), value.into()));
    let says = "bus (TERRA_BRIDGE_BUS) is kafka, but this terra-bridge is built without kafka; choose another bus, or \
                build it with every bus: cargo install --locked --path .";
    assert_eq!(load_without(&["kafka"], None, variables(), false).unwrap_err().to_string(), says);
    assert_eq!(load_for_reader_without(&["kafka", "nats"], None, variables()).unwrap_err().to_string(), says);
    assert!(load_without(&["nats"], None, variables(), false).is_ok());
}

#[test]
fn a_mistaken_value_causes_no_mistake_in_another_key() {
    let cases = [
        (
            "bus = \"kafka\"\n[kafka]\nbrokers = \"b:1\"\n[kafka.properties]\n\"message.timeout.ms\" = 6000\n\
             \"message.max.bytes\" = 2000000\n[server]\npublish_timeout = \"7\"\nmax_body = \"1\"",
            vec!["server.max_body", "server.publish_timeout"],
        ),
        ("[routes]\ntemplate = \"x\"\n[routes.types]\nsleep = \"terra_daily\"", vec!["routes.template"]),
        ("[admin]\nlisten = \"x\"\n[server]\nlisten = \"127.0.0.1:8081\"", vec!["admin.listen"]),
        (
            "[server.tls]\ncertificate = \"/nowhere\"\nkey = \"/dev/null/x\"",
            vec!["server.tls.certificate", "server.tls.key"],
        ),
    ];
    for (toml, keys) in cases {
        let mut mistaken: Vec<_> = from_file(toml).unwrap_err().all.into_iter().map(|mistake| mistake.key).collect();
        mistaken.sort();
        assert_eq!(mistaken, keys, "{toml}");
    }
}
