// Keeps the newest event of each user and type in SQLite, from Kafka.
//
//     npm install
//     KAFKA_BROKERS=localhost:9092 node from_kafka.js
//
// An error ends it, and nothing of the message is committed: run it under something that starts it again.

import { createHash } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { Kafka as CloudEvents } from "cloudevents";
import kafkajs from "kafkajs";
import LZ4 from "kafkajs-lz4";

// terra-bridge compresses with lz4, which kafkajs does not read by itself.
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = new LZ4().codec;

const TABLES = `
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
-- Put into the primary key what identifies the record for you: metadata.summary_id, the day, the order id.
CREATE TABLE IF NOT EXISTS latest (
    key TEXT, type TEXT, sequence INTEGER, id TEXT, bytes INTEGER, sha256 TEXT,
    PRIMARY KEY (key, type)
);
CREATE TABLE IF NOT EXISTS dead_letters (id TEXT PRIMARY KEY, reason TEXT, data BLOB);
`;
const REMEMBER = "INSERT OR IGNORE INTO seen VALUES (?)";
const KEEP_NEWEST = `
INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, type) DO UPDATE SET
        sequence = excluded.sequence, id = excluded.id, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE excluded.sequence >= latest.sequence
`;
const SET_ASIDE = "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?)";

const database = new DatabaseSync(process.env.DATABASE ?? "events.db", { timeout: 5000 });
database.exec(TABLES);

function work({ topic, partition, message }) {
  const texts = Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(value)]);
  const headers = Object.fromEntries(texts); // kafkajs has buffers, the CloudEvents SDK takes text
  const data = message.value ?? Buffer.alloc(0);
  if (!headers.ce_source?.startsWith("/terra/")) {
    return setAside(`${topic}/${partition}/${message.offset}`, "not-an-event", data);
  }
  const event = CloudEvents.toEvent({ headers, key: String(message.key), value: data });
  if (event.terradeadletter) return setAside(event.id, event.terradeadletter, data);
  keep(event, data); // event.data is the parsed JSON
}

function keep(event, data) {
  const sequence = Number(event.sequence ?? Date.parse(event.time));
  const row = [event.partitionkey, event.type, sequence, event.id, data.length, sha256(data)];
  database.exec("BEGIN"); // an error below ends the program, and so takes it back
  if (database.prepare(REMEMBER).run(event.id).changes > 0) database.prepare(KEEP_NEWEST).run(...row);
  database.exec("COMMIT");
}

function setAside(id, reason, data) {
  console.error(`set aside ${id}: ${reason}`);
  database.prepare(SET_ASIDE).run(id, reason, data);
}

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

const kafka = new kafkajs.Kafka({
  brokers: (process.env.KAFKA_BROKERS ?? "localhost:9092").split(","),
  // A login: ssl: true, sasl: { mechanism, username, password }.
});
const consumer = kafka.consumer({ groupId: process.env.GROUP ?? "example" });
consumer.on(consumer.events.CRASH, ({ payload }) => {
  if (!payload.restart) process.exitCode = 1;
});
await consumer.connect();
const topics = (process.env.TOPICS ?? "terra.sleep,terra.daily,terra.dead-letter").split(",");
await consumer.subscribe({ topics, fromBeginning: true }); // else a new group starts at the end
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => consumer.disconnect());
await consumer.run({
  autoCommit: false,
  eachMessage: async (received) => {
    try {
      work(received);
    } catch (error) {
      throw Object.assign(error, { retriable: false }); // else kafkajs calls this again, in the same transaction
    }
    const { topic, partition, message } = received;
    await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }]); // only now
  },
});
