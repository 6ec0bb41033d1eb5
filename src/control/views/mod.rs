//! What the control API answers with. These types are its contract; the CLI reads the same ones.

mod command;
mod creating;
mod event;
mod herd;
mod pools;
mod problem;
mod session;
mod token;

pub use command::{ExecEnd, ExecOutcome};
pub use creating::{Accepted, Held, HeldOrigin, HoldEnded, NewSession, Waiting};
pub use event::{By, Event, What};
pub use herd::{Draining, Readiness, Reloaded, Version};
pub use pools::{AdmissionPressure, HerdPressure, HostPressure, Pool, PoolPressure, Pressure, WorkerList};
pub use problem::{Mistake, Problem};
pub use session::{
    Dead, EndsFor, Sandbox, Session, SessionHistory, SessionList, State, StopOutcome, StopReport, Used, name,
};
pub use token::{NewToken, Token};
