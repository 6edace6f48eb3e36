//! Spans, as an OpenTelemetry collector receives them, and the trace context that consumers continue.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::links::{LINK_IS_OPEN, SLEEP, link};
use crate::support::bridge::{Bridge, STARTS_WITHIN};
use crate::support::changing::BODY;
use crate::support::collector::{Collector, attributes};
use crate::support::consumers::{Bus, Got};
use crate::support::store::{Answer, Store};
use crate::support::terra::Attempt;
use crate::support::until;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER: &str = "00f067aa0ba902b7";

fn traced(bus: &Bus, collector: &Collector, settings: &[(&str, &str)]) -> Bridge {
    let mut environment = bus.environment_with(settings);
    environment.push(("TERRA_BRIDGE_OTLP__ENDPOINT".into(), collector.url()));
    Bridge::ready(&environment)
}

fn hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

fn of_kind(spans: &[Span], kind: SpanKind) -> &Span {
    spans.iter().find(|span| span.kind() == kind).unwrap_or_else(|| panic!("no {kind:?}: {spans:#?}"))
}

fn expected(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn header<'g>(got: &'g Got, name: &str) -> Option<&'g str> {
    got.headers.get(name).map(String::as_str)
}

fn the_tree_of_a_delivery(bus: &Bus, system: &str) {
    let collector = Collector::start("200 OK");
    let bridge = traced(bus, &collector, &[]);
    let parent = format!("00-{TRACE}-{SENDER}-01");
    let attempt = Attempt::of(BODY).header("traceparent", &parent).header("tracestate", "a=1,b=%");
    let id = attempt.post(bridge.deliveries).json()["id"].as_str().expect("kept").to_owned();

    let got = &bus.read(&bridge, &bus.topic("daily"), 1)[0];
    let spans = collector.expect_spans(2);
    let (server, producer) = (of_kind(&spans, SpanKind::Server), of_kind(&spans, SpanKind::Producer));
    assert_eq!((hex(&server.trace_id), hex(&producer.trace_id)), (TRACE.to_owned(), TRACE.to_owned()));
    assert_eq!(hex(&server.parent_span_id), SENDER);
    assert_eq!(producer.parent_span_id, server.span_id);
    let continued = format!("00-{TRACE}-{}-01", hex(&producer.span_id));
    assert_eq!(header(got, "traceparent"), Some(&*continued), "a consumer's parent is the producer");
    assert_eq!(header(got, "tracestate"), Some("a=1,b=%"));
    assert_eq!(got.attribute("traceparent"), Some(parent), "the attribute stays the sender's");

    assert_eq!((&*server.name, &*producer.name), ("POST", &*format!("publish {}", bus.topic("daily"))));
    let bytes = BODY.len().to_string();
    let of_server = expected(&[
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", &bytes),
        ("url.scheme", "http"),
        ("terra_bridge.endpoint", "terra"),
        ("terra_bridge.outcome", "kept"),
        ("terra_bridge.type", "daily"),
    ]);
    assert_eq!(attributes(&server.attributes), of_server);
    let of_producer = expected(&[
        ("messaging.system", system),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", &bus.topic("daily")),
        ("messaging.message.id", &id),
        ("messaging.message.body.size", &bytes),
        ("terra_bridge.outcome", "kept"),
    ]);
    assert_eq!(attributes(&producer.attributes), of_producer);
    let within = |inner: &Span, outer: &Span| {
        outer.start_time_unix_nano <= inner.start_time_unix_nano && inner.end_time_unix_nano <= outer.end_time_unix_nano
    };
    assert!(within(producer, server), "{spans:#?}");
    assert_eq!(collector.resource()["service.name"], "terra-bridge");
}

#[test]
fn a_delivery_to_kafka_is_a_tree_that_its_consumer_continues() {
    Bus::kafka().iter().for_each(|bus| the_tree_of_a_delivery(bus, "kafka"));
}

#[test]
fn a_delivery_to_nats_is_a_tree_that_its_consumer_continues() {
    Bus::nats().iter().for_each(|bus| the_tree_of_a_delivery(bus, "nats"));
}

#[test]
fn a_delivery_to_the_embedded_log_is_a_tree_that_its_reader_continues() {
    Bus::embedded().iter().for_each(|bus| the_tree_of_a_delivery(bus, "terra_bridge"));
}

#[test]
fn a_trace_begins_where_the_request_has_none_and_the_end_exports_what_waits() {
    let (bus, collector) = (Bus::embedded().expect("needs no broker"), Collector::start("200 OK"));
    let headers = [("OTLP__HEADERS", "env:COLLECTOR_HEADERS")];
    let mut environment = bus.environment_with(&headers);
    environment.extend([
        ("TERRA_BRIDGE_OTLP__ENDPOINT".into(), collector.url()),
        ("COLLECTOR_HEADERS".into(), "authorization=Bearer%20t,x-scope=one".into()),
        ("OTEL_SERVICE_NAME".into(), "bridge-of-the-north".into()),
    ]);
    let mut bridge = Bridge::ready(&environment);
    assert_eq!(Attempt::of(BODY).post(bridge.deliveries).status, 200);
    let got = bus.read(&bridge, &bus.topic("daily"), 1).remove(0);
    bridge.signal("TERM");
    assert!(bridge.ended(STARTS_WITHIN).success());
    let spans = collector.spans();
    let (server, producer) = (of_kind(&spans, SpanKind::Server), of_kind(&spans, SpanKind::Producer));
    assert!(server.parent_span_id.is_empty() && server.trace_id != [0; 16], "{server:?}");
    let continued = format!("00-{}-{}-01", hex(&server.trace_id), hex(&producer.span_id));
    assert_eq!(header(&got, "traceparent"), Some(&*continued));
    assert_eq!((header(&got, "tracestate"), got.attribute("traceparent")), (None, None));
    let (head, _) = &collector.received()[0];
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: bearer t\r\n") && head.contains("\r\nx-scope: one\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
    assert_eq!(collector.resource()["service.name"], "bridge-of-the-north");
}

