"""Keeps the newest event of each user and type in SQLite, from NATS JetStream.

    pip install -r requirements.txt
    NATS_URL=nats://localhost:4222 python from_nats.py

An error ends it, and the message is not acknowledged: NATS sends it again. Run it under something that starts it again.
"""

import asyncio
import hashlib
import os
import signal
import sqlite3
import sys

import nats
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from nats.js.api import ConsumerConfig

TABLES = """
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
-- Put into the primary key what identifies the record for you: metadata.summary_id, the day, the order id.
CREATE TABLE IF NOT EXISTS latest (
    key TEXT, type TEXT, sequence INTEGER, id TEXT, bytes INTEGER, sha256 TEXT,
    PRIMARY KEY (key, type)
);
CREATE TABLE IF NOT EXISTS dead_letters (id TEXT PRIMARY KEY, reason TEXT, data BLOB);
"""
REMEMBER = "INSERT OR IGNORE INTO seen VALUES (?)"
KEEP_NEWEST = """
INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, type) DO UPDATE SET
        sequence = excluded.sequence, id = excluded.id, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE excluded.sequence >= latest.sequence
"""
SET_ASIDE = "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?)"


async def work(database, jetstream, message):
    headers, data = message.headers or {}, message.data
    if not headers.get("ce-source", "").startswith("/terra/"):
        place = f"{message.metadata.stream}/{message.metadata.sequence.stream}"
        return set_aside(database, place, "not-an-event", data)
    event = from_binary_event(HTTPMessage(headers, data))  # NATS' headers are those of HTTP
    if reference := event.get_extension("dataref"):
        data = await claim(jetstream, reference, event.get_extension("terradigest"))
    if reason := event.get_extension("terradeadletter"):
        return set_aside(database, event.get_id(), reason, data)
    keep(database, event, data)  # json.loads(data) is Terra's event


async def claim(jetstream, reference, digest):
    """The data of an event that was too large for a message."""
    bucket, name = reference.removeprefix("nats-object:").split("/")
    store = await jetstream.object_store(bucket)
    data = (await store.get(name)).data
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{reference} is not what the event says")
    return data


def keep(database, event, data):
    sequence = event.get_extension("sequence") or round(event.get_time().timestamp() * 1000)
    with database:  # one transaction
        if database.execute(REMEMBER, [event.get_id()]).rowcount == 0:
            return
        key, digest = event.get_extension("partitionkey"), hashlib.sha256(data).hexdigest()
        row = [key, event.get_type(), int(sequence), event.get_id(), len(data), digest]
        database.execute(KEEP_NEWEST, row)


def set_aside(database, id, reason, data):
    print(f"set aside {id}: {reason}", file=sys.stderr)
    with database:
        database.execute(SET_ASIDE, [id, reason, data])


async def main():
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    database = sqlite3.connect(os.environ.get("DATABASE", "events.db"))
    database.executescript(TABLES)
    # A login: user_credentials="bridge.creds".
    client = await nats.connect(os.environ.get("NATS_URL", "nats://localhost:4222"))
    jetstream = client.jetstream()
    # `terra.>`, not `terra.*`: ten types have a dot.
    subjects = os.environ.get("TOPICS", "terra.>").split(",")
    consumer = await jetstream.pull_subscribe(
        "",
        durable=os.environ.get("GROUP", "example"),
        stream=os.environ.get("STREAM", "TERRA"),
        config=ConsumerConfig(filter_subjects=subjects),  # from the first message on, each acknowledged
    )
    while not stopping.is_set():
        try:
            [message] = await consumer.fetch(1, timeout=1)
        except nats.errors.TimeoutError:
            continue
        await work(database, jetstream, message)
        await message.ack_sync()  # only now
    await client.close()


asyncio.run(main())
