//! herd.yaml: raw text → every mistake in one run, or a validated [`Config`].

mod model;
mod template;

pub use model::{
    Bind, Config, HostHeader, Kind, Lifetime, Network, OnCrash, OnDisconnect, Protocol, Queue, Reuse, Route,
    Session, Upstream,
};
pub use template::{Template, TemplateError, Values, Variable};
