//! Brokers that belong to one test: they stop, freeze and come back without disturbing another.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use super::bridge::signal;
use super::certificates::Authority;
use super::tokens::{self, TokenServer};
use super::{needed, until};

const UP_WITHIN: Duration = Duration::from_secs(120);

/// How many times to try: another process may take a free port before the broker does.
pub const TRIES: usize = 3;

/// Below Linux' ephemeral range, whose ports are taken and released by the hundred.
const PORTS: Range<u16> = 20_000..32_000;

/// One broker process with its own port and directory, both kept across a restart.
pub struct Broker {
    kind: Kind,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

/// The program, and its path on this machine.
#[derive(Clone)]
pub enum Kind {
    /// With options of the Java machine's.
    Kafka {
        home: PathBuf,
        java: PathBuf,
        options: Vec<String>,
    },
    Nats {
        server: PathBuf,
    },
}

impl Kind {
    /// `None` if this machine does not have it.
    pub fn kafka() -> Option<Self> {
        let home = PathBuf::from(needed("TERRA_BRIDGE_TEST_KAFKA_HOME")?);
        let java = PathBuf::from(std::env::var("TERRA_BRIDGE_TEST_JAVA").unwrap_or_else(|_| "java".into()));
        Some(Self::Kafka { home, java, options: Vec::new() })
    }

    /// `None` if this machine does not have it.
    pub fn nats() -> Option<Self> {
        Some(Self::Nats { server: PathBuf::from(needed("TERRA_BRIDGE_TEST_NATS_SERVER")?) })
    }
}

impl Broker {
    /// A Kafka broker with one node; `None` if this machine does not have it.
    pub fn kafka() -> Option<Self> {
        Some(Self::up(Kind::kafka()?, lone_kafka))
    }

    /// The same with two more listeners: one with TLS and a login (the user `bridge`, by PLAIN), one with TLS and
    /// client certificates.
    pub fn kafka_secured(authority: &Authority, password: &str) -> Option<(Self, Secured)> {
        let mut secured = Secured { login: 0, mutual: 0 };
        let broker = Self::up(Kind::kafka()?, |port, dir| {
            secured = Secured { login: free_port(), mutual: free_port() };
            secured_kafka(port, &secured, dir, authority, password)
        });
        Some((broker, secured))
    }

    /// The same with one more listener, which lets in who has a token of this server.
    pub fn kafka_with_tokens(tokens: &TokenServer) -> Option<(Self, u16)> {
        let mut kind = Kind::kafka()?;
        let Kind::Kafka { options, .. } = &mut kind else { unreachable!() };
        options.push(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", tokens.keys_url()));
        let mut listener = 0;
        let broker = Self::up(kind, |port, dir| {
            listener = free_port();
            kafka_with_tokens(port, listener, dir, tokens)
        });
        Some((broker, listener))
    }

    /// Sets a Kafka user's password for one of the SCRAM mechanisms.
    pub fn add_user(&self, user: &str, mechanism: &str, password: &str) {
        let mut command = self.java("kafka.admin.ConfigCommand");
        command.args(["--bootstrap-server", &format!("127.0.0.1:{}", self.port), "--alter"]);
        command.args(["--entity-type", "users", "--entity-name", user]);
        command.args(["--add-config", &format!("{mechanism}=[password={password}]")]);
        let output = command.output().expect("java runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// A NATS server with JetStream; `None` if this machine does not have it.
    pub fn nats() -> Option<Self> {
        Self::nats_that_takes("16MB")
    }

    /// A server with this message limit.
    pub fn nats_that_takes(max_payload: &str) -> Option<Self> {
        Some(Self::up(Kind::nats()?, |port, dir| lone_nats(port, max_payload, dir)))
    }

    /// The same with further lines of configuration, such as `tls` and `authorization`.
    pub fn nats_with(more: &str) -> Option<Self> {
        Some(Self::up(Kind::nats()?, |port, dir| lone_nats(port, "16MB", dir) + more))
    }

    /// Makes a running NATS server load other lines of configuration.
    pub fn reload(&self, more: &str) {
        let text = lone_nats(self.port, "16MB", self.dir.path()) + more;
        std::fs::write(self.config(), text).expect("the directory is ours");
        signal(self.child.as_ref().expect("it runs").id(), "HUP");
    }

    /// Restarts a NATS server with other lines of configuration.
    pub fn restart_with(&mut self, more: &str) {
        self.kill();
        let text = lone_nats(self.port, "16MB", self.dir.path()) + more;
        std::fs::write(self.config(), text).expect("the directory is ours");
        self.start();
    }

    /// Starts on a port, passed to `settings`, or on another one if it was taken meanwhile.
    fn up(kind: Kind, mut settings: impl FnMut(u16, &Path) -> String) -> Self {
        for _ in 0..TRIES {
            let port = free_port();
            let mut broker = Self::configured(kind.clone(), port, |dir| settings(port, dir));
            broker.spawn();
            if broker.comes_up() {
                return broker;
            }
        }
        panic!("the broker ended at its start, {TRIES} times");
    }

    /// Not started yet: `settings` makes its configuration from its directory, and it must accept plain clients on
    /// `port`.
    pub fn configured(kind: Kind, port: u16, settings: impl FnOnce(&Path) -> String) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let broker = Self { kind, port, dir, child: None };
        std::fs::write(broker.config(), settings(broker.dir.path())).expect("the directory is ours");
        if let Kind::Kafka { .. } = broker.kind {
            broker.format();
        }
        broker
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("broker.conf")
    }

    /// Starts it in its old place, and waits until it answers.
    pub fn start(&mut self) {
        let up = (0..TRIES).any(|_| {
            self.spawn();
            self.comes_up()
        });
        assert!(up, "the broker ended at its start, {TRIES} times");
    }

    pub fn spawn(&mut self) {
        let mut command = match &self.kind {
            Kind::Kafka { .. } => {
                let mut command = self.java("kafka.Kafka");
                command.arg(self.config());
                command
            }
            Kind::Nats { server } => {
                let mut command = Command::new(server);
                command.arg("-c").arg(self.config());
                command
            }
        };
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the broker starts"));
    }

    /// Waits until it answers; `false` if it ended instead.
    pub fn comes_up(&mut self) -> bool {
        until("the broker answers", UP_WITHIN, || {
            let child = self.child.as_mut().expect("it was spawned");
            if child.try_wait().expect("the child is ours").is_some() {
                return Some(false);
            }
            self.answers().then_some(true)
        })
    }

    fn answers(&self) -> bool {
        let address = format!("127.0.0.1:{}", self.port);
        match self.kind {
            Kind::Nats { .. } => std::net::TcpStream::connect(address).is_ok(),
            Kind::Kafka { .. } => {
                let consumer: BaseConsumer =
                    ClientConfig::new().set("bootstrap.servers", address).create().expect("a plain client");
                consumer.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|found| !found.brokers().is_empty())
            }
        }
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the child is ours");
            child.wait().expect("the child is ours");
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "TERM");
            until("the broker stops", UP_WITHIN, || child.try_wait().expect("the child is ours"));
        }
    }

