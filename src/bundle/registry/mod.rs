//! Images from registries: the HTTP API v2, as in the OCI distribution-spec 1.1 ("Pulling").
//!
//! A registry is a stranger. Every blob has a size and a digest before its first byte is asked for; more bytes
//! than that end the download, and only the right digest gives a blob its name in the cache. What has no digest
//! yet (a tag's manifest) is limited, and pinned by the digest of what came.

mod cache;
mod challenge;
mod client;
mod credentials;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod reference;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use crate::sys::interrupt::{self, Interrupted};

use super::content::Sha256Digest;
use super::image::{
    Blobs, DOCUMENT_MAX, Descent, Descriptor, DocumentError, Image, ImageError, Manifest, Platform, Step,
};
use super::root::Limits;

pub use cache::Cache;
pub use client::{ClientError, Plain};
pub use credentials::CredentialsError;
pub use reference::{NotAReference, Reference, Wanted};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// How often the user's wish to stop is looked at while bytes are awaited.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{url} announced itself as {announced} and is {is}")]
    Digest {
        url: String,
        announced: Sha256Digest,
        is: Sha256Digest,
    },
    #[error("{digest}: the registry gives more than the {size} bytes announced")]
    Endless { digest: Sha256Digest, size: u64 },
    #[error("{digest}: the registry gave {is} of {size} bytes")]
    Short {
        digest: Sha256Digest,
        is: u64,
        size: u64,
    },
    #[error(
        "its layers are announced with {size} bytes together, more than the {limit} allowed; --max-size raises that"
    )]
    TooLarge { size: u64, limit: u64 },
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("the cache {}", path.display())]
    Cache {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// What a pull tells about its progress.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// A blob of `size` bytes begins, `have` of which are there already.
    Begins {
        digest: Sha256Digest,
        size: u64,
        have: u64,
    },
    /// So many bytes of it are there.
    At(u64),
    Done,
}

/// What came of a pull.
#[derive(Debug)]
pub struct Pulled {
    pub image: Image,
    /// Why a login that there may be was not shown to the registry, which asked for one and then did without.
    pub lost_login: Option<CredentialsError>,
}

/// Fetches an image into the cache, ready to be unpacked.
pub async fn pull(
    reference: &Reference,
    platform: &Platform,
    plain: Plain,
    cache: PathBuf,
    limits: Limits,
    mut progress: impl FnMut(Progress),
) -> Result<Pulled, PullError> {
    tokio::select! {
        // The download goes first, so that an interruption never eats a finished one.
        biased;
        result = fetch(reference, platform, plain, cache, limits, &mut progress) => result,
        interrupted = interrupted() => Err(interrupted.into()),
    }
}

async fn interrupted() -> Interrupted {
    loop {
        match interrupt::check() {
            Err(interrupted) => return interrupted,
            Ok(()) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn fetch(
    reference: &Reference,
    platform: &Platform,
    plain: Plain,
    cache: PathBuf,
    limits: Limits,
    progress: &mut impl FnMut(Progress),
) -> Result<Pulled, PullError> {
    let cache = match Cache::new(cache.clone()) {
        Ok(cache) => cache,
        Err(source) => return Err(PullError::Cache { path: cache, source }),
    };
    let mut client = client::Client::new(reference, plain)?;
    let (manifest, digest) = manifest(&mut client, reference, platform).await?;
    // Before anything large is fetched.
    let sizes = manifest.layers.iter().map(|layer| layer.size);
    let (size, limit) = (sizes.fold(0, u64::saturating_add), limits.bytes);
    if size > limit {
        return Err(PullError::TooLarge { size, limit });
    }
    for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
        blob(&mut client, &cache, descriptor, progress).await?;
    }
    // A tag moves; what it meant today is part of the record.
    let source = match &reference.wanted {
        Wanted::Tag(_) => format!("{reference}@{digest}"),
        Wanted::Digest(_) => reference.to_string(),
    };
    let blobs = Blobs::Directory(cache.directory().to_owned());
    Ok(Pulled {
        image: Image::from_manifest(blobs, manifest, platform, source)?,
        lost_login: client.lost_login(),
    })
}

/// Waits a little longer each time. `false`: it was the last try.
async fn again(tried: u32) -> bool {
    if tried >= client::TRIES {
        return false;
    }
    tokio::time::sleep(Duration::from_millis(250) * 2_u32.pow(tried - 1)).await;
    true
}

/// The manifest for the platform, and the digest of the document that the reference names.
async fn manifest(
    client: &mut client::Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<(Manifest, Sha256Digest), PullError> {
    let mut descent = Descent::new(platform.clone());
    let mut first = None;
    let mut url = format!("manifests/{}", reference.wanted.in_url());
    let mut expected = match &reference.wanted {
        Wanted::Digest(digest) => Some(*digest),
        Wanted::Tag(_) => None,
    };
    let mut limit = DOCUMENT_MAX;
    loop {
        let text = document(client, &url, limit).await?;
        let is = Sha256Digest::of(&text);
        if let Some(announced) = expected
            && announced != is
        {
            return Err(PullError::Digest { url, announced, is });
        }
        let first = *first.get_or_insert(is);
        match descent.step(&is.to_string(), &text)? {
            Step::Image(manifest) => return Ok((manifest, first)),
            Step::Next(descriptor) => {
                url = format!("manifests/{}", descriptor.digest);
                expected = Some(descriptor.digest);
                limit = descriptor.size;
            }
        }
    }
}

async fn document(client: &mut client::Client, url: &str, limit: u64) -> Result<Vec<u8>, ClientError> {
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(MANIFESTS))]);
    let mut tried = 0;
    loop {
        tried += 1;
        let result = match client.get(url, headers.clone()).await {
            Ok(response) => client::read(response, limit, "the registry", url).await,
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.passes() && again(tried).await => {}
            result => return result,
        }
    }
}

