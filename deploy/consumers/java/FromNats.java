// Keeps the newest event of each user and type in SQLite, from NATS JetStream. Java 17 or newer.
//
//     mvn -q dependency:copy-dependencies
//     NATS_URL=nats://localhost:4222 java -cp 'target/dependency/*' FromNats.java
//
// An error ends it, and the message is not acknowledged: NATS sends it again. Run it under something that starts it
// again.

import io.nats.client.ConsumerContext;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.api.ConsumerConfiguration;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.Semaphore;

public class FromNats {
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

    static void work(Connection database, Message message) throws Exception {
        Map<String, String> event = attributes(message);
        if (!event.getOrDefault("source", "").startsWith("/terra/")) {
            String place = message.metaData().getStream() + "/" + message.metaData().streamSequence();
            setAside(database, place, "not-an-event", message.getData());
            return;
        }
        byte[] data = event.containsKey("dataref") ? claim(message, event) : message.getData();
        if (event.containsKey("terradeadletter")) {
            setAside(database, event.get("id"), event.get("terradeadletter"), data);
        } else {
            keep(database, event, data); // the JSON, for the parser of your choice
        }
    }

    /** An attribute is a header with `ce-` before its name, percent-encoded. */
    static Map<String, String> attributes(Message message) {
        Map<String, String> attributes = new HashMap<>();
        if (message.hasHeaders()) {
            message.getHeaders().forEach((name, values) -> {
                if (name.startsWith("ce-")) {
                    String value = values.get(0).replace("+", "%2B"); // else URLDecoder makes it a space
                    attributes.put(name.substring(3), URLDecoder.decode(value, StandardCharsets.UTF_8));
                }
            });
        }
        return attributes;
    }

    /** The data of an event that was too large for a message. */
    static byte[] claim(Message message, Map<String, String> event) throws Exception {
        String[] place = event.get("dataref").replaceFirst("^nats-object:", "").split("/", 2);
        var data = new ByteArrayOutputStream();
        message.getConnection().objectStore(place[0]).get(place[1], data);
        if (!sha256(data.toByteArray()).equals(event.get("terradigest"))) {
            throw new IOException(event.get("dataref") + " is not what the event says");
        }
        return data.toByteArray();
    }

    static void keep(Connection database, Map<String, String> event, byte[] data) throws Exception {
        String sequence = event.get("sequence");
        long order = sequence != null
            ? Long.parseLong(sequence)
            : OffsetDateTime.parse(event.get("time")).toInstant().toEpochMilli();
        String id = event.get("id");
        if (execute(database, REMEMBER, id) == 1) {
            execute(database, KEEP_NEWEST,
                event.get("partitionkey"), event.get("type"), order, id, data.length, sha256(data));
        }
        database.commit();
    }

    static String sha256(byte[] data) throws NoSuchAlgorithmException {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
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
        String path = setting("DATABASE", "events.db");
        var settings = ConsumerConfiguration.builder() // from the first message on, each acknowledged
            .durable(setting("GROUP", "example"))
            // `terra.>`, not `terra.*`: ten types have a dot.
            .filterSubjects(setting("TOPICS", "terra.>").split(","))
            .build();
        try (Connection database = DriverManager.getConnection("jdbc:sqlite:" + path);
                // A login: Nats.connect(url, Nats.credentials("bridge.creds")).
                var client = Nats.connect(setting("NATS_URL", "nats://localhost:4222"))) {
            for (String table : TABLES) {
                execute(database, table);
            }
            database.setAutoCommit(false);
            ConsumerContext consumer = client
                .getStreamContext(setting("STREAM", "TERRA"))
                .createOrUpdateConsumer(settings);
            while (!stopping) {
                Message message = consumer.next(Duration.ofSeconds(1));
                if (message != null) {
                    work(database, message);
                    message.ackSync(Duration.ofSeconds(5)); // only now
                }
            }
        }
    }

    public static void main(String[] arguments) {
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
