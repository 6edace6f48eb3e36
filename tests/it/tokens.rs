//! Kafka brokers that let in who has a token of an OIDC server: the bridge gets its tokens, and new ones in time.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::secured::{Environment, delivery, gets_in, heals, stays_out, with};
use crate::support::bridge::{Bridge, command};
use crate::support::brokers::Broker;
use crate::support::certificates::Authority;
use crate::support::consumers::{Bus, runtime};
use crate::support::terra::Attempt;
use crate::support::tokens::{CLIENT, Rules, SCOPE, TokenServer};
use crate::support::{unique, until};

const WITHIN: Duration = Duration::from_secs(90);

/// Seconds that a token lives where the test waits for its end. librdkafka gets a new one after 80 % of them, looking
/// once a second, and shows it to the brokers after 90 %.
const SHORT: i64 = 12;

const DENIED: &str = "the token server refuses the client credentials";
const NOT_REACHED: &str = "the token server cannot be reached, or fails";
const UNTRUSTED: &str = "the TLS handshake with the token server failed";
const NO_TOKEN: &str = "the token server answers without a token that Kafka's client can use";
const REFUSED: &str = "the Kafka brokers refuse the login";

fn login(bus: &Bus, url: &str, secret: &str) -> Environment {
    let settings = [
        ("TERRA_BRIDGE_KAFKA__OAUTH__TOKEN_URL", url),
        ("TERRA_BRIDGE_KAFKA__OAUTH__CLIENT_ID", CLIENT),
        ("TERRA_BRIDGE_KAFKA__OAUTH__CLIENT_SECRET", "env:SECRET"),
        ("TERRA_BRIDGE_KAFKA__OAUTH__SCOPE", SCOPE),
        ("TERRA_BRIDGE_KAFKA__OAUTH__EXTENSIONS", "logicalCluster=lkc-1,identityPoolId=pool-1"),
        ("SECRET", secret),
    ];
    with(bus.environment(), &settings)
}

fn at(port: u16) -> Bus {
    Bus::kafka_at(format!("127.0.0.1:{port}"))
}

/// No token is shown, whatever is logged: each begins like this.
fn shows_no_token(bridge: &Bridge) {
    assert!(!bridge.log().contains("eyJ"), "a token is shown");
}

/// A process that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn a_token_gets_in_and_what_keeps_the_bridge_from_one_is_named_until_it_is_right() {
    let (authority, other, secret) = (Authority::new(), Authority::new(), unique());
    let tokens = TokenServer::start(&secret);
    let Some((_broker, port)) = Broker::kafka_with_tokens(&tokens) else { return };
    let (_listening, over_tls) = tokens.over_tls(&authority);
    let trusting = |bus: &Bus, authority: &Authority| {
        let ca = authority.ca().display().to_string();
        with(login(bus, &over_tls, &secret), &[("TERRA_BRIDGE_KAFKA__OAUTH__CA", &ca)])
    };
    let bus = at(port);
    gets_in(&trusting(&bus, &authority), &bus.topic("daily"));
    let bridge = stays_out(&trusting(&at(port), &other), UNTRUSTED, &secret);
    shows_no_token(&bridge);

    let late = unique();
    let bridge = stays_out(&login(&at(port), &tokens.url(), &late), DENIED, &late);
    tokens.rules().secret.clone_from(&late);
    heals(&bridge);
    shows_no_token(&bridge);

    tokens.rules().audience = "another".to_owned();
    stays_out(&login(&at(port), &tokens.url(), &late), REFUSED, &late);
    tokens.rules().opaque = true;
    let bridge = stays_out(&login(&at(port), &tokens.url(), &late), NO_TOKEN, &late);
    *tokens.rules() = Rules::of(&late);
    heals(&bridge);
}

#[test]
fn a_token_server_that_is_down_is_named_until_it_is_up_and_an_outage_longer_than_a_token_is_got_over() {
    let secret = unique();
    let mut tokens = TokenServer::start(&secret);
    let Some((_broker, port)) = Broker::kafka_with_tokens(&tokens) else { return };
    tokens.rules().lifetime = SHORT;
    tokens.down();
    let bridge = stays_out(&login(&at(port), &tokens.url(), &secret), NOT_REACHED, &secret);
    tokens.up();
    heals(&bridge);

    tokens.down();
    until("the last token has expired", WITHIN, || {
        let answer = delivery().post(bridge.deliveries);
        assert!([200, 503].contains(&answer.status), "{}", answer.status);
        (answer.status == 503).then_some(())
    });
    assert_eq!(bridge.readiness().0, 200, "an outage later on");
    assert!(bridge.log().contains("the last token is used until it expires"), "{}", bridge.log());
    tokens.up();
    heals(&bridge);
    shows_no_token(&bridge);
}

#[test]
fn deliveries_readers_and_administration_go_on_while_tokens_expire() {
    let secret = unique();
    let tokens = TokenServer::start(&secret);
    let Some((_broker, port)) = Broker::kafka_with_tokens(&tokens) else { return };
    tokens.rules().lifetime = SHORT;
    let (bus, administered) = (at(port), unique());
    let environment = login(&bus, &tokens.url(), &secret);
    let bridge = Bridge::ready(&environment);
    heals(&bridge);
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .set("security.protocol", "sasl_plaintext")
        .set("sasl.mechanisms", "OAUTHBEARER")
        .set("sasl.oauthbearer.method", "oidc")
        .set("sasl.oauthbearer.token.endpoint.url", tokens.url())
        .set("sasl.oauthbearer.client.id", CLIENT)
        .set("sasl.oauthbearer.client.secret", &secret)
        .set("sasl.oauthbearer.scope", "events%3Awrite%20a%26b")
        .create()
        .expect("librdkafka has OIDC");
    let tail = command()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["tail", "--from", "earliest", "--json", "--limit", "1", &bus.topic("sleep")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut tail = Killed(tail);

    let (begun, before) = (Instant::now(), tokens.rules().given);
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(3 * SHORT as u64) {
        sent += 1;
        assert_eq!(delivery().post(bridge.deliveries).status, 200, "delivery {sent} after {:?}", begun.elapsed());
        // The rate of the deliveries, not a wait for an event.
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let given = tokens.rules().given - before;
    // Producer, administration, reader: two or three times each, and more where the bridge opens others.
    assert!(given >= 6, "only {given} tokens");

    let created = runtime().block_on(admin.create_topics(
        &[NewTopic::new(&administered, 1, TopicReplication::Fixed(1))],
        &AdminOptions::new().request_timeout(Some(Duration::from_secs(10))),
    ));
    assert!(created.as_ref().is_ok_and(|created| created[0].is_ok()), "{created:?}");
    let late = Attempt::of(r#"{"type":"sleep","user":{"user_id":"u"}}"#);
    assert_eq!(late.post(bridge.deliveries).status, 200);
    let ended = until("the reader shows it", WITHIN, || tail.0.try_wait().expect("the child is ours"));
    assert!(ended.success(), "{ended}");
    assert_eq!(bridge.said(REFUSED).len() + bridge.said(DENIED).len(), 0, "{}", bridge.log());
    shows_no_token(&bridge);
}
