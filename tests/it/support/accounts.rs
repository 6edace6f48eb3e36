//! NATS in operator mode: an operator, accounts and users of one test's own, declared by tokens that each signs for
//! the next. Everything is generated at run time.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::terra::now;

pub struct Operator {
    key: KeyPair,
    system: Account,
}

pub struct Account(KeyPair);

impl Operator {
    pub fn new() -> Self {
        Self { key: KeyPair::new_operator(), system: Account(KeyPair::new_account()) }
    }

    pub fn account(&self) -> Account {
        Account(KeyPair::new_account())
    }

    /// The lines of a server's configuration that declare these accounts.
    pub fn lines(&self, accounts: &[&Account]) -> String {
        let system = self.system.0.public_key();
        let own = token(&self.key, &self.key.public_key(), json!({"type": "operator", "system_account": system}));
        let known = accounts.iter().copied().chain([&self.system]).map(|account| {
            let public = account.0.public_key();
            let unlimited = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1,
                // The system account must not use JetStream.
                "disk_storage": if public == system { 0 } else { -1 }, "streams": -1, "consumer": -1,
            });
            format!("{public}: {}\n", token(&self.key, &public, json!({"type": "account", "limits": unlimited})))
        });
        let known: String = known.collect();
        format!("operator: {own}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{\n{known}}}\n")
    }
}

impl Account {
    /// A new user's credentials file, and its seed. `more`: further claims, such as `exp`.
    pub fn user(&self, more: Value) -> (String, String) {
        let user = KeyPair::new_user();
        let seed = user.seed().expect("a seed");
        let claims = json!({"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let token = token_with(&self.0, &user.public_key(), claims, more);
        let credentials = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        (credentials, seed)
    }
}

fn token(issuer: &KeyPair, subject: &str, claims: Value) -> String {
    token_with(issuer, subject, claims, json!({}))
}

fn token_with(issuer: &KeyPair, subject: &str, mut claims: Value, more: Value) -> String {
    claims["version"] = 2.into();
    let mut body = json!({
        "jti": subject, "iat": now(), "iss": issuer.public_key(), "name": "of a test", "sub": subject, "nats": claims,
    });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&body));
    let signature = issuer.sign(signed.as_bytes()).expect("it has its seed");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}
