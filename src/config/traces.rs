//! `traces`: spans of requests, for OpenTelemetry.

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::model::{self, HeaderSource, Share, TracesHeader};
use super::share::ShareText;
use super::text::{FromText, InOrder, from_text, is_env_name};
use super::validate::Judge;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {endpoint: \"http://127.0.0.1:4318/v1/traces\"}"
)]
pub(super) struct Traces {
    /// Where spans are sent, by OTLP over HTTP in binary form, e.g. `http://127.0.0.1:4318/v1/traces`. Required.
    endpoint: Option<Endpoint>,
    /// The share of requests that are traced, of those that come without a trace: `0.01` or `1/100`. Those with one are
    /// traced if it says so. Default: 1.
    sample: Option<ShareText>,
    /// `service.name` of the spans. Default: herd.
    service_name: Option<String>,
    /// Headers for the endpoint, by name.
    #[schemars(schema_with = "headers_schema")]
    headers: Option<InOrder<Header>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "value, env or file, e.g. {env: OTLP_AUTHORIZATION}"
)]
#[schemars(rename = "TracesHeader")]
pub(super) struct Header {
    /// The value, if it is no secret.
    value: Option<String>,
    /// Or a variable of herd's own environment that holds it.
    env: Option<String>,
    /// Or a file that holds it.
    file: Option<String>,
}

/// The full URL of a receiver.
#[derive(Debug, Clone)]
pub(super) struct Endpoint(Uri);

from_text!(Endpoint);

impl FromText for Endpoint {
    const EXPECTING: &'static str = "a URL such as http://127.0.0.1:4318/v1/traces";

    fn from_text(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "http://127.0.0.1:4318/v1/traces";
        let shown = text.escape_debug();
        let wrong = || format!("\"{shown}\" is not the URL of a receiver; write e.g. {EXAMPLE}");
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let known = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&url.scheme());
        let authority = url.authority().filter(|_| known).ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err("has a password in it; write it as a header, e.g. headers: {Authorization: {env: OTLP_AUTHORIZATION}}".to_owned());
        }
        if url.path() == "/" {
            return Err(format!("\"{shown}\" has no path; write e.g. {EXAMPLE}"));
        }
        Ok(Self(url))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://[^/@]+/.+$" })
    }
}

fn headers_schema(generator: &mut SchemaGenerator) -> Schema {
    let header = generator.subschema_for::<Header>();
    json_schema!({ "type": "object", "additionalProperties": header })
}

impl Judge<'_> {
    /// `None`: something is wrong with it, which is reported.
    pub(super) fn traces(&mut self, raw: Traces) -> Option<model::Traces> {
        let service_name = raw.service_name.unwrap_or_else(|| "herd".to_owned());
        if service_name.is_empty() || service_name.len() > 256 {
            self.at_value(
                &["traces", "service_name"],
                "is empty or longer than 256 bytes; write e.g. herd",
            );
        }
        let headers = self.headers(raw.headers);
        let Some(Endpoint(endpoint)) = raw.endpoint else {
            if !self.problems.mentions("traces.endpoint") && !self.problems.mentions("traces") {
                self.at_key(
                    &["traces"],
                    "has no endpoint; write e.g. {endpoint: \"http://127.0.0.1:4318/v1/traces\"}",
                );
            }
            return None;
        };
        Some(model::Traces {
            endpoint,
            sample: raw.sample.map_or(Share::ALL, |share| share.0),
            service_name,
            headers,
        })
    }

    fn headers(&mut self, raw: Option<InOrder<Header>>) -> Vec<TracesHeader> {
        const OWN: [&str; 5] = [
            "host",
            "content-type",
            "content-length",
            "transfer-encoding",
            "connection",
        ];
        let mut headers: Vec<TracesHeader> = Vec::new();
        for (name, header) in raw.map_or_else(Vec::new, |headers| headers.0) {
            let path = ["traces", "headers", &name];
            let Ok(key) = HeaderName::try_from(name.as_str()) else {
                self.at_key(&path, "is not a header name; write e.g. Authorization");
                continue;
            };
            if OWN.contains(&key.as_str()) || headers.iter().any(|other| other.name == key) {
                self.at_key(&path, "is set by herd already, or twice; remove it");
                continue;
            }
            let source = match (header.value, header.env, header.file) {
                (Some(value), None, None) => HeaderValue::try_from(value)
                    .map(HeaderSource::Value)
                    .map_err(|_| "has a value that no header can have; remove control characters"),
                (None, Some(name), None) if is_env_name(&name) => Ok(HeaderSource::Env(name)),
                (None, Some(_), None) => Err("names no variable; write e.g. {env: OTLP_AUTHORIZATION}"),
                (None, None, Some(file)) => Ok(HeaderSource::File(file.into())),
                _ => Err("has to have exactly one of value, env and file"),
            };
            match source {
                Ok(source) => headers.push(TracesHeader {
                    name: key,
                    spelled: name,
                    source,
                }),
                Err(_) if self.problems.mentions_inside(&path.join(".")) => {}
                Err(message) => self.at_key(&path, message),
            }
        }
        headers
    }
}
