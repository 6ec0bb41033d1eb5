//! Container images: what they say (`document`), where their parts are (`source`), and how their layers become a
//! root filesystem (`layer`, over `stream` and `compression`).
//!
//! An image is a stranger's: every number in it is checked before it is used, every part is read within limits,
//! and one hostile entry refuses the whole image by name.

mod account;
mod archive;
mod blobs;
mod compression;
mod document;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod layer;
mod source;
mod stream;
mod user;

pub use archive::{Archive, ArchiveError};
pub use blobs::{Blobs, Part};
pub use document::{
    DOCUMENT_MAX, Descent, Descriptor, DocumentError, Manifest, Platform, PlatformError, Step,
};
pub use layer::{LayerError, Notes};
pub use source::{Image, ImageError};
pub use stream::StreamError;
pub use user::UserError;
