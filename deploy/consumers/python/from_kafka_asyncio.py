"""Keeps the newest event of each user and type in SQLite, from Kafka, with asyncio.

    pip install -r requirements.txt
    KAFKA_BROKERS=localhost:9092 python from_kafka_asyncio.py

An error ends it, and nothing of the message is committed: run it under something that starts it again.
"""

import asyncio
import hashlib
import os
import signal
import sqlite3
import sys

from aiokafka import AIOKafkaConsumer
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event

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


def work(database, message):
    headers, data = dict(message.headers), message.value or b""
    if not headers.get("ce_source", b"").startswith(b"/terra/"):
        place = f"{message.topic}/{message.partition}/{message.offset}"
        return set_aside(database, place, "not-an-event", data)
    event = from_binary_event(KafkaMessage(headers, message.key, data))
    if reason := event.get_extension("terradeadletter"):
        return set_aside(database, event.get_id(), reason, data)
    keep(database, event, data)  # event.get_data() is the parsed JSON


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
    consumer = AIOKafkaConsumer(
        *os.environ.get("TOPICS", "terra.sleep,terra.daily,terra.dead-letter").split(","),
        bootstrap_servers=os.environ.get("KAFKA_BROKERS", "localhost:9092"),
        # A login: security_protocol="SASL_SSL", sasl_mechanism, sasl_plain_username, sasl_plain_password.
        group_id=os.environ.get("GROUP", "example"),
        auto_offset_reset="earliest",  # else a new group starts at the end
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        while not stopping.is_set():
            for partition, messages in (await consumer.getmany(timeout_ms=1000, max_records=1)).items():
                for message in messages:
                    work(database, message)
                    await consumer.commit({partition: message.offset + 1})  # only now
    finally:
        await consumer.stop()


asyncio.run(main())
