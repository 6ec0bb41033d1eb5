//! The receiver of traces, as herd.yaml names it.

use anyhow::Context;
use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;

use crate::config::Config;
use crate::telemetry::traces::{Receiver, Traces};

/// Starts what sends spans, with these headers, if herd.yaml asks for it.
pub(super) fn start(
    config: &Config,
    headers: HeaderMap,
    dropped: &Counter,
) -> anyhow::Result<Option<Traces>> {
    let Some(traces) = &config.traces else {
        return Ok(None);
    };
    let receiver = Receiver {
        endpoint: traces.endpoint.clone(),
        headers,
        service_name: traces.service_name.clone(),
    };
    let traces = Traces::start(receiver, dropped.clone()).context("cannot send traces")?;
    Ok(Some(traces))
}
