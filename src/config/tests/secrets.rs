//! Missing secrets, and that no secret is ever shown.

use super::*;

#[test]
fn a_missing_or_empty_signing_secret_says_what_to_do() {
    let remedy = "allowed: a list, each one env:NAME, file:PATH or credential:NAME; set it to the signing secret of this \
                  destination, from the webhook's settings in the Terra dashboard, or name a file with \
                  endpoints.terra.secrets = [\"file:/path\"]";
    let refers = "endpoints.terra.secrets (default) refers to the environment variable TERRA_SIGNING_SECRET, which is";
    assert_eq!(mistakes_text(read(None, &[])), format!("{refers} not set; {remedy}"));
    assert_eq!(mistakes_text(read(None, &[("TERRA_SIGNING_SECRET", "")])), format!("{refers} empty; {remedy}"));
}

#[test]
fn no_secret_is_ever_printed() {
    for secret in ["00123456", "\"quo'ted\"", " blank inside ", "tr\\icky\n"] {
        let variables = [
            ("S", secret),
            ("TERRA_BRIDGE_BUS", "kafka"),
            ("TERRA_BRIDGE_KAFKA__BROKERS", "b:1"),
            ("TERRA_BRIDGE_KAFKA__USERNAME", "u"),
            ("TERRA_BRIDGE_KAFKA__PASSWORD", "env:S"),
            ("TERRA_BRIDGE_KAFKA__PROPERTIES__SSL__KEY__PASSWORD", secret),
            ("TERRA_BRIDGE_ENDPOINTS__TERRA__SECRETS", "env:S"),
        ];
        let loaded = read(None, &variables).unwrap();
        let shown = format!("{loaded:?} {}", loaded.effective);
        let literal = [("TERRA_BRIDGE_ENDPOINTS__TERRA__SECRETS", secret), ("TERRA_BRIDGE_EMBEDDED__TOKEN", secret)];
        let toml = format!("[endpoints.terra]\nsecrets = '''{secret}'''\n[kafka]\npassword = '''{secret}'''");
        let mistakes = [read(None, &literal).unwrap_err(), from_file(&toml).unwrap_err()];
        for text in [shown, format!("{mistakes:?} {} {}", mistakes[0], mistakes[1])] {
            assert!(!text.contains(secret.trim()), "{text}");
            assert!(!text.contains(secret.trim().escape_debug().to_string().as_str()), "{text}");
        }
    }
}
