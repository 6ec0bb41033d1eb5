//! herd.yaml: raw text → every mistake in one run, or a validated [`Config`].

#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod load;
mod model;
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
    Bind, Config, ControlKey, History, HostHeader, KeySource, Kind, Lifetime, Limits, May, Mount, Network,
    OnCrash, OnDisconnect, Profile, Protocol, Queue, Require, Reuse, Root, Route, Sandbox, SandboxChoice,
    SandboxNetwork, Session, Upstream,
};
pub use overrides::{ConfigFile, Overrides};
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use template::{Template, TemplateError, Values, Variable};
