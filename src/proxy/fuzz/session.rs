//! Session ids and the header fields around them.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};

use crate::config::Session as Sources;
use crate::core::SessionId;
use crate::proxy::fields::{self, Scheme, Sender, Toward, Trust};
use crate::proxy::identity;

/// The lines of a request: its target, then `name: value` each.
pub fn session(input: &[u8]) {
    let Some((uri, headers)) = request(input) else {
        return;
    };
    let sources = Sources {
        headers: vec![
            HeaderName::from_static("x-session-id"),
            HeaderName::from_static("mcp-session-id"),
        ],
        query: Some("session".to_owned()),
        cookie: Some("sid".to_owned()),
        lost_status: StatusCode::GONE,
        lost_for: std::time::Duration::from_secs(1),
    };
    an_id_is_one_and_stays_away_from_the_worker(&sources, &headers, &uri);
    nothing_of_one_hop_passes(&headers, &uri);
}

/// Target and fields.
pub(super) fn request(input: &[u8]) -> Option<(Uri, HeaderMap)> {
    let mut lines = input.split(|b| *b == b'\n');
    let uri = lines.next().and_then(|target| Uri::try_from(target).ok())?;
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    Some((uri, headers))
}

fn an_id_is_one_and_stays_away_from_the_worker(sources: &Sources, headers: &HeaderMap, uri: &Uri) {
    let found = identity::session_id(sources, headers, uri);
    if let Ok(id) = &found {
        let again = SessionId::parse(id.as_bytes()).unwrap();
        assert_eq!(again.as_str(), id);
        assert!((1..=SessionId::MAX_LEN).contains(&id.len()));
        assert!(!id.contains(|c: char| c.is_control() || c == '/' || c == '%' || c == ' '));
        for name in &sources.headers {
            for value in headers.get_all(name) {
                assert_eq!(value.as_bytes(), id.as_bytes(), "two ids passed as one");
            }
        }
    }
    let own = [sources.query.as_deref(), None];
    let origin = identity::origin_form(own, uri);
    assert_eq!(
        origin.path(),
        if uri.path().is_empty() { "/" } else { uri.path() }
    );
    assert!(origin.as_str().len() <= uri.to_string().len() + 1);
    let stripped = Uri::from(origin);
    // The id of the query is gone, so only the other sources are left; nobody finds another in what remains.
    let mut nowhere = HeaderMap::new();
    nowhere.insert("x-other", HeaderValue::from_static("1"));
    let left = identity::session_id(sources, &nowhere, &stripped);
    assert!(left.is_err(), "{stripped} still has {left:?}");
    let twice = identity::origin_form(own, &stripped);
    assert_eq!(
        twice.to_string(),
        stripped.to_string(),
        "taking it out again changes more"
    );
    let _ = identity::manner(headers);
}

fn nothing_of_one_hop_passes(headers: &HeaderMap, uri: &Uri) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .collect();
    let mut passed = headers.clone();
    fields::strip(&mut passed, Toward::Worker);
    for name in passed.keys() {
        let text = name.as_str();
        assert!(
            text == "te" || !named.contains(name),
            "{name} was named by Connection and passes"
        );
        assert!(!text.replace('_', "-").starts_with("x-herd-"), "{name} passes");
        assert!(
            ![
                "connection",
                "keep-alive",
                "proxy-connection",
                "transfer-encoding",
                "upgrade"
            ]
            .contains(&text),
            "{name} passes"
        );
        if text != "te" {
            assert!(
                passed.get_all(name).iter().eq(headers.get_all(name)),
                "{name} was changed on the way"
            );
        }
    }
    let mut again = passed.clone();
    fields::strip(&mut again, Toward::Worker);
    assert_eq!(again, passed, "a second hop strips more");

    let sender = |trust| Sender::new([127, 0, 0, 1].into(), Scheme::Http, trust);
    let host = fields::client_host(headers, uri);
    let present = fields::Present::among(headers);
    fields::forwarded(&mut passed, present, &sender(Trust::Untrusted), host.as_ref());
    let values: Vec<_> = passed.get_all("x-forwarded-for").iter().collect();
    assert_eq!(values, ["127.0.0.1"], "a stranger says who it is");
    assert!(!passed.contains_key("forwarded"));
    assert!(
        !passed
            .keys()
            .any(|name| name.as_str().starts_with("x_forwarded_"))
    );
    let mut trusted = headers.clone();
    fields::forwarded(&mut trusted, present, &sender(Trust::TrustedProxy), host.as_ref());
    let mut values = trusted.get_all("x-forwarded-for").iter();
    let chain = values.next().unwrap();
    assert!(values.next().is_none() && chain.as_bytes().ends_with(b"127.0.0.1"));
    if let Some(protocol) = fields::upgrade(headers) {
        assert!(!protocol.is_empty() && named.iter().any(|name| *name == "upgrade"));
    }
}
