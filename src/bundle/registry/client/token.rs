//! Tokens for a registry: Docker's token flow, and OAuth 2 where there is a refresh token.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;

use super::{Client, ClientError, basic, host_of, is_loopback, read};
use crate::bundle::registry::credentials::Credentials;

/// Longest answer of a token service, in bytes.
const TOKEN_MAX: u64 = 1 << 20;

impl Client {
    /// Read access to the repository, from the service that the registry names.
    pub(super) async fn token(&mut self, realm: &str, service: Option<&str>) -> Result<String, ClientError> {
        let realm = self.realm(realm)?;
        let credentials = self.credentials()?;
        let request = self.ask_for_token(&realm, service, credentials.as_ref())?;
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => token_in(response, &host_of(&realm)).await,
            // OAuth 2 answers so to a refresh token that is none (RFC 6749, 5.2).
            StatusCode::BAD_REQUEST if credentials.is_some() => Err(self.refusal(self.repository.clone())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.refusal(self.repository.clone())),
            status => Err(ClientError::Status {
                host: host_of(&realm),
                status,
                what: "a token".to_owned(),
                said: String::new(),
            }),
        }
    }

    /// Where a login may be shown.
    fn realm(&self, realm: &str) -> Result<Uri, ClientError> {
        let host = self.authority.to_string();
        let shown = || realm.chars().take(300).collect();
        let Ok(uri) = realm.parse::<Uri>() else {
            let challenge = shown();
            return Err(ClientError::Challenge { host, challenge });
        };
        match uri.scheme() == Some(&Scheme::HTTPS) || uri.host().is_some_and(is_loopback) {
            true => Ok(uri),
            false => Err(ClientError::PlainRealm { host, realm: shown() }),
        }
    }

    fn ask_for_token(
        &self,
        realm: &Uri,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        // Read access to this repository, whatever else the registry's challenge names.
        let scope = format!("repository:{}:pull", self.repository);
        let mut form = BTreeMap::from([("scope", scope.as_str())]);
        form.extend(service.map(|service| ("service", service)));
        let mut request = Request::new(Full::default());
        if let Some(Credentials::RefreshToken(token)) = credentials {
            form.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "herd"),
                ("refresh_token", token),
            ]);
            let content = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(header::CONTENT_TYPE, content);
            *request.method_mut() = Method::POST;
            *request.body_mut() = Full::new(Bytes::from(encoded(&form)));
            *request.uri_mut() = realm.clone();
            return Ok(request);
        }
        if let Some(Credentials::Password { user, password }) = credentials {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, basic(user, password));
            form.insert("account", user);
        }
        let form = encoded(&form);
        let query = match realm.query() {
            Some(query) => format!("{}?{query}&{form}", realm.path()),
            None => format!("{}?{form}", realm.path()),
        };
        let (Some(scheme), Some(authority)) = (realm.scheme(), realm.authority()) else {
            let host = self.authority.to_string();
            return Err(ClientError::Token { host });
        };
        *request.uri_mut() = self.uri(scheme, authority, &query)?;
        Ok(request)
    }
}

/// `application/x-www-form-urlencoded`, in the order of the keys.
fn encoded(form: &BTreeMap<&str, &str>) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish()
}

async fn token_in(response: Response<Incoming>, host: &str) -> Result<String, ClientError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let text = read(response, TOKEN_MAX, host, "a token").await?;
    serde_json::from_slice::<Answer>(&text)
        .ok()
        .and_then(|answer| answer.token.or(answer.access_token))
        .filter(|token| !token.is_empty())
        .ok_or_else(|| ClientError::Token {
            host: host.to_owned(),
        })
}
