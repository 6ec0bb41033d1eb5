//! Bundles: worker root filesystems as OCI bundle directories (config.json + rootfs).
//!
//! ```text
//!  image, registry, host, recipe ──► Root ──► Staging::finish ──► DIR/config.json
//!                                    (checked writes)             DIR/herd-bundle.json   what was written
//!                                                                 DIR/rootfs/
//! ```
//!
//! [`Staging`] is a hidden directory beside the output that becomes the output in one `rename`, or nothing.
//! [`Root`] is how anything gets into it. [`open`] reads a bundle, whoever made it; [`verify()`] compares one with
//! what was written. Nothing here runs a bundle, and nothing here protects one from its owner: the digest tells
//! drift, it is no signature.

pub mod closure;
mod config;
mod content;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub mod image;
mod index;
mod open;
pub mod recipe;
pub mod registry;
mod remove;
mod root;
mod staging;
#[cfg(test)]
mod tests;
mod verify;

pub use config::{Config, MASKED, PATH, READ_ONLY, User};
pub use content::{Entries, Entry, NotADigest, Sha256Digest, digest, escape, shown, size, unescape};
pub use index::Kind;
pub use open::{Bundle, OpenError, ProgramError, host_architecture, open};
pub use remove::{RemoveError, is_bundle, remove};
pub use root::{Attributes, Limits, Root, RootError};
pub use staging::{Existing, Finished, Manifest, Staging, StagingError};
pub use verify::{Drift, DriftKind, VerifyError, manifest, verify};

/// The file in a bundle that says what herd wrote into it.
pub const MANIFEST: &str = "herd-bundle.json";
/// Annotations that herd itself sets begin with this.
pub const ANNOTATIONS: &str = "dev.herd.bundle.";
