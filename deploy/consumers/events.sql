-- The tables that every program in this folder keeps, and its three statements: the same text in all of them.

CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
-- Put into the primary key what identifies the record for you: metadata.summary_id, the day, the order id.
CREATE TABLE IF NOT EXISTS latest (
    key TEXT, type TEXT, sequence INTEGER, id TEXT, bytes INTEGER, sha256 TEXT,
    PRIMARY KEY (key, type)
);
CREATE TABLE IF NOT EXISTS dead_letters (id TEXT PRIMARY KEY, reason TEXT, data BLOB);

-- Changes no row if the event is a copy: the program then leaves `latest` as it is.
INSERT OR IGNORE INTO seen VALUES (?);

-- Terra retries for hours: an older event may arrive after a newer one, and must not overwrite it.
INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, type) DO UPDATE SET
        sequence = excluded.sequence, id = excluded.id, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE excluded.sequence >= latest.sequence;

-- What nobody can read, and what is no event of terra-bridge (its id: where it is on the bus).
INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?);
