//! HTTP towards a registry, and to whom its credentials may be shown.
//!
//! | who asks | what it may get |
//! |---|---|
//! | the registry itself | Basic credentials or the token, over https; over http only on this machine or with `--insecure` |
//! | a token realm the registry names | the credentials, over https; over http only on this machine |
//! | wherever a redirect leads | nothing, unless it is the registry itself |
//!
//! An https registry cannot redirect to http.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

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
const TOKEN_MAX: u64 = 1 << 20;

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
    /// Looked up when the registry asks, once.
    credentials: Option<Option<Credentials>>,
    authorization: Option<HeaderValue>,
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
            credentials: None,
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
                    return Err(match self.credentials {
                        Some(Some(_)) => ClientError::Refused { host, what },
                        _ => ClientError::Unauthorized { host, what },
                    });
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
        if self.credentials.is_none() {
            let found = credentials::find(credentials::docker_config(), &self.registry);
            self.credentials = Some(found.map_err(|source| ClientError::Credentials {
                registry: self.registry.clone(),
                source,
            })?);
        }
        Ok(self.credentials.clone().flatten())
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
        let what = format!("{} in {}", path, self.repository);
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
                _ => Err(ClientError::Unauthorized { host, what }),
            },
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref()).await?;
                self.authorization =
                    Some(secret(format!("Bearer {token}")).ok_or(ClientError::Token { host })?);
                Ok(())
            }
        }
    }

    /// Docker's token flow, and OAuth 2 where there is a refresh token.
    async fn token(
        &mut self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, ClientError> {
        let host = self.authority.to_string();
        let uri: Uri = realm.parse().map_err(|_| ClientError::Challenge {
            host: host.clone(),
            challenge: realm.chars().take(300).collect(),
        })?;
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        if !secure && !uri.host().is_some_and(is_loopback) {
            return Err(ClientError::PlainRealm {
                host,
                realm: realm.chars().take(300).collect(),
            });
        }
        // What was asked for is read access to this repository; a registry may name more, but is not given more.
        let scope = match scope {
            Some(scope) if scope.starts_with("repository:") && scope.ends_with(":pull") => scope.to_owned(),
            _ => format!("repository:{}:pull", self.repository),
        };
        let mut form = vec![("scope", scope)];
        form.extend(service.map(|service| ("service", service.to_owned())));
        let credentials = self.credentials()?;
        let mut request = Request::new(Full::default());
        match &credentials {
            Some(Credentials::RefreshToken(token)) => {
                form.push(("grant_type", "refresh_token".to_owned()));
                form.push(("client_id", "herd".to_owned()));
                form.push(("refresh_token", token.clone()));
                let content = HeaderValue::from_static("application/x-www-form-urlencoded");
                request.headers_mut().insert(header::CONTENT_TYPE, content);
                *request.method_mut() = Method::POST;
                *request.body_mut() = Full::new(Bytes::from(encode(&form)));
                *request.uri_mut() = uri.clone();
            }
            other => {
                if let Some(Credentials::Password { user, password }) = other {
                    request
                        .headers_mut()
                        .insert(header::AUTHORIZATION, basic(user, password));
                    form.push(("account", user.clone()));
                }
                let query = match uri.query() {
                    Some(query) => format!("{}?{query}&{}", uri.path(), encode(&form)),
                    None => format!("{}?{}", uri.path(), encode(&form)),
                };
                let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
                    return Err(ClientError::Token { host });
                };
                *request.uri_mut() = self.uri(scheme, authority, &query)?;
            }
        }
        let realm_host = host_of(&uri);
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
                if credentials.is_some() =>
            {
                let what = self.repository.clone();
                return Err(ClientError::Refused { host, what });
            }
            status => {
                return Err(ClientError::Status {
                    host: realm_host,
                    status,
                    what: "a token".to_owned(),
                    said: String::new(),
                });
            }
        }
        let text = read(response, TOKEN_MAX, &realm_host, "a token").await?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let none = || ClientError::Token {
            host: realm_host.clone(),
        };
        let answer: Answer = serde_json::from_slice(&text).map_err(|_| none())?;
        answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(none)
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

/// `application/x-www-form-urlencoded`; everything but letters, digits and `-._~` becomes `%XX`.
fn encode(form: &[(&str, String)]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |text: &str| -> String {
        text.bytes()
            .map(|byte| match plain(byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect()
    };
    // The order is that of the keys, so that requests look alike.
    let unique: HashMap<&str, &String> = form.iter().map(|(key, value)| (*key, value)).collect();
    let mut pairs: Vec<_> = unique.into_iter().collect();
    pairs.sort_unstable();
    let pairs: Vec<_> = pairs
        .into_iter()
        .map(|(key, value)| format!("{key}={}", one(value)))
        .collect();
    pairs.join("&")
}
