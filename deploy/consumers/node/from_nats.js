// Keeps the newest event of each user and type in SQLite, from NATS JetStream.
//
//     npm install
//     NATS_URL=nats://localhost:4222 node from_nats.js
//
// An error ends it, and the message is not acknowledged: NATS sends it again. Run it under something that starts it
// again.

import { createHash } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Objm } from "@nats-io/obj";
import { connect } from "@nats-io/transport-node";
import { HTTP as CloudEvents } from "cloudevents";

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

async function work(message) {
  const values = [...(message.headers ?? [])].map(([name, [value]]) => [name, decodeURIComponent(value)]);
  const headers = Object.fromEntries(values); // the CloudEvents SDK does not decode them
  let data = message.data;
  if (!headers["ce-source"]?.startsWith("/terra/")) {
    return setAside(`${message.info.stream}/${message.seq}`, "not-an-event", data);
  }
  const event = CloudEvents.toEvent({ headers }); // NATS' headers are those of HTTP
  if (event.dataref) data = await claim(event.dataref, event.terradigest);
  if (event.terradeadletter) return setAside(event.id, event.terradeadletter, data);
  keep(event, data); // JSON.parse(new TextDecoder().decode(data)) is Terra's event
}

/** The data of an event that was too large for a message. */
async function claim(reference, digest) {
  const [bucket, name] = reference.replace("nats-object:", "").split("/");
  const data = await (await new Objm(client).open(bucket)).getBlob(name);
  if (data === null || sha256(data) !== digest) throw new Error(`${reference} is not what the event says`);
  return data;
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

let stopping = false;
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => (stopping = true));
const client = await connect({
  servers: process.env.NATS_URL ?? "nats://localhost:4222",
  // A login: authenticator: credsAuthenticator(await readFile("bridge.creds")).
});
const stream = process.env.STREAM ?? "TERRA";
const durable = process.env.GROUP ?? "example";
// `terra.>`, not `terra.*`: ten types have a dot.
const subjects = (process.env.TOPICS ?? "terra.>").split(",");
const manager = await jetstreamManager(client);
await manager.consumers.add(stream, { durable_name: durable, ack_policy: "explicit", filter_subjects: subjects });
const consumer = await jetstream(client).consumers.get(stream, durable);
while (!stopping) {
  const message = await consumer.next({ expires: 1000 });
  if (message === null) continue;
  await work(message);
  await message.ackAck(); // only now
}
await client.close();
