//! The least that a bridge can do: reads the body, proves the signature, reads type and user, publishes, waits for the
//! acknowledgement. On Kafka the user is the key, which keeps a user's events in order: so its messages go to as many
//! partitions at once as the bridge's. No limits, deadlines, ids, dedupe or metrics: what terra-bridge costs beyond this
//! is its own.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use async_nats::jetstream;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use sha2::Sha256;

use crate::destination::{self, Error};

/// Verifies deliveries and publishes them, and does nothing else. The secret is in TERRA_SIGNING_SECRET.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(subcommand)]
    bus: Where,
}

#[derive(Subcommand)]
enum Where {
    /// Keeps nothing
    Nothing,
    Kafka {
        brokers: String,
        topic: String,
    },
    Nats {
        url: String,
        stream: String,
        subject: String,
    },
}

enum Bus {
    Nothing,
    Kafka(FutureProducer, String),
    Nats(Box<jetstream::Context>, String),
}

#[derive(Deserialize)]
struct Event<'b> {
    #[serde(borrow)]
    r#type: Cow<'b, str>,
    #[serde(borrow)]
    user: User<'b>,
}

#[derive(Deserialize)]
struct User<'b> {
    #[serde(borrow)]
    user_id: Cow<'b, str>,
}

#[tokio::main]
pub async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let bus = Arc::new(Bus::open(arguments.bus).await?);
    let key = Arc::new(Hmac::<Sha256>::new_from_slice(std::env::var("TERRA_SIGNING_SECRET")?.as_bytes())?);
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (bus, key) = (bus.clone(), key.clone());
        let service = service_fn(move |request| answer(request, bus.clone(), key.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    bus: Arc<Bus>,
    key: Arc<Hmac<Sha256>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match deliver(request, &bus, &key).await {
        Ok(status) => status,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok(response)
}

async fn deliver(request: Request<Incoming>, bus: &Bus, key: &Hmac<Sha256>) -> Result<StatusCode, Error> {
    let (head, body) = request.into_parts();
    let signature = head.headers.get("terra-signature").ok_or("no signature")?.to_str()?;
    let (t, v1) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).ok_or("no signature")?;
    let body = body.collect().await?.to_bytes();
    let mut mac = key.clone();
    mac.update(t.as_bytes());
    mac.update(b".");
    mac.update(&body);
    if mac.verify_slice(&data_encoding::HEXLOWER.decode(v1.as_bytes())?).is_err() {
        return Ok(StatusCode::UNAUTHORIZED);
    }
    let event: Event<'_> = serde_json::from_slice(&body)?;
    if event.r#type.is_empty() {
        return Ok(StatusCode::BAD_REQUEST);
    }
    bus.publish(&event.user.user_id, body.clone()).await?;
    Ok(StatusCode::OK)
}

impl Bus {
    async fn open(to: Where) -> Result<Self, Error> {
        Ok(match to {
            Where::Nothing => Self::Nothing,
            Where::Nats { url, stream, subject } => {
                destination::create_stream(&url, &stream, &subject).await?;
                Self::Nats(jetstream::new(async_nats::connect(url).await?).into(), subject)
            }
            Where::Kafka { brokers, topic } => {
                destination::create_topic(&brokers, &topic).await?;
                Self::Kafka(producer(&brokers).create()?, topic)
            }
        })
    }

    /// `Ok` once it is kept.
    async fn publish(&self, user: &str, body: Bytes) -> Result<(), Error> {
        match self {
            Self::Nothing => {}
            Self::Nats(jetstream, subject) => {
                jetstream.publish(subject.clone(), body).await?.await?;
            }
            Self::Kafka(producer, topic) => {
                let record = FutureRecord::to(topic).key(user).payload(&body[..]);
                producer.send_result(record).map_err(|(error, _)| error)?.await?.map_err(|(error, _)| error)?;
            }
        }
        Ok(())
    }
}

/// What the bridge's own producer has that costs time.
fn producer(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("metadata.broker.list", brokers),
        ("request.required.acks", "all"),
        ("enable.idempotence", "true"),
        ("queue.buffering.max.ms", "1"),
        ("batch.size", "262144"),
        ("message.max.bytes", destination::LARGEST_MESSAGE),
        ("queue.buffering.max.kbytes", "589824"),
        ("queue.buffering.max.messages", "1000000"),
        ("partitioner", "murmur2_random"),
        ("compression.codec", "lz4"),
    ] {
        config.set(name, value);
    }
    config
}
