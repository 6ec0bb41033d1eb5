//! herd.yaml: raw text → every mistake in one run, or a validated [`Config`].

mod load;
mod model;
mod overrides;
pub mod paths;
mod raw;
mod schema;
mod template;
mod text;
mod units;
mod validate;

#[cfg(test)]
mod tests;

use crate::yaml::{self, problem};

pub use load::{LoadError, load, parse};
pub use model::{
    Bind, Config, HostHeader, Kind, Lifetime, Network, OnCrash, OnDisconnect, Protocol, Queue, Reuse, Route,
    Session, Upstream,
};
pub use overrides::{ConfigFile, Overrides};
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use template::{Template, TemplateError, Values, Variable};
