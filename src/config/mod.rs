//! herd.yaml: raw text → every mistake in one run, or a validated [`Config`].

mod access_log;
mod auth;
mod changes;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod kinds;
pub mod listening;
mod liveness;
mod load;
mod model;
mod origin;
mod overrides;
pub mod paths;
mod raw;
mod sandbox;
mod schema;
mod share;
mod switch;
mod template;
mod text;
mod traces;
mod units;
mod validate;

#[cfg(test)]
mod tests;

use crate::yaml::{self, problem};

pub use load::{Finding, LoadError, load, mentions, parse, point_out};
pub use model::{
    AccessLog, Admission, Auth, Bind, Config, ControlKey, DataKey, FormerKind, HeaderSource, History,
    HostHeader, KeySource, Kind, Lifetime, Limits, Liveness, LogTarget, May, MemoryAdmission, Mount, Network,
    OnCrash, OnDisconnect, OriginPattern, Profile, Protocol, ProxyProtocol, Query, Queue, Rate, Require,
    Reuse, Root, Route, Sandbox, SandboxChoice, SandboxNetwork, Session, SessionShown, Share, Tls,
    TokenSecret, Tokens, Traces, TracesHeader, Upstream,
};
pub use origin::Origin;
pub use overrides::{ConfigFile, Overrides};
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use template::{Template, TemplateError, Values, Variable};
pub use units::size;
pub use yaml::Step;
