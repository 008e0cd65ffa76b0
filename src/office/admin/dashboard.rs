//! The dashboard at `/`: one page with its style and script inside, built into the binary. It fetches nothing from elsewhere,
//! and its policy forbids it to: only what is hashed here may run, only this server may be asked.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};

use super::replies::{Body, Reply};

pub const PATH: &str = "/";

const STYLE: &str = include_str!("dashboard/style.css");
const SCRIPT: &str = include_str!("dashboard/app.js");
const BODY: &str = include_str!("dashboard/page.html");
/// In colours that do on light and dark tabs.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Ccircle cx='12' \
                    cy='12' r='8' fill='none' stroke='%234a90b0' stroke-width='3'/%3E%3Ccircle cx='19' cy='8.5' r='3.4' \
                    fill='%234a90b0'/%3E%3C/svg%3E";

struct Page {
    text: Bytes,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>ringway</title>\n<meta \
         name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" \
         href=\"{ICON}\">\n<style>{STYLE}</style>\n</head>\n<body>\n{BODY}<script \
         type=\"module\">{SCRIPT}</script>\n</body>\n</html>\n"
    );
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri \
         'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    Page {
        text: Bytes::from(text),
        // Letters, digits and signs that a header may hold.
        policy: HeaderValue::from_str(&policy)
            .unwrap_or(HeaderValue::from_static("default-src 'none'")),
    }
});

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()))
}

#[must_use]
pub fn page() -> Reply {
    let mut response = Response::new(Body::new(Full::new(PAGE.text.clone())));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(CONTENT_TYPE, html);
    headers.insert(CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        let text = std::str::from_utf8(&PAGE.text).unwrap();
        // The names of vocabularies are no addresses to fetch from.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for fetched in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!text.contains(fetched), "{fetched}");
        }
        // A part that ended its own element would not be what was hashed.
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
        assert!(
            PAGE.policy
                .to_str()
                .unwrap()
                .starts_with("default-src 'none'; script-src")
        );
    }
}
