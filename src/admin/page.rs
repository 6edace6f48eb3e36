//! The status page: one file, which may run and load nothing but what is in it.

use std::sync::LazyLock;

use bytes::Bytes;
use data_encoding::BASE64;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use sha2::{Digest, Sha256};

use super::answer::text;
use crate::server::Reply;

const PAGE: &str = include_str!("page.html");

/// The page's own script and style by their hashes, its own origin to ask, and nothing else.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    );
    HeaderValue::from_str(&policy).expect("ASCII")
});

pub(super) fn page() -> Reply {
    let mut reply = text(Bytes::from_static(PAGE.as_bytes()), HeaderValue::from_static("text/html; charset=utf-8"));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    reply
}

/// The hash of the content of the page's only element of this name.
fn hash(element: &str) -> String {
    let inside = |page: &'static str| page.split_once(&format!("<{element}>"))?.1.split_once(&format!("</{element}>"));
    let (content, _) = inside(PAGE).expect("the page has one");
    format!("'sha256-{}'", BASE64.encode(&Sha256::digest(content)))
}

#[cfg(test)]
mod tests {
    use strum::VariantNames;

    use super::*;
    use crate::reply::Outcome;
    use crate::signature::Rejection;

    #[test]
    fn the_page_has_one_script_and_one_style_and_no_other_source() {
        for element in ["<script", "<style", "</script>", "</style>"] {
            assert_eq!(PAGE.matches(element).count(), 1, "{element}");
        }
        for outside in
            ["//", "src=", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"]
        {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        let attributes = PAGE.split("=\"").map(|before| before.rsplit(' ').next().unwrap_or_default());
        let forbidden: Vec<_> = attributes.filter(|name| *name == "style" || name.starts_with("on")).collect();
        assert!(forbidden.is_empty(), "the policy forbids {forbidden:?}");
    }

    #[test]
    fn the_page_explains_every_refusal() {
        let fine = ["kept", "duplicate", "spooled", "dropped", "dead_lettered", "rejected", "unknown_path"];
        let words = Outcome::VARIANTS.iter().filter(|word| !fine.contains(word)).chain(Rejection::VARIANTS);
        for word in words {
            assert!(PAGE.contains(&format!("\n  {word}: \"")), "{word}");
        }
    }
}
