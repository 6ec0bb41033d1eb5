//! TLS on the data port. The certificate can be changed while connections go on: those that stand keep the one they began
//! with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::access::keys::{NotPrivate, private_file};
use crate::config;

/// What the data port offers to who asks for it by ALPN (RFC 7301). Who asks for nothing is understood all the same.
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];
/// The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1): a client's first.
pub(super) const HANDSHAKE: u8 = 22;

/// What handshakes go by.
pub struct Tls {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
}

/// The certificate in use.
#[derive(Debug)]
struct Certificate(RwLock<Arc<CertifiedKey>>);

/// A certificate with its key, as files had them.
#[derive(Debug, Clone)]
pub struct Identity(Arc<CertifiedKey>);

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {flaw}", path.display())]
pub struct TlsError {
    /// The key under `network.tls` that names the file.
    pub setting: &'static str,
    pub path: PathBuf,
    #[source]
    pub flaw: Box<Flaw>,
}

#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    #[error("is not PEM: {0}")]
    NotPem(#[source] pem::Error),
    #[error(
        "has no certificate; write herd's own first (-----BEGIN CERTIFICATE-----), then those that vouch for it"
    )]
    NoCertificate,
    #[error("has no private key (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("can be read by others; make it 0600 or 0640: chmod o= FILE")]
    Open,
    #[error("this key cannot be used: {0}")]
    Key(#[source] rustls::Error),
    #[error("this certificate cannot be used: {0}")]
    Certificate(#[source] rustls::Error),
    #[error("the key in {} does not belong to this certificate", key.display())]
    Mismatch { key: PathBuf },
}

impl Identity {
    /// # Errors
    /// The certificate or its key cannot be read or used, or both.
    pub fn read(files: &config::Tls) -> Result<Self, Vec<TlsError>> {
        Ok(Self(Arc::new(read(files, &provider())?)))
    }
}

impl Tls {
    pub fn with(identity: Identity) -> Self {
        let certificate = Arc::new(Certificate(RwLock::new(identity.0)));
        let versions =
            ServerConfig::builder_with_provider(Arc::new(provider())).with_safe_default_protocol_versions();
        #[expect(clippy::expect_used, reason = "ring's provider has suites for both versions")]
        let mut config = versions
            .expect("TLS 1.2 and 1.3 are supported")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(Vec::from).into();
        Self {
            config: Arc::new(config),
            certificate,
        }
    }

    /// Handshakes from now on are made with this one.
    pub fn renew(&self, identity: Identity) {
        *self.certificate.0.write().unwrap_or_else(PoisonError::into_inner) = identity.0;
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    /// One certificate whatever the client asks for: a client that wants another name says so itself.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn read(files: &config::Tls, provider: &CryptoProvider) -> Result<CertifiedKey, Vec<TlsError>> {
    let config::Tls { cert, key } = files;
    let chain = chain(cert).map_err(in_file("cert", cert));
    let signing = private_key(key)
        .and_then(|der| provider.key_provider.load_private_key(der).map_err(Flaw::Key))
        .map_err(in_file("key", key));
    let certified = match (chain, signing) {
        (Ok(chain), Ok(signing)) => CertifiedKey::new(chain, signing),
        (chain, signing) => return Err([chain.err(), signing.err()].into_iter().flatten().collect()),
    };
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(source) => {
            let flaw = match source {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    Flaw::Mismatch { key: key.clone() }
                }
                source => Flaw::Certificate(source),
            };
            Err(vec![in_file("cert", cert)(flaw)])
        }
    }
}

fn in_file(setting: &'static str, path: &Path) -> impl FnOnce(Flaw) -> TlsError {
    let path = path.to_owned();
    move |flaw| TlsError {
        setting,
        path,
        flaw: Box::new(flaw),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let text = fs::read(path).map_err(Flaw::Unreadable)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(Flaw::NotPem)?;
    if chain.is_empty() {
        return Err(Flaw::NoCertificate);
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Flaw> {
    let text = private_file(path).map_err(|why| match why {
        NotPrivate::Unreadable(source) => Flaw::Unreadable(source),
        NotPrivate::Open => Flaw::Open,
    })?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        pem::Error::NoItemsFound => Flaw::NoKey,
        e => Flaw::NotPem(e),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_not_taken_for_the_one_it_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let key = |name: &str, mode| {
            let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
            fs::write(at(name), &pem).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
        };
        let (private, _) = (key("private", 0o600), key("open", 0o644));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Now the one is `key`, now the other.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for name in ["private", "open"] {
                        fs::hard_link(at(name), at("next")).unwrap();
                        fs::rename(at("next"), at("key")).unwrap();
                    }
                }
            });
            let (mut taken, mut wrong) = (0, 0);
            for _ in 0..20_000 {
                match private_key(&at("key")) {
                    Ok(der) => {
                        taken += 1;
                        wrong += usize::from(der.secret_der() != private.secret_der());
                    }
                    Err(Flaw::Open | Flaw::Unreadable(_)) => {}
                    Err(_) => wrong += 1,
                }
            }
            over.store(true, Ordering::Relaxed);
            assert!(taken > 0, "it was never the private one");
            assert_eq!(wrong, 0, "of {taken}");
        });
    }
}
