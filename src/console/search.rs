//! Looking for something in a list.
//!
//! What somebody looks for may be a whole key or token, and addresses are kept: by browsers, in the logs of proxies. So
//! it is posted. A whole key or token that is known leads to its own page, and only a text that finds something goes on
//! into the list's address: it is a part of what the list shows. What finds nothing goes nowhere, whatever it is, since
//! no guess at what a secret looks like would be right for every provider.

use axum::{
    Router,
    response::{IntoResponse, Redirect},
    routing::post,
};
use http::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use subtle::ConstantTimeEq;

use super::{
    Console,
    api::Refused,
    form::Form,
    settings,
    signed::{Answer, Failure, Posted, Signed},
    visitor::link,
};
use crate::{
    admin::view::{self, Code},
    model::{KeyId, KeyRecord, TokenId},
};

pub(super) const PATH: &str = "/search";

pub(super) fn routes() -> Router<Console> {
    Router::new().route(PATH, post(search))
}

/// A list that something can be looked for in.
struct List {
    path: &'static str,
    api: &'static str,
    /// What addresses call the text that is looked for.
    field: &'static str,
    /// What else the list goes by.
    kept: &'static [&'static str],
}

const EVENTS: &str = "/events";
const SETTINGS: &str = "/settings";

const LISTS: [List; 5] = [
    List {
        path: "/keys",
        api: "/admin/api-keys",
        field: "search",
        kept: &["provider", "status", "sort", "order"],
    },
    List { path: "/tokens", api: "/admin/tokens", field: "search", kept: &["provider"] },
    List { path: "/users", api: "/admin/users", field: "search", kept: &[] },
    List { path: EVENTS, api: "/admin/events", field: "subject", kept: &["severity", "type", "from", "to"] },
    List { path: SETTINGS, api: "/admin/config", field: "search", kept: &[] },
];

async fn search(Posted { signed, form }: Posted) -> Answer {
    is_own(&signed, &form)?;
    let Some(list) = LISTS.iter().find(|list| list.path == form.get("list")) else {
        let message = "There is nothing at this address.".to_owned();
        let code = Code::UnknownPath.as_str().to_owned();
        return Err(signed.refused(&Refused { status: StatusCode::NOT_FOUND, code, message }));
    };
    let text = form.get(list.field);
    let to = |text: &str| {
        let kept = list.kept.iter().map(|name| (*name, form.get(name)));
        link(list.path, &kept.chain([(list.field, text)]).collect::<Vec<_>>())
    };
    if text.is_empty() {
        return Ok(Redirect::to(&to("")).into_response());
    }
    // Nothing that could be found is longer.
    if text.chars().count() <= KeyRecord::MAX_SECRET_LEN {
        if let Some(known) = known(&signed, form.get("provider"), text).await? {
            let own = link(&format!("{}/{}", known.page, known.id), &[("provider", &known.provider)]);
            let to = if list.path == EVENTS { to(&known.id) } else { own };
            return Ok(Redirect::to(&to).into_response());
        }
        if finds(&signed, list, form.get("provider"), text).await? {
            return Ok(Redirect::to(&to(text)).into_response());
        }
    }
    let message = signed.visitor.t(
        "Nothing here is called that, and no key or token is that.",
        "没有名称、备注或编号与此相符的项目，也没有这个密钥或令牌。",
    );
    let code = "nothing_found".to_owned();
    let nothing = Refused { status: StatusCode::NOT_FOUND, code, message: message.to_owned() };
    Ok(signed.went(&to(""), Err(nothing)))
}

/// Every other form becomes a change, of which the API asks where it comes from. This one only asks.
fn is_own(signed: &Signed, form: &Form) -> Result<(), Failure> {
    if bool::from(form.get("csrf").as_bytes().ct_eq(signed.session.csrf.as_bytes())) {
        return Ok(());
    }
    let message = "This form is not from a page of this session: load the page anew.".to_owned();
    let code = Code::Csrf.as_str().to_owned();
    Err(signed.refused(&Refused { status: StatusCode::FORBIDDEN, code, message }))
}

/// A key or token that was written out in full.
struct Known {
    page: &'static str,
    provider: String,
    id: String,
}

/// Found by its digest, first with the provider that is looked at; lists of the default one do not name it.
async fn known(signed: &Signed, provider: &str, text: &str) -> Result<Option<Known>, Failure> {
    let mut providers: Vec<view::Provider> = signed.get("/admin/providers").await?;
    providers.sort_by_key(|one| if provider.is_empty() { !one.default } else { one.name != provider });
    for provider in providers.into_iter().map(|one| one.name) {
        let places = [
            ("/admin/api-keys", "/keys", KeyId::derive(&provider, text).to_string()),
            ("/admin/tokens", "/tokens", TokenId::derive(&provider, text).to_string()),
        ];
        for (api, page, id) in places {
            let path = link(&format!("{api}/{id}"), &[("provider", &provider)]);
            match signed.api.get::<IgnoredAny>(&path).await {
                Ok(_) => return Ok(Some(Known { page, provider, id })),
                Err(refused) if refused.status == StatusCode::NOT_FOUND => {}
                Err(refused) => return Err(signed.refused(&refused)),
            }
        }
    }
    Ok(None)
}

/// What all pages of lists say.
#[derive(Deserialize)]
struct Counted {
    total: usize,
}

/// Whatever else the list goes by: a key that is not in the state that is looked at is there all the same.
async fn finds(signed: &Signed, list: &List, provider: &str, text: &str) -> Result<bool, Failure> {
    if list.path == SETTINGS {
        let configuration: view::Configuration = signed.get(list.api).await?;
        return Ok(configuration.settings.iter().any(|setting| settings::is_like(setting, text)));
    }
    let path = link(list.api, &[("provider", provider), (list.field, text), ("pageSize", "1")]);
    Ok(signed.get::<Counted>(&path).await?.total > 0)
}
