//! Keeps the newest event of each user and type in SQLite, from Kafka.
//!
//! ```sh
//! KAFKA_BROKERS=localhost:9092 cargo run --bin from_kafka
//! ```
//!
//! An error ends it, and nothing of the message is committed: run it under something that starts it again.

use std::collections::HashMap;
use std::error::Error;
use std::io;

use data_encoding::HEXLOWER;
use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
-- Put into the primary key what identifies the record for you: metadata.summary_id, the day, the order id.
CREATE TABLE IF NOT EXISTS latest (
    key TEXT, type TEXT, sequence INTEGER, id TEXT, bytes INTEGER, sha256 TEXT,
    PRIMARY KEY (key, type)
);
CREATE TABLE IF NOT EXISTS dead_letters (id TEXT PRIMARY KEY, reason TEXT, data BLOB);
";
const REMEMBER: &str = "INSERT OR IGNORE INTO seen VALUES (?)";
const KEEP_NEWEST: &str = "
INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, type) DO UPDATE SET
        sequence = excluded.sequence, id = excluded.id, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE excluded.sequence >= latest.sequence
";
const SET_ASIDE: &str = "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?)";

/// An event's CloudEvents attributes, by name.
type Attributes = HashMap<String, String>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn work(database: &mut Connection, message: &BorrowedMessage<'_>) -> Result<()> {
    let (event, data) = (attributes(message), message.payload().unwrap_or_default());
    if !event.get("source").is_some_and(|source| source.starts_with("/terra/")) {
        let place = format!("{}/{}/{}", message.topic(), message.partition(), message.offset());
        return set_aside(database, &place, "not-an-event", data);
    }
    if let Some(reason) = event.get("terradeadletter") {
        return set_aside(database, &event["id"], reason, data);
    }
    keep(database, &event, data) // serde_json::from_slice(data) parses Terra's event
}

/// An attribute is a header with `ce_` before its name.
fn attributes(message: &BorrowedMessage<'_>) -> Attributes {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |value| String::from_utf8_lossy(value).into_owned();
    headers.filter_map(|header| Some((header.key.strip_prefix("ce_")?.to_owned(), text(header.value?)))).collect()
}

fn keep(database: &mut Connection, event: &Attributes, data: &[u8]) -> Result<()> {
    let sequence = match event.get("sequence") {
        Some(sequence) => sequence.parse()?,
        None => event["time"].parse::<jiff::Timestamp>()?.as_millisecond(),
    };
    let (id, digest) = (&event["id"], HEXLOWER.encode(&Sha256::digest(data)));
    let transaction = database.transaction()?;
    if transaction.execute(REMEMBER, [id])? == 1 {
        let row = (&event["partitionkey"], &event["type"], sequence, id, data.len() as i64, digest);
        transaction.execute(KEEP_NEWEST, row)?;
    }
    Ok(transaction.commit()?)
}

fn set_aside(database: &mut Connection, id: &str, reason: &str, data: &[u8]) -> Result<()> {
    eprintln!("set aside {id}: {reason}");
    database.execute(SET_ASIDE, (id, reason, data))?;
    Ok(())
}

/// SIGTERM or SIGINT.
async fn stop() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = ctrl_c() => interrupted,
    }
}

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut database = Connection::open(setting("DATABASE", "events.db"))?;
    database.execute_batch(TABLES)?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", setting("KAFKA_BROKERS", "localhost:9092"))
        // A login: "security.protocol", "sasl.mechanism", "sasl.username", "sasl.password".
        .set("group.id", setting("GROUP", "example"))
        .set("auto.offset.reset", "earliest") // else a new group starts at the end
        .set("enable.auto.commit", "false")
        .create()?;
    let topics = setting("TOPICS", "terra.sleep,terra.daily,terra.dead-letter");
    consumer.subscribe(&Vec::from_iter(topics.split(',')))?;
    tokio::pin!(let stopping = stop(););
    loop {
        let message = tokio::select! {
            message = consumer.recv() => message?,
            stopped = &mut stopping => return Ok(stopped?),
        };
        work(&mut database, &message)?;
        consumer.commit_message(&message, CommitMode::Sync)?; // only now
    }
}
