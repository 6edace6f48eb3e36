//! NATS streams that others created or changed: what the bridge adds, leaves alone and refuses, and what servers and
//! accounts refuse the bridge.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bridge::{Bridge, command};
use crate::support::brokers::{Broker, Kind, TRIES, free_port};
use crate::support::consumers::{Bus, runtime};
use crate::support::http::Response;
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(30);

/// A raw JetStream request, so that no client library's model of a stream comes between.
fn ask(bus: &Bus, request: &str, body: &Value) -> Value {
    let Bus::Nats { server, .. } = bus else { unreachable!("these tests are NATS's") };
    let answer = runtime().block_on(async {
        let client = async_nats::connect(server).await.expect("NATS answers");
        client.request(format!("$JS.API.{request}"), body.to_string().into()).await.expect("JetStream answers")
    });
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer["error"].is_null(), "{request}: {answer}");
    answer
}

/// A stream that carries the bridge's mark, so that the bridge may add subjects to it.
fn ours(bus: &Bus, more: &Value) -> Value {
    let mut config = json!({
        "name": bus.prefix(),
        "subjects": [bus.topic("daily")],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": 1,
        "metadata": {"terra-bridge": "0.0.0"},
    });
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    ask(bus, &format!("STREAM.CREATE.{}", bus.prefix()), &config)["config"].clone()
}

