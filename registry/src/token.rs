//! Tokens, as registries send us for them (distribution-spec,
//! "Token Authentication", and its OAuth2): a challenge says who hands them
//! out and for what. It knows neither manifests nor blobs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;

use crate::error::Trouble;
use crate::http;

/// More than this is no token.
const LARGEST: u64 = 1 << 20;
/// Who we are for OAuth2.
const CLIENT: &str = "bpftime";
const FORM: &str = "application/x-www-form-urlencoded";

/// By what somebody shows who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Not at all.
    Anonymous,
    /// User and password.
    Basic(String, String),
    /// A token that is exchanged for others.
    Identity(String),
    /// A token for the registry itself.
    Bearer(String),
}

impl Auth {
    /// The header that shows it to a registry.
    pub fn header(&self) -> Option<String> {
        match self {
            Auth::Basic(user, password) => {
                let pair = STANDARD.encode(format!("{user}:{password}"));
                Some(format!("Basic {pair}"))
            }
            Auth::Bearer(token) => Some(format!("Bearer {token}")),
            Auth::Anonymous | Auth::Identity(_) => None,
        }
    }
}

/// Who hands out tokens, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// What an answer says; `None` if it wants no token.
    pub fn of(headers: &HeaderMap) -> Option<Result<Challenge, Trouble>> {
        let mut said = headers.get_all(WWW_AUTHENTICATE).iter();
        // What is no text is no challenge that we could meet.
        said.find_map(|value| Challenge::parse(value.to_str().ok()?))
    }

    /// The same for what we know to need: some registries' doors name an example.
    pub fn without_scope(self) -> Challenge {
        Challenge {
            scope: None,
            ..self
        }
    }

    fn parse(text: &str) -> Option<Result<Challenge, Trouble>> {
        let (scheme, rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        let wrong = || Trouble::Protocol(format!("it does not say who hands out tokens ({text})"));
        let realm = realm.and_then(|realm| Url::parse(&realm).ok());
        let realm = realm.filter(|realm| matches!(realm.scheme(), "http" | "https"));
        Some(realm.ok_or_else(wrong).map(|realm| Challenge {
            realm,
            service,
            scope,
        }))
    }

    /// Asks for a token for what it says, or else for `scope`.
    pub async fn meet(
        &self,
        client: &Client,
        auth: &Auth,
        scope: &str,
        registry: &str,
    ) -> Result<String, Trouble> {
        let scope = self.scope.as_deref().unwrap_or(scope);
        let mut url = self.realm.clone();
        let mut words = vec![("scope", scope)];
        words.extend(self.service.as_deref().map(|service| ("service", service)));
        let request = match auth {
            Auth::Identity(token) => {
                words.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT),
                    ("refresh_token", token),
                ]);
                let form = Url::parse_with_params("http://form", words);
                let form = form.map_err(|error| Trouble::Protocol(error.to_string()))?;
                let body = form.query().unwrap_or_default().to_owned();
                client.post(url).header(CONTENT_TYPE, FORM).body(body)
            }
            auth => {
                url.query_pairs_mut().extend_pairs(words);
                let request = client.get(url);
                match auth.header() {
                    Some(header) => request.header(AUTHORIZATION, header),
                    None => request,
                }
            }
        };
        let response = request.send().await.map_err(|error| {
            let trouble = http::trouble(&error);
            Trouble::Protocol(format!(
                "its tokens cannot be had: {} {trouble}",
                self.realm
            ))
        })?;
        match (response.status().as_u16(), auth) {
            (200..=299, _) => {}
            // Nobody was named, so nobody was refused.
            (401 | 403, Auth::Anonymous) => {
                let registry = registry.to_owned();
                return Err(Trouble::WantsLogin { registry });
            }
            (400, Auth::Identity(_)) | (401 | 403, _) => {
                let registry = registry.to_owned();
                return Err(Trouble::LoginRefused { registry });
            }
            (status, _) => {
                let text = format!("{} gives no token (status {status})", self.realm);
                return Err(Trouble::Protocol(text));
            }
        }
        let bytes = http::body(response, LARGEST, |_, _| {}).await?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer = serde_json::from_slice(&bytes).map(|answer: Answer| {
            let token = answer.token.or(answer.access_token);
            token.filter(|token| !token.is_empty())
        });
        match answer {
            Ok(Some(token)) => Ok(token),
            _ => {
                let text = format!("{} answers without a token", self.realm);
                Err(Trouble::Protocol(text))
            }
        }
    }
}

/// `name="value", name=value …` (RFC 9110, 11.2), as far as it can be read.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while let Some((name, behind)) = rest.split_once('=') {
        let name = name.trim().trim_start_matches(',').trim();
        let mut value = String::new();
        rest = match behind.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let mut chars = quoted.chars();
                while let Some(char) = chars.next().filter(|char| *char != '"') {
                    let escaped = (char == '\\').then(|| chars.next()).flatten();
                    value.push(escaped.unwrap_or(char));
                }
                chars.as_str()
            }
            None => {
                let (plain, rest) = behind.split_once(',').unwrap_or((behind, ""));
                plain.trim().clone_into(&mut value);
                rest
            }
        };
        all.push((name.to_owned(), value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<String>, Option<String>)> {
        let challenge = Challenge::parse(text)?.ok()?;
        Some((challenge.realm.into(), challenge.service, challenge.scope))
    }

    #[test]
    fn challenges_are_read() {
        let all = |realm: &str, service: &str, scope: &str| {
            Some((
                realm.to_owned(),
                Some(service.to_owned()),
                Some(scope.to_owned()),
            ))
        };
        assert_eq!(
            parsed(
                r#"Bearer realm="https://auth.r/token",service="r:1",scope="repository:a/b:pull,push""#
            ),
            all("https://auth.r/token", "r:1", "repository:a/b:pull,push")
        );
        assert_eq!(
            parsed(
                r#"bearer scope="a \"b\"" , service=s,error="invalid_token", REALM = "http://t/?x=1""#
            ),
            all("http://t/?x=1", "s", "a \"b\"")
        );
        assert!(Challenge::parse("Basic realm=\"x\"").is_none());
        for wrong in [
            "Bearer realm=\"file:///etc\"",
            "Bearer service=\"x\"",
            "Bearer =",
        ] {
            assert!(
                Challenge::parse(wrong).is_some_and(|said| said.is_err()),
                "{wrong}"
            );
        }
    }
}
