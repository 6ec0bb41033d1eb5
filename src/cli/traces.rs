//! The receiver of traces, as herd.yaml names it.

use anyhow::Context;
use http::{HeaderMap, HeaderValue};
use prometheus_client::metrics::counter::Counter;

use crate::access::keys::{from_env, from_file};
use crate::config::{Config, HeaderSource};
use crate::telemetry::traces::{Receiver, Traces};

/// Starts what sends spans, if herd.yaml asks for it.
pub(super) fn start(config: &Config, dropped: &Counter) -> anyhow::Result<Option<Traces>> {
    let Some(traces) = &config.traces else {
        return Ok(None);
    };
    let mut headers = HeaderMap::new();
    for (name, source) in &traces.headers {
        let place = || format!("traces.headers.{name}");
        let text = match source {
            HeaderSource::Value(value) => {
                headers.insert(name, value.clone());
                continue;
            }
            HeaderSource::Env(variable) => from_env(variable).with_context(place)?,
            HeaderSource::File(path) => from_file(path).with_context(place)?,
        };
        let mut value = HeaderValue::try_from(text.trim()).with_context(|| {
            format!(
                "traces.headers.{name}: what it holds cannot be a header's value; remove control characters"
            )
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let receiver = Receiver {
        endpoint: traces.endpoint.clone(),
        headers,
        service_name: traces.service_name.clone(),
    };
    let traces = Traces::start(receiver, dropped.clone()).context("cannot send traces")?;
    Ok(Some(traces))
}
