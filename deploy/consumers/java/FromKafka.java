// Keeps the newest event of each user and type in SQLite, from Kafka. Java 17 or newer.
//
//     mvn -q dependency:copy-dependencies
//     KAFKA_BROKERS=localhost:9092 java -cp 'target/dependency/*' FromKafka.java
//
// An error ends it, and nothing of the message is committed: run it under something that starts it again.

import io.cloudevents.CloudEvent;
import io.cloudevents.kafka.KafkaMessageFactory;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class FromKafka {
    static final String[] TABLES = {
        """
        CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
        """,
        // Put into the primary key what identifies the record for you: metadata.summary_id, the day, the order id.
        """
        CREATE TABLE IF NOT EXISTS latest (
            key TEXT, type TEXT, sequence INTEGER, id TEXT, bytes INTEGER, sha256 TEXT,
            PRIMARY KEY (key, type)
        );
        """,
        """
        CREATE TABLE IF NOT EXISTS dead_letters (id TEXT PRIMARY KEY, reason TEXT, data BLOB);
        """
    };
    static final String REMEMBER = "INSERT OR IGNORE INTO seen VALUES (?)";
    static final String KEEP_NEWEST =
        """
        INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (key, type) DO UPDATE SET
                sequence = excluded.sequence, id = excluded.id, bytes = excluded.bytes, sha256 = excluded.sha256
            WHERE excluded.sequence >= latest.sequence
        """;
    static final String SET_ASIDE = "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?)";

    static volatile boolean stopping;

    static void work(Connection database, ConsumerRecord<byte[], byte[]> message) throws Exception {
        var source = message.headers().lastHeader("ce_source");
        if (source == null || !new String(source.value(), StandardCharsets.UTF_8).startsWith("/terra/")) {
            String place = message.topic() + "/" + message.partition() + "/" + message.offset();
            setAside(database, place, "not-an-event", message.value());
            return;
        }
        CloudEvent event = KafkaMessageFactory.createReader(message).toEvent();
        if (event.getExtension("terradeadletter") instanceof String reason) {
            setAside(database, event.getId(), reason, message.value());
        } else {
            keep(database, event, message.value()); // the JSON, for the parser of your choice
        }
    }

    static void keep(Connection database, CloudEvent event, byte[] data) throws Exception {
        Object sequence = event.getExtension("sequence");
        long order = sequence != null
            ? Long.parseLong(sequence.toString())
            : event.getTime().toInstant().toEpochMilli();
        if (execute(database, REMEMBER, event.getId()) == 1) {
            String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
            execute(database, KEEP_NEWEST,
                event.getExtension("partitionkey"), event.getType(), order, event.getId(), data.length, digest);
        }
        database.commit();
    }

    static void setAside(Connection database, String id, String reason, byte[] data) throws SQLException {
        System.err.println("set aside " + id + ": " + reason);
        execute(database, SET_ASIDE, id, reason, data);
        database.commit();
    }

    static int execute(Connection database, String sql, Object... values) throws SQLException {
        try (var statement = database.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) {
                statement.setObject(i + 1, values[i]);
            }
            return statement.executeUpdate();
        }
    }

    static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }

    static void run() throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", setting("KAFKA_BROKERS", "localhost:9092"),
            // A login: "security.protocol", "SASL_SSL", "sasl.mechanism", "SCRAM-SHA-512", "sasl.jaas.config", "…".
            "group.id", setting("GROUP", "example"),
            "auto.offset.reset", "earliest", // else a new group starts at the end
            "enable.auto.commit", false);
        String topics = setting("TOPICS", "terra.sleep,terra.daily,terra.dead-letter");
        String path = setting("DATABASE", "events.db");
        var bytes = new ByteArrayDeserializer();
        try (Connection database = DriverManager.getConnection("jdbc:sqlite:" + path);
                var consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            for (String table : TABLES) {
                execute(database, table);
            }
            database.setAutoCommit(false);
            consumer.subscribe(List.of(topics.split(",")));
            while (!stopping) {
                for (var message : consumer.poll(Duration.ofSeconds(1))) {
                    work(database, message);
                }
                consumer.commitSync(); // only now
            }
        }
    }

    public static void main(String[] arguments) {
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "warn"); // for Kafka's client
        int status = 0;
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            new Semaphore(0).acquireUninterruptibly(); // until main halts the JVM, which else exits with 143
        }));
        try {
            run();
        } catch (Throwable error) {
            error.printStackTrace();
            status = 1;
        }
        Runtime.getRuntime().halt(status);
    }
}
