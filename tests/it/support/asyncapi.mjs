// Reads a list of {"document": "…", "messages": [{topic, headers, payload}]} and prints what is wrong as a JSON list of
// sentences: with the document, by AsyncAPI's own parser; with its examples; and with the messages, each of which has
// to match exactly one message of its channel and to have no header that the document does not describe.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(`${process.argv[2]}/`);
const { Parser } = require("@asyncapi/parser");
const Ajv = require("ajv").default;
const addFormats = require("ajv-formats").default;

const parser = new Parser();
const problems = [];
const ajv = addFormats(new Ajv({ strict: false, allErrors: true }));
const compiled = new Map();
const validator = (schema) => {
  if (!compiled.has(schema)) compiled.set(schema, ajv.compile(schema));
  return compiled.get(schema);
};

// Why headers and payload are not this message.
function mismatches(message, { headers, payload }) {
  const parts = [["headers", message.headers().json(), headers], ["payload", message.payload().json(), payload]];
  return parts.flatMap(([part, schema, value]) => {
    const validate = validator(schema);
    validate(value);
    return (validate.errors ?? []).map(({ instancePath, message }) => `${part}${instancePath} ${message}`);
  });
}

async function parse(text) {
  const { document, diagnostics } = await parser.parse(text);
  // The version is chosen: tools for 3.0 are everywhere.
  const wrong = diagnostics.filter(({ code }) => code !== "asyncapi-latest-version");
  problems.push(...wrong.map(({ code, path, message }) => `${path.join("/")}: ${code}: ${message}`));
  return document;
}

function checkExample(message, example) {
  const given = { headers: example.headers(), payload: example.payload() };
  problems.push(...mismatches(message, given).map((why) => `example of ${message.id()}: ${why}`));
}

function checkMessage(document, { topic, headers, payload }) {
  const channel = document.channels().get(topic);
  const type = headers["ce_type"] ?? headers["ce-type"];
  const isJson = headers["content-type"] === "application/json" && payload !== "";
  const given = { headers, payload: isJson ? JSON.parse(payload) : payload };
  const candidates = (channel?.messages().all() ?? []).map((message) => [message, mismatches(message, given)]);
  const matches = candidates.filter(([, why]) => why.length === 0);
  if (matches.length !== 1) {
    const whys = candidates.map(([message, why]) => `${message.id()}: ${why.join(", ") || "matches"}`);
    problems.push(`${type} on ${topic} matches ${matches.length} messages: ${whys.join("; ")}`);
    return;
  }
  const [message] = matches[0];
  const described = new Set(Object.keys(message.headers().json().properties).map((name) => name.toLowerCase()));
  const unknown = Object.keys(headers).filter((name) => !described.has(name.toLowerCase()));
  problems.push(...unknown.map((name) => `${type} on ${topic}: the header ${name} is not described`));
  const expected = headers["content-type"];
  if (message.contentType() !== expected && message.id() !== "claim-check") {
    problems.push(`${type} on ${topic}: ${expected} is described as ${message.contentType()}`);
  }
}

for (const { document: text, messages } of JSON.parse(readFileSync(0, "utf8"))) {
  const document = await parse(text);
  if (!document) continue;
  for (const message of document.allMessages()) {
    for (const example of message.examples()) checkExample(message, example);
  }
  for (const message of messages) checkMessage(document, message);
}
console.log(JSON.stringify(problems));