fn is_kept(bridge: &Bridge, kind: &str) {
    until("it is kept", WITHIN, || {
        let attempt = Attempt::of(format!(r#"{{"type":"{kind}","user":{{"user_id":"u"}}}}"#));
        (attempt.post(bridge.deliveries).status == 200).then_some(())
    });
}

#[test]
fn topics_are_added_and_nothing_else_of_a_stream_changes() {
    let Some(bus) = Bus::nats() else { return };
    let more = json!({
        "allow_atomic": true,
        "allow_batched": true,
        "allow_msg_ttl": true,
        "allow_rollup_hdrs": true,
        "allow_direct": true,
        "compression": "s2",
        "max_msg_size": 1 << 20,
        "max_age": 86_400_000_000_000_u64,
        "duplicate_window": 3_600_000_000_000_u64,
        "consumer_limits": {"max_ack_pending": 1000},
        "subject_delete_marker_ttl": 60_000_000_000_u64,
        "description": "somebody's",
    });
    let mut before = ours(&bus, &more);
    for (key, value) in more.as_object().expect("an object") {
        assert_eq!(&before[key], value, "this server knows {key}");
    }
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "sleep");
    let mut after = ask(&bus, &format!("STREAM.INFO.{}", bus.prefix()), &json!({}))["config"].clone();
    let has = |config: &Value| config["subjects"].as_array().expect("subjects").len();
    assert!(has(&after) > 1);
    for config in [&mut before, &mut after] {
        config["subjects"] = Value::Null;
    }
    assert_eq!(before, after);
}

#[test]
fn a_topic_that_another_stream_takes_keeps_out_no_other() {
    let Some(bus) = Bus::nats() else { return };
    ours(&bus, &json!({}));
    let other = format!("{}-other", bus.prefix());
    ask(&bus, &format!("STREAM.CREATE.{other}"), &json!({"name": other, "subjects": [bus.topic("sleep")]}));
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "body");
    is_kept(&bridge, "daily");
    let sleep = Attempt::of(r#"{"type":"sleep","user":{"user_id":"u"}}"#);
    assert_eq!(sleep.post(bridge.deliveries).status, 503);
    until("an ERROR says which and why", WITHIN, || {
        let (log, topic) = (bridge.log(), bus.topic("sleep"));
        let says = |line: &str| line.contains("ERROR") && line.contains("another stream") && line.contains(&topic);
        log.lines().any(says).then_some(())
    });
}

fn deliver(bridge: &Bridge, kind: &str) -> Response {
    // Each is a different event.
    let body = format!(r#"{{"type":"{kind}","user":{{"user_id":"u"}},"n":"{}"}}"#, crate::support::unique());
    Attempt::of(body).post(bridge.deliveries)
}

/// The output of a command with this environment, and whether it succeeds.
fn run(arguments: &[&str], environment: &[(String, String)]) -> (bool, String) {
    let environment = environment.iter().map(|(name, value)| (name, value));
    let output = command().envs(environment).args(arguments).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn check(environment: &[(String, String)]) -> (bool, String) {
    run(&["check", "--online"], environment)
}

/// Waits for a line of this level that contains all the words.
fn says(bridge: &Bridge, level: &str, words: &[&str]) {
    until(&format!("{level} says {words:?}"), WITHIN, || {
        let log = bridge.log();
        log.lines().any(|line| line.contains(level) && words.iter().all(|word| line.contains(word))).then_some(())
    });
}

fn messages(bus: &Bus) -> u64 {
    ask(bus, &format!("STREAM.INFO.{}", bus.prefix()), &json!({}))["state"]["messages"].as_u64().expect("a number")
}

/// Five deliveries, none of them kept; log, refusal and `check --online` report this.
fn takes_nothing(bus: &Bus, word: &str) {
    let bridge = Bridge::start(&bus.environment());
    says(&bridge, "ERROR", &[word, "nats.stream"]);
    until("it is ready: an ERROR has said why", WITHIN, || (bridge.readiness().0 == 200).then_some(()));
    assert_eq!(bridge.readiness().1["bus"], "away", "{word}");
    for _ in 0..5 {
        assert_eq!(deliver(&bridge, "daily").status, 503, "{word}");
    }
    says(&bridge, "not kept, answered 503", &[word]);
    let (well, report) = check(&bus.environment());
    assert!(!well && report.contains(word) && report.contains("mistake"), "{report}");
}

#[test]
fn a_stream_that_takes_acknowledged_events_away_or_takes_none_gets_none() {
    let settings = [
        (json!({"max_msgs_per_subject": 1, "discard": "old"}), "max_msgs_per_subject"),
        (json!({"max_msgs_per_subject": 2}), "max_msgs_per_subject"),
        (json!({"max_msgs": 2, "discard": "old"}), "drops its oldest"),
        (json!({"max_bytes": 4096, "discard": "old"}), "drops its oldest"),
        (json!({"max_age": 1_000_000_000_u64}), "keeps events for 1s only"),
        (json!({"retention": "interest"}), "interest"),
        (json!({"storage": "memory"}), "memory"),
        (json!({"no_ack": true}), "no_ack"),
        (json!({"persist_mode": "async"}), "persist_mode"),
        (json!({"allow_msg_counter": true, "discard": "old"}), "allow_msg_counter"),
    ];
    std::thread::scope(|scope| {
        for (setting, word) in &settings {
            scope.spawn(move || {
                let Some(bus) = Bus::nats() else { return };
                ours(&bus, setting);
                takes_nothing(&bus, word);
                assert_eq!(messages(&bus), 0, "{word}");
            });
        }
    });
}

#[test]
fn a_mirror_gets_nothing_and_its_origin_is_named() {
    let Some(bus) = Bus::nats() else { return };
    let origin = format!("{}-origin", bus.prefix());
    ask(&bus, &format!("STREAM.CREATE.{origin}"), &json!({"name": origin, "subjects": [bus.topic("daily")]}));
    let mirror = json!({"name": bus.prefix(), "mirror": {"name": origin}});
    ask(&bus, &format!("STREAM.CREATE.{}", bus.prefix()), &mirror);
    takes_nothing(&bus, &origin);
}

#[test]
fn a_sealed_stream_is_an_error_that_asks_for_another_also_where_it_is_sealed_later() {
    let Some(bus) = Bus::nats() else { return };
    let mut config = ours(&bus, &json!({}));
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "daily");
    config["sealed"] = json!(true);
    ask(&bus, &format!("STREAM.UPDATE.{}", bus.prefix()), &config);
    assert_eq!(deliver(&bridge, "daily").status, 503);
    says(&bridge, "ERROR", &["is sealed", "name another stream"]);
    takes_nothing(&bus, "is sealed");
}

#[test]
fn a_topic_that_is_full_by_itself_is_refused_by_that_limits_name_and_keeps_out_no_other() {
    let Some(bus) = Bus::nats() else { return };
    ours(&bus, &json!({"max_msgs_per_subject": 2, "discard_new_per_subject": true}));
    let bridge = Bridge::ready(&bus.environment());
    says(&bridge, "WARN", &["takes 2 events of a topic", "max_msgs_per_subject"]);
    let answers: Vec<_> = (0..4).map(|_| deliver(&bridge, "daily").status).collect();
    assert_eq!(answers, [200, 200, 503, 503]);
    says(
        &bridge,
        "not kept, answered 503",
        &["as many events of this topic", "raise the stream's `max_msgs_per_subject`"],
    );
    assert_eq!(deliver(&bridge, "sleep").status, 200);
    assert_eq!(messages(&bus), 3, "what was answered 200");
    let (well, report) = check(&bus.environment());
    assert!(well && report.contains("max_msgs_per_subject"), "{report}");
}

#[test]
fn a_stream_that_is_full_says_which_of_its_limits() {
    let Some(bus) = Bus::nats() else { return };
    ours(&bus, &json!({"max_msgs": 1}));
    let bridge = Bridge::ready(&bus.environment());
    assert_eq!(deliver(&bridge, "daily").status, 200);
    assert_eq!(deliver(&bridge, "daily").status, 503);
    says(&bridge, "not kept, answered 503", &["maximum messages exceeded", "raise its `max_msgs`"]);
}

#[test]
fn a_work_queue_keeps_events_and_everybody_is_told_that_one_reader_gets_them() {
    let Some(bus) = Bus::nats() else { return };
    ours(&bus, &json!({"retention": "workqueue"}));
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "daily");
    assert_eq!(messages(&bus), 1);
    says(&bridge, "WARN", &["work queue", "one reader only"]);
    let (well, report) = check(&bus.environment());
    assert!(well && report.contains("work queue"), "{report}");
    for arguments in [&["tail", "--from", "earliest", "--limit", "1"][..], &["requests"][..]] {
        let (well, said) = run(arguments, &bus.environment());
        assert!(!well && said.contains("is a work queue"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_transform_keeps_events_under_other_subjects_and_everybody_is_told() {
    let Some(bus) = Bus::nats() else { return };
    let kept = format!("{}-kept", bus.prefix());
    let transform = json!({"src": format!("{}.>", bus.prefix()), "dest": format!("{kept}.>")});
    ours(&bus, &json!({"subject_transform": transform}));
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "daily");
    says(&bridge, "WARN", &["under other subjects", &kept]);
    let (well, report) = check(&bus.environment());
    assert!(well && report.contains("under other subjects") && report.contains(&kept), "{report}");
    let tail = |topic: &str| run(&["tail", "--from", "earliest", "--limit", "1", topic], &bus.environment());
    let (well, said) = tail(&bus.topic("daily"));
    assert!(!well && said.contains("under another subject") && said.contains(&kept), "{said}");
    let (well, said) = tail(&format!("{kept}.daily"));
    assert!(well && said.contains(&format!("{kept}.daily")), "{said}");
    let (well, said) = run(&["requests"], &bus.environment());
    assert!(!well && said.contains("under another subject"), "{said}");
}

#[test]
fn a_missing_stream_is_reported_and_taken_as_soon_as_somebody_makes_it() {
    let Some(bus) = Bus::nats() else { return };
    let bridge = Bridge::start(&bus.environment_with(&[("NATS__CREATE_STREAM", "false")]));
    says(&bridge, "ERROR", &["does not exist", "nats.create_stream"]);
    until("it is ready: an ERROR has said why", WITHIN, || (bridge.readiness().0 == 200).then_some(()));
    assert_eq!(deliver(&bridge, "daily").status, 503);
    says(&bridge, "not kept, answered 503", &["does not exist", "nats.create_stream"]);
    ours(&bus, &json!({}));
    is_kept(&bridge, "daily");
    until("the bus is up", WITHIN, || (bridge.readiness().1["bus"] == "up").then_some(()));
}

#[test]
fn what_another_stream_takes_is_foreseen_before_the_stream_is_made() {
    let Some(bus) = Bus::nats() else { return };
    let other = format!("{}-other", bus.prefix());
    ask(&bus, &format!("STREAM.CREATE.{other}"), &json!({"name": other, "subjects": [bus.topic("sleep")]}));
    let (well, report) = check(&bus.environment());
    assert!(!well && report.contains(&format!("{} (stream {other})", bus.topic("sleep"))), "{report}");
    ours(&bus, &json!({}));
    let (well, report) = check(&bus.environment());
    assert!(!well && report.contains(&format!("{} (stream {other})", bus.topic("sleep"))), "{report}");
}

/// A server with its own limits and an account's.
fn limited(limits: &str, account: &str) -> Option<Broker> {
    let kind = Kind::nats()?;
    for _ in 0..TRIES {
        let port = free_port();
        let mut broker = Broker::configured(kind.clone(), port, |dir| {
            let store = dir.join("jetstream");
            format!(
                "listen: \"127.0.0.1:{port}\"\nmax_payload: 16MB\n\
                 jetstream {{ store_dir: {store:?}, max_file: 2GB, {limits} }}\n\
                 accounts {{ A {{ users: [ {{ user: a, password: a }} ], jetstream: {{ {account} }} }} }}\n\
                 no_auth_user: a\n"
            )
        });
        broker.spawn();
        if broker.comes_up() {
            return Some(broker);
        }
    }
    panic!("the broker ended at its start, {TRIES} times");
}

#[test]
fn limits_of_accounts_and_servers_are_said_with_the_key_that_helps() {
    let cases = [
        (
            "",
            "max_file: 100MB, max_bytes_required: true",
            "max bytes",
            Some("nats.max_bytes"),
            ("NATS__MAX_BYTES", "10 MiB"),
        ),
        ("", "max_file: 100MB", "resource", Some("nats.max_bytes"), ("NATS__MAX_BYTES", "50 MiB")),
        (
            "limits: { duplicate_window: 1h }",
            "max_file: 100MB",
            "larger then server limit of 1h",
            None,
            ("NATS__DUPLICATE_WINDOW", "30m"),
        ),
    ];
    for (limits, account, words, checked, (key, right)) in cases {
        let Some(broker) = limited(limits, account) else { return };
        let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
        let named = format!("nats.{}", key.trim_start_matches("NATS__").to_ascii_lowercase());
        let wrong = match words {
            "resource" => bus.environment_with(&[("NATS__MAX_BYTES", "200 MiB")]),
            _ => bus.environment(),
        };
        let bridge = Bridge::start(&wrong);
        says(&bridge, "ERROR", &[words, &named]);
        assert_eq!(deliver(&bridge, "daily").status, 503);
        says(&bridge, "not kept, answered 503", &[words, &named]);
        if let Some(checked) = checked {
            let (well, report) = check(&wrong);
            assert!(!well && report.contains(checked) && report.contains("mistake"), "{report}");
        }
        bridge.kill();
        let right = bus.environment_with(&[(key, right)]);
        let (well, report) = check(&right);
        assert!(well, "{report}");
        is_kept(&Bridge::ready(&right), "daily");
    }
}
