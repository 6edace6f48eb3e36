//! Keeps the newest event of each user and type in SQLite, from NATS JetStream.
//!
//! ```sh
//! NATS_URL=nats://localhost:4222 cargo run --bin from_nats
//! ```
//!
//! An error ends it, and the message is not acknowledged: NATS sends it again. Run it under something that starts it
//! again.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use async_nats::{HeaderName, HeaderValue};
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
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
type Result<T> = std::result::Result<T, async_nats::Error>;

async fn work(database: &mut Connection, jetstream: &jetstream::Context, message: &jetstream::Message) -> Result<()> {
    let event = attributes(message);
    if !event.get("source").is_some_and(|source| source.starts_with("/terra/")) {
        let info = message.info()?;
        let place = format!("{}/{}", info.stream, info.stream_sequence);
        return set_aside(database, &place, "not-an-event", &message.payload);
    }
    let data = match event.get("dataref") {
        Some(reference) => claim(jetstream, reference, &event["terradigest"]).await?,
        None => message.payload.to_vec(),
    };
    if let Some(reason) = event.get("terradeadletter") {
        return set_aside(database, &event["id"], reason, &data);
    }
    keep(database, &event, &data) // serde_json::from_slice(&data) parses Terra's event
}

/// An attribute is a header with `ce-` before its name, percent-encoded.
fn attributes(message: &jetstream::Message) -> Attributes {
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let attribute = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
        let name = AsRef::<str>::as_ref(name).strip_prefix("ce-")?.to_owned();
        Some((name, percent_decode_str(values.first()?.as_str()).decode_utf8_lossy().into_owned()))
    };
    headers.filter_map(attribute).collect()
}

/// The data of an event that was too large for a message.
async fn claim(jetstream: &jetstream::Context, reference: &str, digest: &str) -> Result<Vec<u8>> {
    let place = reference.strip_prefix("nats-object:").and_then(|place| place.split_once('/'));
    let (bucket, name) = place.ok_or_else(|| format!("{reference} is no object of NATS"))?;
    let mut data = Vec::new();
    jetstream.get_object_store(bucket).await?.get(name).await?.read_to_end(&mut data).await?;
    match HEXLOWER.encode(&Sha256::digest(&data)) == digest {
        true => Ok(data),
        false => Err(format!("{reference} is not what the event says").into()),
    }
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
    // A login: ConnectOptions::with_credentials_file("bridge.creds").await?.connect(…).
    let client = async_nats::connect(setting("NATS_URL", "nats://localhost:4222")).await?;
    let jetstream = jetstream::new(client);
    let config = pull::Config {
        durable_name: Some(setting("GROUP", "example")),
        // `terra.>`, not `terra.*`: ten types have a dot.
        filter_subjects: setting("TOPICS", "terra.>").split(',').map(str::to_owned).collect(),
        ..Default::default() // from the first message on, each acknowledged
    };
    let consumer = jetstream.create_consumer_on_stream(config, setting("STREAM", "TERRA")).await?;
    tokio::pin!(let stopping = stop(););
    loop {
        let mut next = consumer.batch().max_messages(1).expires(Duration::from_secs(1)).messages().await?;
        let message = tokio::select! {
            message = next.next() => message.transpose()?,
            stopped = &mut stopping => return Ok(stopped?),
        };
        let Some(message) = message else { continue };
        work(&mut database, &jetstream, &message).await?;
        message.double_ack().await?; // only now
    }
}
