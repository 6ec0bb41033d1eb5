//! HTTP towards a registry, and to whom its credentials may be shown.
//!
//! | who asks | what it may get |
//! |---|---|
//! | the registry itself | Basic credentials or the token, over https; over http only on this machine or with `--insecure` |
//! | a token realm the registry names | the credentials, over https; over http only on this machine |
//! | wherever a redirect leads | nothing, unless it is the registry itself |
//!
//! An https registry cannot redirect to http.

mod token;

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::challenge::{self, Challenge};
use super::credentials::{self, Credentials, CredentialsError};
use super::reference::Reference;

/// Until a connection is there and its answer begins.
const ANSWER: Duration = Duration::from_secs(30);
/// Until the next piece of a body.
const PIECE: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 5;
/// Tries of one request, the first included.
pub(super) const TRIES: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot find the certificates of this machine's authorities; install ca-certificates")]
    Roots(#[source] std::io::Error),
    #[error("cannot reach {host}")]
    Connect {
        host: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("{host} did not answer within {} seconds", ANSWER.as_secs())]
    Slow { host: String },
    #[error("the connection to {host} broke")]
    Broken {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{host} answered {status} for {what}{}", detail(.said))]
    Status {
        host: String,
        status: StatusCode,
        what: String,
        said: String,
    },
    #[error("{host} knows no {what}, or does not show it without a login (`docker login {host}`)")]
    Unauthorized { host: String, what: String },
    /// As the one before, and there may be a login.
    #[error("{host} knows no {what}, or does not show it without a login, and the login is not to be had")]
    NoLogin {
        host: String,
        what: String,
        #[source]
        source: CredentialsError,
    },
    #[error("{host} does not accept the login for {what}; log in again with `docker login {host}`")]
    Refused { host: String, what: String },
    #[error("{host} has no {what}")]
    NotFound { host: String, what: String },
    #[error("{host} asks for a login that herd does not know: {challenge:?}")]
    Challenge { host: String, challenge: String },
    #[error("{host} wants the login shown to {realm} over plain http, which herd does not do")]
    PlainRealm { host: String, realm: String },
    #[error("{host} redirects to {to}, which herd does not follow: {why}")]
    Redirect {
        host: String,
        to: String,
        why: &'static str,
    },
    #[error("{host} gives more than {limit} bytes for {what}")]
    TooLarge { host: String, what: String, limit: u64 },
    #[error("{host} gave a token that is none")]
    Token { host: String },
    #[error("the credentials for {registry}")]
    Credentials {
        registry: String,
        #[source]
        source: CredentialsError,
    },
}

fn detail(said: &str) -> String {
    match said.is_empty() {
        true => String::new(),
        false => format!(": {said:?}"),
    }
}

impl ClientError {
    /// Whether the same request may succeed a moment later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Slow { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// Which registries may be spoken to without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// Those on this machine.
    Loopback,
    /// The one that is asked for, wherever it is.
    Allowed,
}

pub(super) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    registry: String,
    scheme: Scheme,
    authority: Authority,
    repository: String,
    login: Login,
    authorization: Option<HeaderValue>,
}

/// What is known of the user's login. It is looked up when the registry asks, once.
enum Login {
    NotLookedUp,
    None,
    Found(Credentials),
    /// A helper that may know it did not say. What everybody may read can still be had.
    Lost(CredentialsError),
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Client({}://{}/{})",
            self.scheme, self.authority, self.repository
        )
    }
}

