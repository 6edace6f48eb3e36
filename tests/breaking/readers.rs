//! Reads everything that a bus keeps, with clients that share no code with the bridge. Each message is passed on and
//! dropped, because all of them together are large.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures_util::StreamExt;
use rdkafka::consumer::Consumer;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::io::AsyncReadExt;

use crate::admin::{Admin, nats_client};
use crate::support::bridge::Bridge;
use crate::support::consumers::{Got, embedded_take, kafka_client, kafka_got, nats_got, runtime};
use crate::support::{http, until};

/// For an expected message, until the next one arrives.
const COMES_WITHIN: Duration = Duration::from_secs(30);
/// How many messages of a stream are asked for at once.
const AT_ONCE: usize = 16;
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// From the embedded log, over its HTTP API.
pub fn embedded(bridge: &Bridge, mut each: impl FnMut(Got)) {
    let reader = bridge.reader();
    let topics = http::get(reader, "/topics").json();
    for topic in topics.as_array().expect("a list of topics") {
        let (name, next) = (topic["topic"].as_str().expect("a name"), topic["next"].as_u64().expect("an offset"));
        let got = embedded_take(reader, name, next as usize);
        assert_eq!(got.len() as u64, next, "{name} shows as many as it says");
        got.into_iter().for_each(&mut each);
    }
}

pub fn brokers(admin: &Admin, each: impl FnMut(Got)) {
    match admin.bus.is_nats() {
        true => nats(admin, each),
        false => kafka(admin, each),
    }
}

fn kafka(admin: &Admin, mut each: impl FnMut(Got)) {
    let consumer = kafka_client(&admin.directly);
    let metadata = until("metadata", COMES_WITHIN, || consumer.fetch_metadata(None, COMES_WITHIN).ok());
    let ours = metadata.topics().iter().filter(|topic| topic.name().starts_with(&admin.prefix));
    let mut ends = HashMap::new();
    let mut from = TopicPartitionList::new();
    for (topic, id) in ours.flat_map(|topic| topic.partitions().iter().map(|one| (topic.name(), one.id()))) {
        // A partition may still be without its leader.
        let (low, high) = until("watermarks", COMES_WITHIN, || consumer.fetch_watermarks(topic, id, COMES_WITHIN).ok());
        if high > low {
            ends.insert((topic.to_owned(), id), high);
            from.add_partition_offset(topic, id, Offset::Beginning).expect("an offset");
        }
    }
    consumer.assign(&from).expect("an assignment");
    let mut last = Instant::now();
    while !ends.is_empty() {
        assert!(last.elapsed() < COMES_WITHIN, "Kafka shows no more of {ends:?}");
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else { continue };
        last = Instant::now();
        let place = (message.topic().to_owned(), message.partition());
        if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&place);
        }
        each(kafka_got(&message));
    }
}

fn nats(admin: &Admin, mut each: impl FnMut(Got)) {
    let state = admin.stream().state;
    runtime().block_on(async {
        let client = nats_client(&admin.directly).await.expect("NATS answers");
        let context = jetstream::new(client);
        // From the stream's leader, and not through a consumer: where the cluster just got a server back, a consumer
        // may long be without a leader of its own.
        let read = |sequence| raw_message(&context, &admin.prefix, sequence);
        // The first of a new stream is 1, though an empty one says 0.
        let sequences = state.first_sequence.max(1)..=state.last_sequence;
        let mut messages = futures_util::stream::iter(sequences).map(read).buffered(AT_ONCE);
        let mut count = 0;
        while let Some(message) = messages.next().await {
            let Some(message) = message else { continue };
            let mut got = nats_got(&message.subject, &message.headers, &message.payload);
            count += 1;
            if let Some(place) = got.attribute("dataref") {
                got.payload = object(&context, &place).await;
            }
            each(got);
        }
        assert_eq!(count, state.messages, "NATS shows as many as it says");
    });
}

/// The message of that sequence; `None` if the stream has none.
async fn raw_message(context: &jetstream::Context, stream: &str, sequence: u64) -> Option<StreamMessage> {
    let end = Instant::now() + COMES_WITHIN;
    loop {
        let stream = context.get_stream_no_info(stream).await.expect("a name");
        match stream.get_raw_message(sequence).await {
            Ok(message) => return Some(message),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return None,
            // The cluster may be electing a leader.
            Err(error) => assert!(Instant::now() < end, "NATS does not show {sequence}: {error}"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The payload behind a claim check.
async fn object(context: &jetstream::Context, place: &str) -> Vec<u8> {
    let object = place.strip_prefix("nats-object:").and_then(|object| object.split_once('/'));
    let (bucket, name) = object.expect("a bucket and an object");
    let end = Instant::now() + COMES_WITHIN;
    loop {
        let read = async {
            let store = context.get_object_store(bucket).await.ok()?;
            let mut bytes = Vec::new();
            store.get(name).await.ok()?.read_to_end(&mut bytes).await.ok()?;
            Some(bytes)
        };
        match read.await {
            Some(bytes) => return bytes,
            None => assert!(Instant::now() < end, "a claim check stands for nothing"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}
