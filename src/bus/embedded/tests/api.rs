//! The reading API, request by request, over a log of its own per test.

use http::header::{ALLOW, WWW_AUTHENTICATE};
use http_body_util::BodyExt;

use super::*;
use crate::log::Settings;
use crate::message::Message;

struct Log {
    store: Arc<Store>,
    api: Api,
    _dir: tempfile::TempDir,
}

impl Log {
    fn with_token(token: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&Settings::sample(dir.path()), ["empty".into()].into_iter()).unwrap());
        let api = Api::new(store.clone(), token.map(Secret::new));
        Self { store, api, _dir: dir }
    }

    fn new() -> Self {
        let log = Self::with_token(None);
        log.append(0..3);
        log
    }

    fn append(&self, numbers: std::ops::Range<u8>) {
        let messages: Vec<_> = numbers.map(|n| Message::sample("t", "k", [n; 32], format!("[{n}]"))).collect();
        self.store.append(messages.iter()).unwrap();
    }

    /// Three records, of which only the last is left.
    fn cut() -> Self {
        let log = Self::with_token(None);
        log.append(0..2);
        log.store.roll().unwrap();
        log.append(2..3);
        log.store.remove_oldest(1).unwrap();
        log
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.api.answer(request.body(()).unwrap()).await
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.get_with(path, &[]).await
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let reply = self.ask(Method::GET, path, &[&[("host", "localhost:8082")], headers].concat()).await;
        let status = reply.status();
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }
}

async fn next_chunk(reply: &mut Reply) -> Option<String> {
    let frame = reply.body_mut().frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

fn offsets(lines: &str) -> Vec<u64> {
    lines.lines().map(|line| crate::bus::Record::parse(line.as_bytes()).unwrap().offset).collect()
}

const OK: StatusCode = StatusCode::OK;
const OUTSIDE: StatusCode = StatusCode::RANGE_NOT_SATISFIABLE;
const CUT: &str = r#"{"error":"the offset is outside of what is kept","earliest":2,"next":3}"#;

#[tokio::test]
async fn topics_are_listed_with_their_extents() {
    let (status, body) = Log::new().get("/topics").await;
    let topics: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, OK);
    assert_eq!(topics[0], serde_json::json!({"topic": "empty", "earliest": 0, "next": 0, "bytes": 0, "messages": 0}));
    assert_eq!(topics[1]["next"], 3);
    assert!(topics[1]["bytes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn messages_come_as_lines_from_an_inclusive_offset() {
    let log = Log::new();
    assert_eq!(offsets(&log.get("/topics/t/messages").await.1), [0, 1, 2]);
    assert_eq!(offsets(&log.get("/topics/t/messages?from=1&limit=1").await.1), [1]);
    assert_eq!(log.get("/topics/t/messages?from=latest").await, (OK, String::new()));
    assert_eq!(log.get("/topics/t/messages?from=3").await, (OK, String::new()));
    assert_eq!(log.get("/topics/empty/messages").await, (OK, String::new()));
    assert_eq!(log.get("/topics/t/messages?from=4").await.0, OUTSIDE);
    assert_eq!(log.get("/topics/t/messages?limit=0").await, (OK, String::new()));
}

#[tokio::test]
async fn an_offset_that_retention_removed_is_416_with_the_current_extent() {
    let log = Log::cut();
    assert_eq!(log.get("/topics/t/messages?from=1").await, (OUTSIDE, CUT.to_owned()));
    assert_eq!(log.get("/topics/t/messages?from=1&follow=true").await, (OUTSIDE, CUT.to_owned()));
    assert_eq!(log.get("/topics/t/messages/1").await, (OUTSIDE, CUT.to_owned()));
    assert_eq!(offsets(&log.get("/topics/t/messages?from=earliest").await.1), [2]);
    assert_eq!(log.get_with("/topics/t/messages", &[("last-event-id", "0")]).await, (OUTSIDE, CUT.to_owned()));
}

#[tokio::test]
async fn a_follower_is_woken_by_a_later_commit() {
    let log = Log::new();
    let mut reply = log.ask(Method::GET, "/topics/t/messages?from=2&follow=true&limit=3", &[("host", "[::1]")]).await;
    assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [2]);
    log.append(3..4);
    assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [3]);
    log.append(4..9);
    assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [4]);
    assert_eq!(next_chunk(&mut reply).await, None);
}

#[tokio::test]
async fn a_follower_waits_for_an_offset_ahead() {
    let log = Log::new();
    let mut reply = log.ask(Method::GET, "/topics/t/messages?from=4&follow=true", &[("host", "localhost")]).await;
    log.append(3..5);
    assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [4]);
    log.api.drain();
    assert_eq!(next_chunk(&mut reply).await, None);
}

#[tokio::test]
async fn events_carry_their_offset_and_resume_after_the_last_one() {
    let log = Log::new();
    let headers = [("host", "localhost"), ("accept", "text/event-stream"), ("last-event-id", "1")];
    let mut reply = log.ask(Method::GET, "/topics/t/messages?from=earliest", &headers).await;
    assert_eq!(reply.headers()[CONTENT_TYPE], "text/event-stream");
    let event = next_chunk(&mut reply).await.unwrap();
    assert!(event.starts_with("id: 2\ndata: {\"topic\":\"t\"") && event.ends_with("}\n\n"), "{event}");
    let ahead = [("accept", "text/event-stream"), ("last-event-id", "7")];
    assert_eq!(log.get_with("/topics/t/messages", &ahead).await.0, OUTSIDE);
}