/// Brings a blob into the cache.
async fn blob(
    client: &mut client::Client,
    cache: &Cache,
    descriptor: &Descriptor,
    progress: &mut impl FnMut(Progress),
) -> Result<(), PullError> {
    let (digest, size) = (descriptor.digest, descriptor.size);
    let failed = |source| PullError::Cache {
        path: cache.directory().to_owned(),
        source,
    };
    if cache.has(&digest, size).map_err(failed)? {
        return Ok(());
    }
    let mut tried = 0;
    loop {
        tried += 1;
        let Some(mut partial) = cache.partial(&digest, size).await.map_err(failed)? else {
            return Ok(());
        };
        let have = partial.resume().map_err(failed)?;
        progress(Progress::Begins { digest, size, have });
        match stream(client, &mut partial, descriptor, progress).await {
            Ok(()) => {}
            Err(PullError::Client(error)) if error.passes() && again(tried).await => continue,
            Err(error) => return Err(error),
        }
        let is = partial.length();
        if is < size {
            match again(tried).await {
                true => continue,
                false => return Err(PullError::Short { digest, is, size }),
            }
        }
        match partial.finish().map_err(failed)? {
            Ok(()) => {
                progress(Progress::Done);
                return Ok(());
            }
            // The part that was there before may have been the wrong one; it is gone now.
            Err(_) if have > 0 && again(tried).await => {}
            Err(is) => {
                let url = format!("blobs/{digest}");
                return Err(PullError::Digest {
                    url,
                    announced: digest,
                    is,
                });
            }
        }
    }
}

/// Appends to the partial blob what the registry has beyond it.
async fn stream(
    client: &mut client::Client,
    partial: &mut cache::Partial,
    descriptor: &Descriptor,
    progress: &mut impl FnMut(Progress),
) -> Result<(), PullError> {
    let (digest, size) = (descriptor.digest, descriptor.size);
    let failed = |source| PullError::Cache {
        path: PathBuf::from(digest.to_string()),
        source,
    };
    let have = partial.length();
    if have == size {
        return Ok(());
    }
    let mut headers = HeaderMap::new();
    if have > 0 {
        let range = HeaderValue::try_from(format!("bytes={have}-"));
        headers.extend(range.ok().map(|range| (header::RANGE, range)));
    }
    let mut response = client.get(&format!("blobs/{digest}"), headers).await?;
    if !continues(&response, have) {
        partial.restart().map_err(failed)?;
        if response.status() != StatusCode::OK {
            // It does not want to go on where we are. The next try asks for all of it.
            return Ok(());
        }
    }
    let host = "the registry";
    while let Some(piece) = client::piece(response.body_mut(), host).await? {
        if !partial.append(&piece).map_err(failed)? {
            return Err(PullError::Endless { digest, size });
        }
        progress(Progress::At(partial.length()));
    }
    Ok(())
}

/// Whether an answer goes on at `have` bytes.
fn continues(response: &Response<Incoming>, have: u64) -> bool {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return have == 0 && response.status() == StatusCode::OK;
    }
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")))
}