    /// It keeps its connections but no longer answers.
    pub fn freeze(&self) {
        let pid = self.child.as_ref().expect("it runs").id();
        signal(pid, "STOP");
        // Its threads stop one by one, and one that still runs may still answer.
        let stopped = |stat: String| stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'));
        until("the broker is frozen", UP_WITHIN, || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let mut stats =
                threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
            stats.all(stopped).then_some(())
        });
    }

    pub fn thaw(&self) {
        signal(self.child.as_ref().expect("it runs").id(), "CONT");
    }

    fn java(&self, class: &str) -> Command {
        let Kind::Kafka { home, java, options } = &self.kind else { panic!("only Kafka runs on Java") };
        let mut command = Command::new(java);
        command
            .args(options)
            .args(["-Xmx384m", "-Xms128m", "-XX:TieredStopAtLevel=1"])
            .arg("-cp")
            .arg(home.join("libs/*"))
            .arg(class);
        command
    }

    fn format(&self) {
        let mut format = self.java("kafka.tools.StorageTool");
        format.args(["format", "-t", "dGVycmEtYnJpZGdlLXRlcw", "-c"]).arg(self.config());
        let output = format.output().expect("java runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn lone_kafka(port: u16, dir: &Path) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={logs}\nauto.create.topics.enable=false\n\
         offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
        controller = free_port(),
        logs = dir.join("logs").display(),
    )
}

/// The further addresses of a secured Kafka.
pub struct Secured {
    pub login: u16,
    pub mutual: u16,
}

fn secured_kafka(port: u16, secured: &Secured, dir: &Path, authority: &Authority, password: &str) -> String {
    let plain = format!("PLAINTEXT://127.0.0.1:{port}");
    let all = format!("{plain},LOGIN://127.0.0.1:{},MUTUAL://127.0.0.1:{}", secured.login, secured.mutual);
    let modules = "org.apache.kafka.common.security";
    lone_kafka(port, dir).replace(&plain, &all)
        + &format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,MUTUAL:SSL\n\
             inter.broker.listener.name=PLAINTEXT\n\
             ssl.keystore.type=PEM\nssl.keystore.location={keys}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={ca}\n\
             listener.name.mutual.ssl.client.auth=required\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.login.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_bridge=\"{password}\";\n\
             listener.name.login.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n\
             listener.name.login.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n",
            keys = authority.chain("broker").display(),
            ca = authority.ca().display(),
        )
}

fn kafka_with_tokens(port: u16, tokens_port: u16, dir: &Path, tokens: &TokenServer) -> String {
    let plain = format!("PLAINTEXT://127.0.0.1:{port}");
    let classes = "org.apache.kafka.common.security.oauthbearer";
    let (listener, own) = ("listener.name.token", "listener.name.token.oauthbearer");
    // Kafka 4.1.0 checks neither signature nor audience by default. Reauthentication is what makes it close a connection
    // whose token expired.
    lone_kafka(port, dir).replace(&plain, &format!("{plain},TOKEN://127.0.0.1:{tokens_port}"))
        + &format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TOKEN:SASL_PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\n\
             sasl.enabled.mechanisms=OAUTHBEARER\n\
             {own}.sasl.jaas.config={classes}.OAuthBearerLoginModule required;\n\
             {own}.sasl.server.callback.handler.class={classes}.OAuthBearerValidatorCallbackHandler\n\
             {listener}.sasl.oauthbearer.jwt.validator.class={classes}.BrokerJwtValidator\n\
             {listener}.sasl.oauthbearer.jwks.endpoint.url={keys}\n\
             {listener}.sasl.oauthbearer.expected.audience={audience}\n\
             {listener}.sasl.oauthbearer.expected.issuer={issuer}\n\
             {own}.connections.max.reauth.ms=3600000\n",
            keys = tokens.keys_url(),
            audience = tokens::AUDIENCE,
            issuer = tokens::ISSUER,
        )
}

fn lone_nats(port: u16, max_payload: &str, dir: &Path) -> String {
    let store = dir.join("jetstream");
    format!(
        "listen: \"127.0.0.1:{port}\"\nmax_payload: {max_payload}\njetstream {{ store_dir: {store:?}, max_file: 2GB }}\n"
    )
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    // The system may return a port again before its broker listens: two tests would then share one broker.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(PORTS);
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free && GIVEN.lock().expect("no holder of this lock can panic").insert(port) {
            return port;
        }
    }
}
