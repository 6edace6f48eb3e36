// Keeps the newest event of each user and type in SQLite, from NATS JetStream.
//
//	NATS_URL=nats://localhost:4222 go run ./from_nats
//
// An error ends it, and the message is not acknowledged: NATS sends it again. Run it under something that starts it
// again.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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

func work(ctx context.Context, database *sql.DB, stream jetstream.JetStream, message jetstream.Msg) error {
	event, err := cloudEvent(message)
	if err != nil || !strings.HasPrefix(event.Source(), "/terra/") {
		metadata, err := message.Metadata()
		if err != nil {
			return err
		}
		place := fmt.Sprintf("%s/%d", metadata.Stream, metadata.Sequence.Stream)
		return setAside(database, place, "not-an-event", message.Data())
	}
	if reference, ok := event.Extensions()["dataref"].(string); ok {
		if event.DataEncoded, err = claim(ctx, stream, reference, event.Extensions()["terradigest"]); err != nil {
			return err
		}
	}
	if reason, dead := event.Extensions()["terradeadletter"]; dead {
		return setAside(database, event.ID(), reason, event.Data())
	}
	return keep(database, event) // event.DataAs(&value) parses the JSON
}

// An attribute is a header with `ce-` before its name, percent-encoded.
func cloudEvent(message jetstream.Msg) (event.Event, error) {
	event := event.New()
	attributes := spec.WithPrefix("ce-").Version(event.SpecVersion())
	for name, values := range message.Headers() {
		value, err := url.PathUnescape(values[0])
		if err == nil {
			err = attributes.SetAttribute(event.Context, name, value)
		}
		if err != nil && strings.HasPrefix(name, "ce-") {
			return event, err
		}
	}
	event.DataEncoded = message.Data()
	return event, event.Validate()
}

// The data of an event that was too large for a message.
func claim(ctx context.Context, stream jetstream.JetStream, reference string, digest any) ([]byte, error) {
	bucket, name, _ := strings.Cut(strings.TrimPrefix(reference, "nats-object:"), "/")
	store, err := stream.ObjectStore(ctx, bucket)
	if err != nil {
		return nil, err
	}
	data, err := store.GetBytes(ctx, name)
	if err == nil && fmt.Sprintf("%x", sha256.Sum256(data)) != digest {
		err = fmt.Errorf("%s is not what the event says", reference)
	}
	return data, err
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
	// A login: nats.Connect(url, nats.UserCredentials("bridge.creds")).
	client, err := nats.Connect(setting("NATS_URL", "nats://localhost:4222"))
	if err != nil {
		return err
	}
	defer client.Close()
	stream, err := jetstream.New(client)
	if err != nil {
		return err
	}
	consumer, err := stream.CreateOrUpdateConsumer(ctx, setting("STREAM", "TERRA"), jetstream.ConsumerConfig{
		Durable:   setting("GROUP", "example"),
		AckPolicy: jetstream.AckExplicitPolicy,
		// `terra.>`, not `terra.*`: ten types have a dot.
		FilterSubjects: strings.Split(setting("TOPICS", "terra.>"), ","),
	})
	if err != nil {
		return err
	}
	for {
		message, err := consumer.Next(jetstream.FetchContext(ctx))
		if errors.Is(err, nats.ErrTimeout) {
			continue
		}
		if err != nil {
			return err
		}
		if err := work(ctx, database, stream, message); err != nil {
			return err
		}
		if err := message.DoubleAck(context.Background()); err != nil { // only now
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
