//! The tables that a program keeps in SQLite: as they must be, computed from what was delivered, and as they are, read
//! by Python's SQLite.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::expected::Sent;
use crate::support::{needed, until};

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Prints the tables for each line that it is sent.
const READ: &str = "\
import hashlib, json, sqlite3, sys
def tables(path):
    database = sqlite3.connect(f'file:{path}?mode=rw', uri=True)
    rows = lambda statement: sorted(map(list, database.execute(statement)))
    digest = lambda data: hashlib.sha256(data.encode() if isinstance(data, str) else data or b'').hexdigest()
    return {
        'seen': [id for [id] in rows('SELECT id FROM seen')],
        'latest': rows('SELECT key, type, sequence, id, bytes, sha256 FROM latest'),
        'dead_letters': [[id, reason, digest(data)] for id, reason, data in rows('SELECT * FROM dead_letters')],
    }
for line in sys.stdin:
    try:
        found = tables(sys.argv[1])
    except sqlite3.OperationalError as error:
        found = {'error': str(error)}
    print(json.dumps(found), flush=True)";

/// Holds a database's write lock until its standard input ends.
const LOCK: &str = "\
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
database.execute('BEGIN IMMEDIATE')
print('locked', flush=True)
sys.stdin.read()";

type KeyAndType = (String, String);

#[derive(Default)]
pub struct Tables {
    seen: BTreeSet<String>,
    latest: BTreeMap<KeyAndType, (i64, Value)>,
    dead_letters: BTreeMap<String, Value>,
}

impl Tables {
    /// After this delivery, with the id that the bridge gave it.
    pub fn deliver(&mut self, sent: &Sent, id: &str) {
        let digest = sha256(&sent.body);
        let Some(event_type) = sent.event_type() else {
            let reason = sent.dead_letter_reason().expect("it is no event");
            return self.set_aside(id, reason, &sent.body);
        };
        if !self.seen.insert(id.to_owned()) {
            return;
        }
        let (key, sequence) = (sent.key(id), sent.ordered_at.unwrap_or(sent.t * 1000));
        let row = json!([key, event_type, sequence, id, sent.body.len(), digest]);
        let place = (key, event_type);
        if self.latest.get(&place).is_none_or(|(held, _)| sequence >= *held) {
            self.latest.insert(place, (sequence, row));
        }
    }

    /// After a message that is no event.
    pub fn set_aside(&mut self, id: &str, reason: &str, data: &[u8]) {
        self.dead_letters.insert(id.to_owned(), json!([id, reason, sha256(data)]));
    }

    /// Waits until a database has these tables, as long as its program runs.
    pub fn await_in(&self, database: &Path, within: Duration, mut runs: impl FnMut() -> bool) -> Result<(), String> {
        let latest: Vec<_> = self.latest.values().map(|(_, row)| row).collect();
        let dead_letters: Vec<_> = self.dead_letters.values().collect();
        let expected = json!({"seen": self.seen, "latest": latest, "dead_letters": dead_letters});
        let mut reader = Script::start(READ, database);
        let end = Instant::now() + within;
        until("the tables can be read", within + ANSWERS_WITHIN, || {
            let may_change = runs() && Instant::now() < end;
            let found: Value = serde_json::from_str(&reader.ask()).expect("JSON");
            if found == expected {
                return Some(Ok(()));
            }
            (!may_change).then(|| Err(differences(&found, &expected)))
        })
    }
}

fn differences(found: &Value, expected: &Value) -> String {
    let lines =
        |rows: &Value| -> BTreeSet<String> { rows.as_array().into_iter().flatten().map(Value::to_string).collect() };
    let mut differences = found["error"].as_str().unwrap_or_default().to_owned();
    for table in ["seen", "latest", "dead_letters"] {
        let (found, expected) = (lines(&found[table]), lines(&expected[table]));
        for line in found.difference(&expected) {
            differences.push_str(&format!("\n{table} has {line}"));
        }
        for line in expected.difference(&found) {
            differences.push_str(&format!("\n{table} lacks {line}"));
        }
    }
    differences
}

/// A database that nobody else can write to.
pub struct Locked {
    _script: Script,
}

impl Locked {
    pub fn lock(database: &Path) -> Self {
        let mut script = Script::start(LOCK, database);
        assert_eq!(script.ask(), "locked");
        Self { _script: script }
    }
}

/// A Python script that answers each line with one; it ends with its standard input.
struct Script {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Script {
    fn start(script: &str, database: &Path) -> Self {
        let python = needed("TERRA_BRIDGE_TEST_PYTHON").expect("the test asked for it");
        let mut command = Command::new(python);
        command.args(["-c", script]).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("Python runs");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Self { input: process.stdin.take(), output, process }
    }

    fn ask(&mut self) -> String {
        self.input.as_mut().expect("it is open").write_all(b"\n").expect("Python reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("Python answers");
        line.trim().to_owned()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

fn sha256(data: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(data))
}
