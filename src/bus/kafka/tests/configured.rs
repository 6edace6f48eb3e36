//! Properties as a user configures them, in the exact text of their mistakes.

use crate::cli::load;

#[test]
fn a_mistaken_property_is_named_with_its_place_and_the_remedy() {
    for (toml, says) in [
        (
            "\"message.timeout.ms\" = \"4500\"\n[spool]\ndir = \"/spool\"",
            "kafka.properties.message.timeout.ms (FILE:5) is 4500: the answer has to come within \
             server.publish_timeout, less what a spool needs of it; set it below 4000, or leave it out",
        ),
        (
            "\"compression.type\" = \"zstd\"",
            "kafka.properties.compression.type (FILE:5) is what kafka.compression is for; set kafka.compression instead",
        ),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let toml = format!("bus = \"kafka\"\n[kafka]\nbrokers = \"b:1\"\n[kafka.properties]\n{toml}");
        std::fs::write(file.path(), toml).unwrap();
        let secret = [("TERRA_SIGNING_SECRET".into(), "secret".into())].into_iter();
        let mistakes = load(Some(file.path()), secret, false).unwrap_err().to_string();
        assert_eq!(mistakes.replace(&file.path().display().to_string(), "FILE"), says);
    }
}