impl Client {
    pub(super) fn new(reference: &Reference, plain: Plain) -> Result<Self, ClientError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(ANSWER));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(ClientError::Roots)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let host = match reference.registry.as_str() {
            // The registry's name and its address have differed since its beginnings.
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        };
        let authority: Authority = host.parse().map_err(|_| ClientError::NotFound {
            host: host.to_owned(),
            what: "registry there".to_owned(),
        })?;
        let scheme = match plain == Plain::Allowed || is_loopback(authority.host()) {
            true => Scheme::HTTP,
            false => Scheme::HTTPS,
        };
        Ok(Self {
            http: HyperClient::builder(TokioExecutor::new()).build(connector),
            registry: reference.registry.clone(),
            scheme,
            authority,
            repository: reference.repository.clone(),
            login: Login::NotLookedUp,
            authorization: None,
        })
    }

    /// Gets `/v2/REPOSITORY/PATH`. Answers that are not 200 or 206 are errors; `range` is accepted as it comes.
    pub(super) async fn get(
        &mut self,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, ClientError> {
        let target = format!("/v2/{}/{path}", self.repository);
        let mut uri = self.uri(&self.scheme.clone(), &self.authority.clone(), &target)?;
        let mut asked = false;
        let mut redirects = 0;
        loop {
            let at_registry = uri.scheme() == Some(&self.scheme) && uri.authority() == Some(&self.authority);
            let mut request = Request::new(Full::default());
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            if at_registry && let Some(authorization) = &self.authorization {
                request
                    .headers_mut()
                    .insert(header::AUTHORIZATION, authorization.clone());
            }
            let response = self.send(request).await?;
            let host = host_of(&uri);
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(response);
                }
                StatusCode::UNAUTHORIZED if at_registry && !asked => {
                    asked = true;
                    self.log_in(&response, path).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let what = format!("{} in {}", path, self.repository);
                    return Err(self.refused_by(host, what));
                }
                StatusCode::NOT_FOUND => {
                    let what = format!("{} in {}", path, self.repository);
                    return Err(ClientError::NotFound { host, what });
                }
                status if status.is_redirection() => {
                    redirects += 1;
                    uri = follow(&uri, &response, redirects)?;
                }
                status => {
                    let said = read(response, 4096, &host, path).await.unwrap_or_default();
                    let said = String::from_utf8_lossy(&said);
                    return Err(ClientError::Status {
                        host,
                        status,
                        what: path.to_owned(),
                        said: said.chars().take(300).collect(),
                    });
                }
            }
        }
    }

    fn uri(&self, scheme: &Scheme, authority: &Authority, target: &str) -> Result<Uri, ClientError> {
        Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|_| ClientError::NotFound {
                host: authority.to_string(),
                what: target.to_owned(),
            })
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let host = host_of(request.uri());
        let agent = HeaderValue::from_static(concat!("herd/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        match tokio::time::timeout(ANSWER, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(ClientError::Connect { host, source }),
            Err(_) => Err(ClientError::Slow { host }),
        }
    }

    fn credentials(&mut self) -> Result<Option<Credentials>, ClientError> {
        if let Login::NotLookedUp = self.login {
            self.login = match credentials::find(credentials::docker_config(), &self.registry) {
                Ok(None) => Login::None,
                Ok(Some(found)) => Login::Found(found),
                Err(error) if error.is_helpers() => Login::Lost(error),
                Err(source) => {
                    let registry = self.registry.clone();
                    return Err(ClientError::Credentials { registry, source });
                }
            };
        }
        match &self.login {
            Login::Found(found) => Ok(Some(found.clone())),
            _ => Ok(None),
        }
    }

    /// Why the login could not be had, if the registry asked for one.
    pub(super) fn lost_login(self) -> Option<CredentialsError> {
        match self.login {
            Login::Lost(error) => Some(error),
            _ => None,
        }
    }

    /// The registry does not show `what`.
    fn refusal(&mut self, what: String) -> ClientError {
        self.refused_by(self.authority.to_string(), what)
    }

    fn refused_by(&mut self, host: String, what: String) -> ClientError {
        match std::mem::replace(&mut self.login, Login::None) {
            Login::Found(_) => ClientError::Refused { host, what },
            Login::Lost(source) => ClientError::NoLogin { host, what, source },
            Login::None | Login::NotLookedUp => ClientError::Unauthorized { host, what },
        }
    }

    /// Answers the registry's challenge: from now on requests carry what it wants.
    async fn log_in(&mut self, response: &Response<Incoming>, path: &str) -> Result<(), ClientError> {
        let host = self.authority.to_string();
        let given: Vec<String> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let challenges: Vec<Challenge> = given.iter().filter_map(|text| challenge::parse(text)).collect();
        let bearer = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match bearer.or(challenges.first()) {
            None => Err(ClientError::Challenge {
                host,
                challenge: given.join(", ").chars().take(300).collect(),
            }),
            Some(Challenge::Basic) => match self.credentials()? {
                Some(Credentials::Password { user, password }) => {
                    self.authorization = Some(basic(&user, &password));
                    Ok(())
                }
                _ => Err(self.refusal(format!("{path} in {}", self.repository))),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(realm, service.as_deref()).await?;
                self.authorization =
                    Some(secret(format!("Bearer {token}")).ok_or(ClientError::Token { host })?);
                Ok(())
            }
        }
    }
}

/// A whole body of at most `limit` bytes.
pub(super) async fn read(
    mut response: Response<Incoming>,
    limit: u64,
    host: &str,
    what: &str,
) -> Result<Vec<u8>, ClientError> {
    let mut content = Vec::new();
    while let Some(piece) = piece(response.body_mut(), host).await? {
        if content.len() as u64 + piece.len() as u64 > limit {
            return Err(ClientError::TooLarge {
                host: host.to_owned(),
                what: what.to_owned(),
                limit,
            });
        }
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

/// The next piece of a body; `None` at its clean end.
pub(super) async fn piece(body: &mut Incoming, host: &str) -> Result<Option<Bytes>, ClientError> {
    loop {
        match tokio::time::timeout(PIECE, body.frame()).await {
            Err(_) => {
                return Err(ClientError::Slow {
                    host: host.to_owned(),
                });
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(source))) => {
                let host = host.to_owned();
                return Err(ClientError::Broken { host, source });
            }
            Ok(Some(Ok(frame))) => {
                // Trailers are of no use here.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn follow(from: &Uri, response: &Response<Incoming>, redirects: usize) -> Result<Uri, ClientError> {
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let location = location.unwrap_or_default();
    let refuse = |why| {
        let to: String = location.chars().take(300).collect();
        let host = host_of(from);
        Err(ClientError::Redirect { host, to, why })
    };
    if redirects > REDIRECTS_MAX {
        return refuse("that is one redirect too many");
    }
    let mut parts = match location.parse::<Uri>() {
        Ok(uri) => uri.into_parts(),
        Err(_) => return refuse("it is not a URL"),
    };
    // `/path` stays where it is.
    parts.scheme = parts.scheme.or_else(|| from.scheme().cloned());
    parts.authority = parts.authority.or_else(|| from.authority().cloned());
    if !location.starts_with('/') && !location.contains("://") {
        return refuse("it is not a URL");
    }
    let uri = match Uri::from_parts(parts) {
        Ok(uri) => uri,
        Err(_) => return refuse("it is not a URL"),
    };
    match (from.scheme() == Some(&Scheme::HTTPS), uri.scheme_str()) {
        (_, Some("https")) | (false, Some("http")) => Ok(uri),
        (true, Some("http")) => refuse("it leaves https"),
        _ => refuse("it is neither http nor https"),
    }
}

fn host_of(uri: &Uri) -> String {
    match (uri.host(), uri.port_u16()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "nobody".to_owned(),
    }
}

/// This machine by one of its usual names. Not by look-up: a name server is not asked whether TLS is needed.
fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1")
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
    // base64 has no character that a header may not have.
    secret(format!("Basic {encoded}")).unwrap_or_else(|| HeaderValue::from_static(""))
}

fn secret(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
