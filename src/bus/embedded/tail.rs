//! `tail` on the embedded log: a client of its HTTP API, since the log belongs to the bridge that runs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::bus::{From, Record, Records, TailError};
use crate::config;

/// From the request to the head of the answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

type Http = Client<HttpConnector, Empty<Bytes>>;

/// Follows the topics, all of the log's where none is named.
pub(in crate::bus) async fn tail(
    config: &config::Embedded,
    topics: Vec<String>,
    from: From,
) -> Result<Records, TailError> {
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let topics = if topics.is_empty() { all(&client, config).await? } else { topics };
    let from = match from {
        From::Earliest => "earliest".to_owned(),
        From::Latest => "latest".to_owned(),
        From::Offset(offset) => offset.to_string(),
    };
    let mut bodies = Vec::new();
    for topic in topics {
        let target = format!("/topics/{topic}/messages?from={from}&follow=true");
        bodies.push(Box::pin(records(get(&client, config, &target).await?, topic)));
    }
    Ok(Box::pin(stream::select_all(bodies)))
}

pub(super) async fn all(client: &Http, config: &config::Embedded) -> Result<Vec<String>, TailError> {
    let body = get(client, config, "/topics").await?.collect().await.map_err(|_| lost())?;
    let listed: serde_json::Value = serde_json::from_slice(&body.to_bytes()).map_err(|_| lost())?;
    let topics = listed["topics"].as_array().ok_or_else(lost)?.iter();
    Ok(topics.filter_map(|topic| Some(topic["topic"].as_str()?.to_owned())).collect())
}

async fn get(client: &Http, config: &config::Embedded, target: &str) -> Result<Incoming, TailError> {
    let listen = config.listen;
    let host = if listen.ip().is_unspecified() { format!("127.0.0.1:{}", listen.port()) } else { listen.to_string() };
    let mut request = Request::get(format!("http://{host}{target}"));
    if let Some(token) = config.token.as_ref().and_then(|token| std::str::from_utf8(token.expose()).ok()) {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::new()).map_err(|_| TailError("this topic or token is no HTTP".into()))?;
    let away = || TailError(format!("nothing answers at `embedded.listen` ({listen}); is the bridge running?"));
    let answer = tokio::time::timeout(ANSWERS_WITHIN, client.request(request)).await;
    let answer = answer.map_err(|_| away())?.map_err(|_| away())?;
    if answer.status() == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let status = answer.status();
    let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Err(TailError(format!("the bridge answered {status}: {}", String::from_utf8_lossy(&body))))
}

fn lost() -> TailError {
    TailError("the bridge stopped answering, or retention has overtaken this reader".into())
}

/// The records in a body of NDJSON.
fn records(body: Incoming, topic: String) -> impl futures_util::Stream<Item = Result<Record, TailError>> + Send {
    stream::unfold(Some((body, BytesMut::new(), topic)), |state| async move {
        let (mut body, mut buffer, topic) = state?;
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                if line.len() > 1 {
                    return Some((parse(&line).ok_or_else(lost), Some((body, buffer, topic))));
                }
                continue;
            }
            match body.frame().await {
                Some(Ok(frame)) => buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(_)) | None => return Some((Err(lost()), None)),
            }
        }
    })
    .fuse()
}

fn parse(line: &[u8]) -> Option<Record> {
    let record: serde_json::Value = serde_json::from_slice(line).ok()?;
    let headers = record["headers"].as_object()?.iter();
    let payload = match record["payload"].as_str() {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => data_encoding::BASE64.decode(record["payload_base64"].as_str()?.as_bytes()).ok()?.into(),
    };
    Some(Record {
        topic: record["topic"].as_str()?.to_owned(),
        key: record["key"].as_str().map(str::to_owned),
        partition: 0,
        offset: record["offset"].as_u64()?,
        time: record["time"].as_str()?.parse().ok()?,
        headers: headers
            .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect::<Option<_>>()?,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_way_as_json() {
        for payload in [&b"{\"a\":1}"[..], b"\xff\xfe"] {
            let record = Record {
                topic: "t".into(),
                key: Some("k".into()),
                partition: 0,
                offset: 7,
                time: jiff::Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
                headers: vec![("ce-id".into(), "x".into()), ("content-type".into(), "application/json".into())],
                payload: Bytes::copy_from_slice(payload),
            };
            assert_eq!(parse(&serde_json::to_vec(&record).unwrap()), Some(record));
        }
    }
}
