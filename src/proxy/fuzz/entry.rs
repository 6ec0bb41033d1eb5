//! Credentials in a request.

use std::sync::{Arc, LazyLock};

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Uri};

use super::session::request;
use crate::access::{Access, Secrets};
use crate::proxy::entry::{Authorization, Entry, X_HERD_KEY, hide_cookie};
use crate::proxy::identity;

/// Whose SHA-256 is below.
const KEY: &[u8] = b"herd_0123456789abcdef";

static ACCESS: LazyLock<Arc<Access>> = LazyLock::new(|| {
    let text = "auth: {keys: {alice: {sha256: 1a7cdf4d77be096c389cfeee2500b4877c02fba4a262c9308ce43ef52b6e29e4}}}\n\
                workers: {a: {cmd: [x]}}\n";
    let config = crate::config::parse(text, "herd.yaml").unwrap();
    Access::new(&config, Secrets::read(&config).unwrap(), 8080).unwrap()
});

/// The lines of a request: its target, then `name: value` each.
pub fn entry(input: &[u8]) {
    let Some((uri, headers)) = request(input) else {
        return;
    };
    nobody_enters_without_the_key(&headers, &uri);
    only_the_token_is_hidden(headers);
}

fn nobody_enters_without_the_key(headers: &HeaderMap, uri: &Uri) {
    // Nobody knows the secret, so no token is good; the key is.
    let Ok(entry) = Entry::of(&ACCESS, headers, uri) else {
        return;
    };
    let has_key = |value: &http::HeaderValue| value.as_bytes().windows(KEY.len()).any(|part| part == KEY);
    let carriers = [&X_HERD_KEY, &AUTHORIZATION];
    let mut values = carriers.iter().flat_map(|name| headers.get_all(*name));
    assert!(values.any(has_key), "somebody came in by {headers:?}");
    if entry.authorization == Authorization::Workers {
        let bearer = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let bearer = bearer.and_then(|value| value.split_first_chunk::<7>());
        let passes = bearer
            .is_some_and(|(scheme, key)| scheme.eq_ignore_ascii_case(b"bearer ") && key.trim_ascii() == KEY);
        assert!(!passes, "a worker would see the key");
    }
}

fn only_the_token_is_hidden(mut headers: HeaderMap) {
    let cookies = |headers: &HeaderMap| -> Vec<(Vec<u8>, Vec<u8>)> {
        let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        identity::cookies(headers).map(owned).collect()
    };
    let mut expected = cookies(&headers);
    expected.retain(|(name, _)| name != b"herd_token");
    let lines = headers.get_all(COOKIE).iter().count();
    hide_cookie(&mut headers, "herd_token");
    assert_eq!(cookies(&headers), expected);
    assert!(headers.get_all(COOKIE).iter().count() <= lines);
}
