//! A visitor who may see and change things: what every page but the public ones begins with.

use std::str::FromStr;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority};
use maud::Markup;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::{
    Console,
    api::{Api, Refused},
    form::Form,
    layout::{self, Here},
    sign_in::own_path,
    visitor::{SAID, Said, Visitor, link},
};
use crate::{
    admin::view::{self, Code},
    guard::Origin,
};

/// Longer news would not fit into a cookie.
const LONGEST_NEWS: usize = 3_000;

pub(super) struct Signed {
    pub(super) visitor: Visitor,
    pub(super) api: Api,
    pub(super) session: view::Session,
    /// Scheme and host, as this visitor reaches keytide.
    pub(super) origin: String,
}

/// The page to answer with instead.
pub(super) struct Failure(Box<Response>);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<Response> for Failure {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

pub(super) type Answer = Result<Response, Failure>;

impl Signed {
    pub(super) async fn of(parts: &mut Parts, console: &Console) -> Result<Self, Failure> {
        let visitor = Visitor::of(&parts.headers, &parts.uri, console.clock.now());
        let api = Api::of(&console.api, parts);
        match api.get::<view::Session>("/admin/session").await {
            Ok(session) => Ok(Self { visitor, api, session, origin: origin(parts) }),
            Err(refused) if refused.status == StatusCode::UNAUTHORIZED => {
                // A form is not sent a second time by itself.
                let (next, ended) = match (parts.method == Method::GET, refused.code == "session_ended") {
                    (true, true) => (visitor.here.as_str(), "1"),
                    (true, false) => (visitor.here.as_str(), ""),
                    (false, _) => ("", "undone"),
                };
                let next = if next == "/" { "" } else { next };
                let to = link("/login", &[("next", next), ("ended", ended)]);
                Err(Redirect::to(&to).into_response().into())
            }
            Err(refused) => Err(layout::refused(&visitor, None, &refused).into()),
        }
    }

    /// What the API says there; where it refuses, the page that explains it.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.api.get(path).await.map_err(|refused| self.refused(&refused))
    }

    /// Only an id goes on into a path of the API.
    pub(super) fn id<T: FromStr>(&self, text: &str, code: Code) -> Result<T, Failure> {
        text.parse().map_err(|_| {
            let message = "There is nothing at this address: it may just have been deleted.".to_owned();
            let (status, code) = (StatusCode::NOT_FOUND, code.as_str().to_owned());
            self.refused(&Refused { status, code, message })
        })
    }

    pub(super) fn refused(&self, refused: &Refused) -> Failure {
        layout::refused(&self.visitor, Some(&self.session), refused).into()
    }

    pub(super) fn page(&self, here: Here, title: &str, body: &Markup) -> Response {
        layout::page(&self.visitor, Some(&self.session), here, title, body)
    }

    /// A page with a form that was refused, and holds what was written in it.
    pub(super) fn again(&self, here: Here, title: &str, body: &Markup) -> Response {
        let mut response = self.page(here, title, body);
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        response
    }

    /// Goes on to a page that says how it went.
    pub(super) fn went(&self, to: &str, outcome: Result<String, Refused>) -> Response {
        self.told(
            to,
            &match outcome {
                Ok(text) => Said::Good(text),
                Err(refused) => Said::Bad { done: String::new(), refused },
            },
        )
    }

    /// As `went`, where something was done before the rest was refused.
    pub(super) fn broke_off(&self, to: &str, done: String, refused: Refused) -> Response {
        self.told(to, &Said::Bad { done, refused })
    }

    fn told(&self, to: &str, said: &Said) -> Response {
        let mut news = String::new();
        for letter in said.written().chars() {
            let letter = utf8_percent_encode(letter.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC).to_string();
            if news.len() + letter.len() > LONGEST_NEWS {
                break;
            }
            news += &letter;
        }
        let mut response = Redirect::to(to).into_response();
        let cookie = format!("{SAID}={news}; Path=/; Max-Age=60; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }
}

/// It goes into commands that people copy, so a host is made of nothing but the letters of hosts.
fn origin(parts: &Parts) -> String {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || ".-_:[]".contains(letter);
    let said = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let host = said.as_ref().or(parts.uri.authority()).map(Authority::as_str);
    let host = host.filter(|host| host.chars().all(is_letter)).unwrap_or("localhost:8787");
    let is_https = parts.extensions.get::<Origin>().is_some_and(|origin| origin.is_https);
    format!("{}://{host}", if is_https { "https" } else { "http" })
}

impl FromRequestParts<Console> for Signed {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Failure> {
        Self::of(parts, console).await
    }
}

/// A form from somebody who is signed in; whether it is from a page of ours is for the API to check.
pub(super) struct Posted {
    pub(super) signed: Signed,
    pub(super) form: Form,
}

impl FromRequest<Console> for Posted {
    type Rejection = Failure;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let mut signed = Signed::of(&mut parts, console).await?;
        let form = Form::from_request(Request::from_parts(parts, body), console).await?;
        signed.api.repeat(form.get("csrf"));
        // A page that answers a form has no address: whoever changes the language goes to the one before, if it is known.
        let back = form.get("back");
        signed.visitor.here = if back.is_empty() { String::new() } else { own_path(back).to_owned() };
        Ok(Self { signed, form })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_copy_names_the_host_that_they_reach() {
        for (host, is_https, says) in [
            ("keys.example:8443", true, "https://keys.example:8443"),
            ("[::1]:8787", false, "http://[::1]:8787"),
            ("a'$(b)", false, "http://localhost:8787"),
            ("who@keys.example", false, "http://localhost:8787"),
            ("a b", true, "https://localhost:8787"),
        ] {
            let mut request = Request::get("/playground").header(header::HOST, host).body(()).unwrap();
            request.extensions_mut().insert(Origin { address: "192.0.2.7".parse().unwrap(), is_https });
            assert_eq!(origin(&request.into_parts().0), says, "{host}");
        }
    }
}
