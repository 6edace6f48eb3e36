// Keeps the newest event of each user and type in SQLite, from Kafka.
//
//	KAFKA_BROKERS=localhost:9092 go run ./from_kafka
//
// An error ends it, and nothing of the message is committed: run it under something that starts it again.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite"
)

const (
	tables = `
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
-- Put into the primary key what identifies the record for you: metadata.summary_id, the day, the order id.
CREATE TABLE IF NOT EXISTS latest (
    key TEXT, type TEXT, sequence INTEGER, id TEXT, bytes INTEGER, sha256 TEXT,
    PRIMARY KEY (key, type)
);
CREATE TABLE IF NOT EXISTS dead_letters (id TEXT PRIMARY KEY, reason TEXT, data BLOB);
`
	rememberID = `INSERT OR IGNORE INTO seen VALUES (?)`
	keepNewest = `
INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, type) DO UPDATE SET
        sequence = excluded.sequence, id = excluded.id, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE excluded.sequence >= latest.sequence
`
	keepDeadLetter = `INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?)`
)

func work(database *sql.DB, record *kgo.Record) error {
	event, err := cloudEvent(record)
	if err != nil || !strings.HasPrefix(event.Source(), "/terra/") {
		place := fmt.Sprintf("%s/%d/%d", record.Topic, record.Partition, record.Offset)
		return setAside(database, place, "not-an-event", record.Value)
	}
	if reason, dead := event.Extensions()["terradeadletter"]; dead {
		return setAside(database, event.ID(), reason, record.Value)
	}
	return keep(database, event) // event.DataAs(&value) parses the JSON
}

// The SDK has no binding for franz-go: an attribute is a header with `ce_` before its name.
func cloudEvent(record *kgo.Record) (event.Event, error) {
	event := event.New()
	attributes := spec.WithPrefix("ce_").Version(event.SpecVersion())
	for _, header := range record.Headers {
		if err := attributes.SetAttribute(event.Context, header.Key, string(header.Value)); err != nil {
			return event, err
		}
	}
	event.DataEncoded = record.Value
	return event, event.Validate()
}

func keep(database *sql.DB, event event.Event) error {
	transaction, err := database.Begin()
	if err != nil {
		return err
	}
	defer transaction.Rollback() // nothing, after Commit
	result, err := transaction.Exec(rememberID, event.ID())
	if err != nil {
		return err
	}
	if rows, err := result.RowsAffected(); err != nil || rows == 0 {
		return err
	}
	key, data := event.Extensions()["partitionkey"], event.Data()
	sequence := cmp.Or[any](event.Extensions()["sequence"], event.Time().UnixMilli())
	digest := fmt.Sprintf("%x", sha256.Sum256(data))
	if _, err := transaction.Exec(keepNewest, key, event.Type(), sequence, event.ID(), len(data), digest); err != nil {
		return err
	}
	return transaction.Commit()
}

func setAside(database *sql.DB, id string, reason any, data []byte) error {
	log.Printf("set aside %s: %s", id, reason)
	_, err := database.Exec(keepDeadLetter, id, reason, data)
	return err
}

func setting(name, otherwise string) string {
	return cmp.Or(os.Getenv(name), otherwise)
}

func run(ctx context.Context) error {
	database, err := sql.Open("sqlite", setting("DATABASE", "events.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer database.Close()
	if _, err := database.Exec(tables); err != nil {
		return err
	}
	topics := setting("TOPICS", "terra.sleep,terra.daily,terra.dead-letter")
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(setting("KAFKA_BROKERS", "localhost:9092"), ",")...),
		// A login: kgo.DialTLS(), kgo.SASL(scram.Auth{User: "…", Pass: "…"}.AsSha512Mechanism()).
		kgo.ConsumerGroup(setting("GROUP", "example")),
		kgo.ConsumeTopics(strings.Split(topics, ",")...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // a new group starts at the beginning
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollRecords(ctx, 100)
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, record := range fetches.Records() {
			if err := work(database, record); err != nil {
				return err
			}
		}
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil { // only now
			return err
		}
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}
