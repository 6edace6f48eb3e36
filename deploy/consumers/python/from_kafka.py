"""Keeps the newest event of each user and type in SQLite, from Kafka.

    pip install -r requirements.txt
    KAFKA_BROKERS=localhost:9092 python from_kafka.py

An error ends it, and nothing of the message is committed: run it under something that starts it again.
"""

import hashlib
import os
import signal
import sqlite3
import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from confluent_kafka import Consumer, KafkaException

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
    headers, data = dict(message.headers() or []), message.value() or b""
    if not headers.get("ce_source", b"").startswith(b"/terra/"):
        place = f"{message.topic()}/{message.partition()}/{message.offset()}"
        return set_aside(database, place, "not-an-event", data)
    event = from_binary_event(KafkaMessage(headers, message.key(), data))
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


def main():
    stopping = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.append(True))
    database = sqlite3.connect(os.environ.get("DATABASE", "events.db"))
    database.executescript(TABLES)
    consumer = Consumer({
        "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "localhost:9092"),
        # A login: "security.protocol": "SASL_SSL", "sasl.mechanism", "sasl.username", "sasl.password".
        "group.id": os.environ.get("GROUP", "example"),
        "auto.offset.reset": "earliest",  # else a new group starts at the end
        "enable.auto.commit": False,
    })
    consumer.subscribe(os.environ.get("TOPICS", "terra.sleep,terra.daily,terra.dead-letter").split(","))
    try:
        while not stopping:
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            work(database, message)
            consumer.commit(message, asynchronous=False)  # only now
    finally:
        consumer.close()


main()
