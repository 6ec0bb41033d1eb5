//! herd.yaml: raw text → every mistake in one run, or a validated [`Config`].

mod auth;
mod changes;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod load;
mod model;
mod origin;
mod overrides;
pub mod paths;
mod raw;
mod sandbox;
mod schema;
mod template;
mod text;
mod units;
mod validate;

#[cfg(test)]
mod tests;

use crate::yaml::{self, problem};

pub use load::{Finding, LoadError, load, parse, point_out};
pub use model::{
    Auth, Bind, Config, ControlKey, DataKey, FormerKind, History, HostHeader, KeySource, Kind, Lifetime,
    Limits, May, Mount, Network, OnCrash, OnDisconnect, OriginPattern, Profile, Protocol, ProxyProtocol,
    Queue, Rate, Require, Reuse, Root, Route, Sandbox, SandboxChoice, SandboxNetwork, Session, Tls,
    TokenSecret, Tokens, Upstream,
};
pub use origin::Origin;
pub use overrides::{ConfigFile, Overrides};
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use template::{Template, TemplateError, Values, Variable};
pub use yaml::Step;
