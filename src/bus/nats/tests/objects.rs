//! Objects on a real server, which `TERRA_BRIDGE_TEST_NATS` names. Without it these tests skip loudly, and with `CI`
//! set they fail.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::object_store::Config;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::super::object::{AbandonedChunks, Bucket, Object, PutError};

const HOUR: Duration = Duration::from_secs(3600);
/// Three chunks.
const BYTES: usize = 5 << 19;

fn object(id: &str, filling: u8) -> Object {
    let payload = Bytes::from(vec![filling; BYTES]);
    let sha256 = Sha256::digest(&payload);
    Object::new(id, payload, &sha256)
}

/// A bucket of its own with this retention for objects and messages.
async fn bucket(test: &str, age: Duration) -> Option<Bucket> {
    let Ok(server) = std::env::var("TERRA_BRIDGE_TEST_NATS") else {
        assert!(std::env::var_os("CI").is_none(), "{test}: CI is set and TERRA_BRIDGE_TEST_NATS is not");
        eprintln!("SKIPPED {test}: TERRA_BRIDGE_TEST_NATS names no server (./tests/run starts one)");
        return None;
    };
    let context = jetstream::new(async_nats::connect(server).await.expect("the server answers"));
    let name = format!("{test}-{}", std::process::id());
    let config = Config { bucket: name.clone(), max_age: age, ..Config::default() };
    context.create_object_store(config).await.expect("a bucket");
    let stream = context.get_stream(format!("OBJ_{name}")).await.expect("its stream");
    Some(Bucket { context, name, stream, message_age: age, abandoned: AbandonedChunks::default() })
}

impl Bucket {
    /// Last sequence, and number of messages.
    async fn state(&self) -> (u64, u64) {
        let info = self.stream.get_info().await.expect("it answers");
        (info.state.last_sequence, info.state.messages)
    }

    async fn read(&self, object: &Object) -> Vec<u8> {
        let store = self.context.get_object_store(&self.name).await.expect("the bucket");
        let mut bytes = Vec::new();
        store.get(object.name.as_str()).await.expect("it").read_to_end(&mut bytes).await.expect("all of it");
        bytes
    }

    async fn delete(self) {
        self.context.delete_object_store(&self.name).await.expect("deleted");
    }
}

#[tokio::test]
async fn an_object_is_put_once_and_another_payload_of_the_same_id_beside_it() {
    let Some(bucket) = bucket("once", HOUR).await else { return };
    let (one, other) = (object("id", b'x'), object("id", b'y'));
    for _ in 0..2 {
        assert_eq!(bucket.put(&one).await, Ok(()));
        assert_eq!(bucket.state().await, (4, 4), "three chunks and their name");
    }
    assert_eq!(bucket.put(&other).await, Ok(()));
    assert_eq!(bucket.state().await, (8, 8));
    assert!(bucket.read(&one).await == one.payload && bucket.read(&other).await == other.payload);
    bucket.delete().await;
}

#[tokio::test]
async fn concurrent_writers_of_the_same_object_leave_one_whole_copy() {
    let Some(bucket) = bucket("together", HOUR).await else { return };
    let object = object("id", b'x');
    let puts = futures_util::future::join_all((0..5).map(|_| bucket.put(&object))).await;
    assert_eq!(puts, [const { Ok(()) }; 5]);
    assert!(bucket.read(&object).await == object.payload);
    assert!(bucket.state().await.1 > 4, "some were overtaken");
    bucket.abandoned.remove(&bucket.stream).await;
    assert_eq!(bucket.state().await.1, 4);
    assert!(bucket.read(&object).await == object.payload);
    bucket.delete().await;
}

#[tokio::test]
async fn an_object_that_would_expire_before_its_message_is_put_again() {
    let age = Duration::from_secs(20);
    let Some(bucket) = bucket("expiring", age).await else { return };
    let object = object("id", b'x');
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert_eq!(bucket.state().await.0, 4, "a moment counts for nothing");
    // A little more than a twentieth of its time.
    tokio::time::sleep(age / 20 + Duration::from_millis(100)).await;
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert_eq!(bucket.state().await.0, 8);
    assert!(bucket.read(&object).await == object.payload);
    bucket.delete().await;
}

#[tokio::test]
async fn chunks_of_an_attempt_that_died_are_unnamed_and_removed() {
    let Some(bucket) = bucket("died", HOUR).await else { return };
    let object = object("id", b'x');
    let mut put = Box::pin(bucket.put(&object));
    while bucket.state().await.1 == 0 {
        let _ = futures_util::poll!(&mut put);
    }
    drop(put);
    let store = bucket.context.get_object_store(&bucket.name).await.expect("the bucket");
    assert!(store.info(object.name.as_str()).await.is_err(), "no name leads to them");
    bucket.abandoned.remove(&bucket.stream).await;
    assert_eq!(bucket.state().await.1, 0);
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert!(bucket.read(&object).await == object.payload);
    bucket.delete().await;
}

#[tokio::test]
async fn an_object_without_a_chunk_or_with_a_foreign_entry_is_put_again() {
    let Some(bucket) = bucket("broken", HOUR).await else { return };
    let object = object("id", b'x');
    assert_eq!(bucket.put(&object).await, Ok(()));
    bucket.stream.delete_message(2).await.expect("deleted");
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert!(bucket.read(&object).await == object.payload);
    let store = bucket.context.get_object_store(&bucket.name).await.expect("the bucket");
    store.put(object.name.as_str(), &mut &b"something else"[..]).await.expect("replaced");
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert!(bucket.read(&object).await == object.payload);
    store.delete(object.name.as_str()).await.expect("deleted");
    assert_eq!(bucket.put(&object).await, Ok(()));
    assert!(bucket.read(&object).await == object.payload);
    bucket.delete().await;
}

#[tokio::test]
async fn a_bucket_that_drops_the_first_chunk_for_the_last_does_not_have_the_object() {
    let Some(bucket) = bucket("dropping", HOUR).await else { return };
    let mut config = bucket.stream.get_info().await.expect("it answers").config.clone();
    config.max_bytes = 2 << 20;
    config.discard = jetstream::stream::DiscardPolicy::Old;
    bucket.context.update_stream(config).await.expect("an update");
    assert_eq!(bucket.put(&object("id", b'x')).await, Err(PutError::Dropped));
    bucket.delete().await;
}