#[test]
fn what_is_not_sampled_is_not_exported_and_its_consumer_learns_that() {
    let (bus, collector) = (Bus::embedded().expect("needs no broker"), Collector::start("200 OK"));
    let mut bridge = traced(&bus, &collector, &[("OTLP__SAMPLING", "0")]);
    let sampled = format!("00-{TRACE}-{SENDER}-01");
    for (n, parent) in
        [None, Some("00-00000000000000000000000000000001-0000000000000001-00"), Some(&*sampled)].into_iter().enumerate()
    {
        let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#));
        let attempt = parent.into_iter().fold(attempt, |attempt, parent| attempt.header("traceparent", parent));
        assert_eq!(attempt.post(bridge.deliveries).status, 200);
    }
    let got = bus.read(&bridge, &bus.topic("daily"), 3);
    let flags = got.iter().map(|got| header(got, "traceparent").expect("a trace").rsplit('-').next().expect("flags"));
    assert_eq!(flags.collect::<Vec<_>>(), ["00", "00", "01"]);
    bridge.signal("TERM");
    assert!(bridge.ended(STARTS_WITHIN).success());
    let spans = collector.spans();
    assert!(spans.len() == 2 && spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:#?}");
}

#[test]
fn refusals_and_links_are_in_the_tree_and_forgeries_are_not() {
    let (store, collector) = (Store::start(), Collector::start("200 OK"));
    let bus = Bus::embedded().expect("needs no broker");
    let hosts = store.hosts();
    let mut environment = bus.environment_with(&[("S3__HOSTS", &hosts)]);
    environment.splice(0..0, store.environment());
    environment.push(("TERRA_BRIDGE_OTLP__ENDPOINT".into(), collector.url()));
    let bridge = Bridge::ready(&environment);
    assert_eq!(Attempt::of(BODY).secret("wrong").post(bridge.deliveries).status, 401);
    let reply = link(&store.hold("/event", [Answer::json(SLEEP)]), LINK_IS_OPEN).post(bridge.deliveries);
    assert_eq!(reply.status, 200);
    let spans = collector.expect_spans(3);
    let (server, fetch) = (of_kind(&spans, SpanKind::Server), of_kind(&spans, SpanKind::Client));
    assert_eq!((&fetch.parent_span_id, &*fetch.name), (&server.span_id, "GET"));
    assert_eq!(attributes(&server.attributes)["terra_bridge.type"], "sleep");

    let collector = Collector::start("200 OK");
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = traced(&bus, &collector, &[("EMBEDDED__RESERVE", "100000 TiB")]);
    assert_eq!(Attempt::of(BODY).post(bridge.deliveries).status, 503);
    for span in collector.expect_spans(2) {
        assert_eq!(span.status.as_ref().expect("a status").code(), StatusCode::Error, "{span:?}");
        assert_eq!(attributes(&span.attributes)["error.type"], "refused");
    }
}

#[test]
fn a_collector_that_refuses_or_answers_nothing_holds_up_no_delivery_and_no_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (refusing, silent_url) =
        (Collector::start("401 Unauthorized"), format!("http://{}", silent.local_addr().unwrap()));
    for url in [refusing.url(), silent_url] {
        let bus = Bus::embedded().expect("needs no broker");
        let mut environment = bus.environment_with(&[("SERVER__DRAIN_TIMEOUT", "1s")]);
        environment.push(("TERRA_BRIDGE_OTLP__ENDPOINT".into(), url.clone()));
        let mut bridge = Bridge::ready(&environment);
        for n in 0..50 {
            let reply = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#)).post(bridge.deliveries);
            assert_eq!(reply.status, 200);
        }
        let asked = Instant::now();
        bridge.signal("TERM");
        assert!(bridge.ended(STARTS_WITHIN).success());
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        let said = || (!bridge.said("spans were not exported").is_empty()).then_some(());
        if url == refusing.url() {
            until("a warning", STARTS_WITHIN, said);
            assert_eq!(bridge.said("spans were not exported")[0]["reason"], "401");
        }
        assert!(!bridge.log().contains(&url), "no URL in the log");
    }
}

#[test]
fn a_span_tells_nothing_of_the_payload_its_user_or_the_path() {
    let (bus, collector) = (Bus::embedded().expect("needs no broker"), Collector::start("200 OK"));
    let bridge =
        traced(&bus, &collector, &[("ENDPOINTS__TERRA__PATH", "/canary-path"), ("SERVER__MAX_BODY", "64 KiB")]);
    let user = r#""user":{"user_id":"canary-user","reference_id":"canary-reference","provider":"canary-p"}"#;
    for kind in ["daily", "canary-type"] {
        let attempt = Attempt::of(format!(r#"{{"type":"{kind}",{user},"data":["canary-data"]}}"#));
        let attempt = attempt.path("/canary-path?canary-query=1").header("terra-reference", "canary-reference");
        let attempt = attempt.header("user-agent", "canary-agent").header("x-terra-trace-id", "canary-trace");
        assert_eq!(attempt.post(bridge.deliveries).status, 200);
    }
    assert_eq!(Attempt::of("canary, not JSON").path("/canary-path").post(bridge.deliveries).status, 200);
    collector.expect_spans(6);
    for (head, body) in collector.received() {
        let sent = head + &String::from_utf8_lossy(&body);
        assert!(!sent.contains("canary"), "{}", sent.escape_debug());
    }
}
