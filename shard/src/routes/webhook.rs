//! `/api/v1/webhooks/...`: where users want to be told what happens.

use std::rc::Rc;

use sluice_net::Request;
use sluice_protocols::api::{
    AttemptListView, PingView, WebhookEdit, WebhookEvent, WebhookListView, WebhookRequest, WebhookView,
    webhook_path,
};
use sluice_protocols::http::{Method, Response};
use sluice_protocols::ids::WebhookId;
use sluice_protocols::problem::Problem;

use super::not_found;
use crate::auth::Principal;
use crate::service::Core;
use crate::webhooks::{MadeWebhook, view};

/// Where everything here stands.
pub(crate) const ROOT: &str = "/api/v1/webhooks";

/// A path under [`ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    All,
    /// With the id as it was sent, here and below.
    One(&'a str),
    Rotate(&'a str),
    Test(&'a str),
    Deliveries(&'a str),
}

impl<'a> Place<'a> {
    /// The place of a path, if it is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        if rest.is_empty() {
            return Some(Self::All);
        }
        let below = rest.strip_prefix('/')?;
        let (id, verb) = below.split_once('/').map_or((below, None), |(id, verb)| (id, Some(verb)));
        match verb {
            _ if id.is_empty() => None,
            None => Some(Self::One(id)),
            Some("rotate") => Some(Self::Rotate(id)),
            Some("test") => Some(Self::Test(id)),
            Some("deliveries") => Some(Self::Deliveries(id)),
            Some(_) => None,
        }
    }

    /// The methods it takes.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::All => "GET, HEAD, POST, OPTIONS",
            Self::One(_) => "GET, HEAD, PATCH, DELETE, OPTIONS",
            Self::Rotate(_) | Self::Test(_) => "POST, OPTIONS",
            Self::Deliveries(_) => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether it takes this method, and which body comes with it.
    pub(crate) fn takes(self, method: Method) -> Option<WebhookBody> {
        let is_read = matches!(method, Method::Get | Method::Head);
        match self {
            Self::All if method == Method::Post => Some(WebhookBody::Json),
            Self::All | Self::Deliveries(_) => is_read.then_some(WebhookBody::None),
            Self::One(_) if method == Method::Patch => Some(WebhookBody::Patch),
            Self::One(_) => (is_read || method == Method::Delete).then_some(WebhookBody::None),
            Self::Rotate(_) | Self::Test(_) => (method == Method::Post).then_some(WebhookBody::None),
        }
    }
}

/// What body a request about webhooks has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebhookBody {
    None,
    Json,
    /// A merge patch.
    Patch,
}

/// Answers a request.
pub(crate) async fn serve(core: &Rc<Core>, who: &Principal, request: &Request) -> Result<Response, Problem> {
    let place = Place::of(request.head.path()).ok_or_else(|| not_found("webhook"))?;
    let id = |text: &str| text.parse::<WebhookId>().map_err(|_| not_found("webhook"));
    let (webhooks, now_ms) = (&core.webhooks, core.clock.unix_ms());
    match (place, request.head.method()) {
        (Place::All, Method::Post) => {
            let made = webhooks.make(who, WebhookRequest::parse(&request.body)?).await?;
            let location = webhook_path(made.webhook.id);
            Ok(shown_once(201, &made, now_ms).with_field("location", location))
        }
        (Place::All, _) => {
            let all = webhooks.list(who).await?;
            let webhooks = all.iter().map(|webhook| view(webhook, now_ms)).collect();
            Ok(Response::new(200).json(&WebhookListView { webhooks }))
        }
        (Place::One(text), Method::Patch) => {
            let id = id(text)?;
            let webhook = webhooks.edit(who, id, WebhookEdit::parse(&request.body)?).await?;
            Ok(Response::new(200).json(&view(&webhook, now_ms)))
        }
        (Place::One(text), Method::Delete) => {
            webhooks.delete(who, id(text)?).await?;
            Ok(Response::new(204))
        }
        (Place::One(text), _) => {
            let webhook = webhooks.get(who, id(text)?).await?;
            Ok(Response::new(200).json(&view(&webhook, now_ms)))
        }
        (Place::Rotate(text), _) => {
            let made = webhooks.rotate(who, id(text)?).await?;
            Ok(shown_once(200, &made, now_ms))
        }
        (Place::Test(text), _) => {
            let id = id(text)?;
            let ping = PingView {
                id: webhooks.ping(who, id).await?,
                event: WebhookEvent::Ping.name().to_owned(),
                location: format!("{}/deliveries", webhook_path(id)),
            };
            let location = ping.location.clone();
            Ok(Response::new(202).json(&ping).with_field("location", location))
        }
        (Place::Deliveries(text), _) => {
            let deliveries = webhooks.attempts(who, id(text)?).await?;
            Ok(Response::new(200).json(&AttemptListView { deliveries }))
        }
    }
}

/// With the secret, which is not shown again.
fn shown_once(status: u16, made: &MadeWebhook, now_ms: u64) -> Response {
    let view = WebhookView { secret: Some(made.secret.expose().to_string()), ..view(&made.webhook, now_ms) };
    Response::new(status).json(&view).with_field("cache-control", "no-store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_places_and_nothing_else_does() {
        let of = |rest: &str| Place::of(Box::leak(format!("{ROOT}{rest}").into_boxed_str()));
        assert_eq!(of(""), Some(Place::All));
        assert_eq!(of("/whk_1"), Some(Place::One("whk_1")));
        assert_eq!(of("/whk_1/rotate"), Some(Place::Rotate("whk_1")));
        assert_eq!(of("/whk_1/test"), Some(Place::Test("whk_1")));
        assert_eq!(of("/whk_1/deliveries"), Some(Place::Deliveries("whk_1")));
        for rest in ["/", "s", "//test", "/a/b", "/a/", "/a/test/", "/a/deliveries/b"] {
            assert_eq!(of(rest), None, "{rest}");
        }
    }

    #[test]
    fn each_place_takes_exactly_the_methods_it_allows() {
        use Method::{Delete, Get, Head, Patch, Post, Put};
        for place in
            [Place::All, Place::One("x"), Place::Rotate("x"), Place::Test("x"), Place::Deliveries("x")]
        {
            for (method, name) in [
                (Get, "GET"),
                (Head, "HEAD"),
                (Post, "POST"),
                (Put, "PUT"),
                (Patch, "PATCH"),
                (Delete, "DELETE"),
            ] {
                let is_allowed = place.allow().split(", ").any(|allowed| allowed == name);
                assert_eq!(place.takes(method).is_some(), is_allowed, "{name} {place:?}");
            }
        }
    }
}