#[tokio::test(start_paused = true)]
async fn silent_events_have_a_heartbeat() {
    let log = Log::new();
    let headers = [("host", "localhost"), ("accept", "text/event-stream")];
    let mut reply = log.ask(Method::GET, "/topics/empty/messages", &headers).await;
    assert_eq!(next_chunk(&mut reply).await.unwrap(), ":\n\n");
}

#[tokio::test]
async fn a_stream_that_retention_overtakes_ends_with_an_error() {
    for (accept, lines) in [("text/event-stream", false), ("*/*", true)] {
        let log = Log::with_token(None);
        let format = if lines { Format::Lines } else { Format::Events };
        let of = |extents| MessageStream {
            store: log.store.clone(),
            budget: ReadBudget::new(),
            topic: "t".to_owned(),
            extents,
            draining: log.api.0.draining.subscribe(),
            rest: Selection { from: 0, until: None, limit: None, format },
            _slot: log.api.0.streams.clone().try_acquire_owned().unwrap(),
        };
        log.append(0..2);
        let extents = log.store.watch("t").unwrap();
        log.store.roll().unwrap();
        log.append(2..3);
        log.store.remove_oldest(1).unwrap();
        let mut body = stream::body(of(extents));
        let frame = body.frame().await.unwrap();
        if lines {
            assert!(frame.is_err(), "{accept}");
        } else {
            let event = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
            assert_eq!(
                event,
                "event: error\ndata: {\"error\":\"the log begins at offset 2\",\"earliest\":2,\"next\":3}\n\n"
            );
        }
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn a_payload_arrives_as_received_with_its_headers() {
    let log = Log::new();
    let reply = log.ask(Method::GET, "/topics/t/messages/1", &[("host", "127.0.0.1:1")]).await;
    assert_eq!(reply.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(reply.headers()["ce-type"], "co.tryterra.daily");
    assert_eq!(reply.headers()["ce-source"], "/terra/terra");
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), &b"[1]"[..]);
    let reply = log.ask(Method::HEAD, "/topics/t/messages/1", &[("host", "127.0.0.1:1")]).await;
    assert_eq!((reply.status(), reply.headers()["content-length"].as_bytes()), (OK, &b"3"[..]));
    assert!(reply.into_body().collect().await.unwrap().to_bytes().is_empty());
    for path in [
        "/topics/t/messages/3",
        "/topics/t/messages/x",
        "/topics/no/messages",
        "/topics/no/messages/0",
        "/",
        "/topics/",
    ] {
        assert_eq!(log.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[test]
fn a_stored_header_that_the_http_binding_does_not_have_is_left_out() {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![
        header("ce-a", "x\ny"),
        header("ce-b c", "x"),
        header("content-length", "9"),
        header("ce-datacontenttype", "x"),
        header("ce-d", "1"),
    ];
    let record = Record {
        topic: "t".into(),
        key: None,
        partition: 0,
        offset: 0,
        time: jiff::Timestamp::UNIX_EPOCH,
        headers,
        payload: Bytes::new(),
        problem: None,
    };
    let reply = with_headers(&record).body(()).unwrap();
    assert_eq!(reply.headers()["ce-d"], "1");
    assert_eq!(reply.headers().len(), 2, "{:?}", reply.headers());
}

#[tokio::test]
async fn a_foreign_host_is_refused_without_a_token() {
    let log = Log::new();
    for headers in [&[("host", "evil.example")][..], &[]] {
        let reply = log.ask(Method::GET, "/topics", headers).await;
        assert_eq!(reply.status(), StatusCode::FORBIDDEN);
        assert!(!reply.headers().contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_configured_token_is_required() {
    let log = Log::with_token(Some("open sesame"));
    let host = ("host", "events.example");
    for headers in
        [&[host][..], &[host, ("authorization", "Bearer open")], &[host, ("authorization", "Basic open sesame")]]
    {
        let reply = log.ask(Method::GET, "/topics", headers).await;
        assert_eq!(
            (reply.status(), reply.headers()[WWW_AUTHENTICATE].as_bytes()),
            (StatusCode::UNAUTHORIZED, &b"Bearer"[..])
        );
    }
    let reply = log.ask(Method::GET, "/topics", &[host, ("authorization", "bearer open sesame")]).await;
    assert_eq!(reply.status(), OK);
}

#[tokio::test]
async fn an_unknown_parameter_is_refused() {
    let log = Log::new();
    for query in ["from=x", "from=-1", "limit=x", "follow=yes", "offset=1", "from=%ff"] {
        let (status, body) = log.get(&format!("/topics/t/messages?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(body.starts_with(r#"{"error":""#), "{body}");
    }
    let reply = log.ask(Method::POST, "/topics", &[("host", "localhost")]).await;
    assert_eq!(
        (reply.status(), reply.headers()[ALLOW].as_bytes()),
        (StatusCode::METHOD_NOT_ALLOWED, &b"GET, HEAD"[..])
    );
}

#[tokio::test]
async fn streams_are_limited_and_release_their_slot() {
    let log = Log::new();
    let path = "/topics/t/messages?from=latest&follow=true";
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        open.push(log.ask(Method::GET, path, &[("host", "localhost")]).await);
    }
    assert_eq!(log.get(path).await.0, StatusCode::SERVICE_UNAVAILABLE);
    drop(open);
    let place = tokio::time::timeout(std::time::Duration::from_secs(10), log.api.0.streams.acquire());
    assert!(place.await.unwrap().is_ok());
}
