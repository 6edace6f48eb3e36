//! Which hosts a link may name, according to the patterns in `s3.hosts`. Resolves nothing.

use http::uri::Authority;

const HTTPS: u16 = 443;

/// The patterns in `s3.hosts`.
#[derive(Debug)]
pub struct AllowedHosts(Vec<(String, u16)>);

impl AllowedHosts {
    /// Takes patterns that the configuration has checked: a name with or without a port, in which `*` stands for
    /// exactly one label.
    pub fn new(patterns: &[String]) -> Self {
        let parse = |pattern: &String| match pattern.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host.to_ascii_lowercase(), port.parse().unwrap_or(HTTPS)),
            _ => (pattern.to_ascii_lowercase(), HTTPS),
        };
        Self(patterns.iter().map(parse).collect())
    }

    pub fn allow(&self, authority: &Authority) -> bool {
        let host = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(HTTPS);
        self.0.iter().any(|(pattern, its_port)| *its_port == port && fits(pattern, &host))
    }
}

fn fits(pattern: &str, host: &str) -> bool {
    let fits = |(part, given): (&str, &str)| part == given || (part == "*" && !given.is_empty());
    pattern.split('.').count() == host.split('.').count() && pattern.split('.').zip(host.split('.')).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_exactly_one_label() {
        let hosts = AllowedHosts::new(&["*.s3.*.amazonaws.com".into(), "Store.example:8443".into(), "[::1]:7".into()]);
        let have = |authority: &str| hosts.allow(&authority.parse().unwrap());
        for authority in
            ["b.s3.eu-west-2.amazonaws.com", "B.S3.eu-west-2.AmazonAWS.com:443", "store.example:8443", "[::1]:7"]
        {
            assert!(have(authority), "{authority}");
        }
        for authority in [
            "s3.eu-west-2.amazonaws.com",
            "a.b.s3.eu-west-2.amazonaws.com",
            "b.s3.eu-west-2.amazonaws.com.",
            "b.s3.eu-west-2.amazonaws.com.evil.example",
            "b.s3.eu-west-2.amazonaws.com:80",
            "b.s3..amazonaws.com",
            "store.example",
            "[::1]",
        ] {
            assert!(!have(authority), "{authority}");
        }
    }
}
