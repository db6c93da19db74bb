//! Who asks: finds out by key or token, or refuses, and goes on with the user or passes the request on to their core.

use std::net::IpAddr;
use std::rc::Rc;

use sluice_net::Request;
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::Batch;

use super::{Asked, Core, Way};
use crate::audit::refused::LeftOut;
use crate::audit::{Actor, Author, Object, Outcome};
use crate::auth::browser::is_from_here;
use crate::auth::tokens::{Fingerprint, Means as TokenMeans};
use crate::auth::{self, CookieText, Denied, KeyMeans, KeyText, Passed, Shown};
use crate::routes;
use crate::routes::exchange::Exchange;

impl Core {
    pub(super) fn serve_user(self: &Rc<Self>, asked: Asked, request: Request, exchange: Exchange, way: Way) {
        let way = match way {
            Way::Proven(passed) => return self.welcome(asked, &passed, request, exchange),
            way => way,
        };
        match auth::shown(&request.head) {
            Ok(Shown::Key(text)) => {
                let text = *text;
                self.serve_key(asked, &text, request, exchange, way);
            }
            Ok(Shown::Token(token)) => {
                let fingerprint = auth::fingerprint(token);
                let (now, unix_ms) = (sluice_core::now(), self.clock.unix_ms());
                if let Some(who) = self.tokens.believed(&fingerprint, &self.revocations, now, unix_ms) {
                    self.metrics.tokens_hits.add(1);
                    return self.serve_proven(asked, &who, request, exchange);
                }
                self.metrics.tokens_misses.add(1);
                sluice_core::spawn(Rc::clone(self).serve_token(asked, fingerprint, request, exchange));
            }
            Ok(Shown::Cookie(text)) => {
                let text = *text;
                self.serve_cookie(asked, &text, request, exchange, way);
            }
            Err(denied) => self.deny_counted(&asked, exchange, &denied, request.peer.ip()),
        }
    }

    fn serve_cookie(
        self: &Rc<Self>,
        asked: Asked,
        text: &CookieText,
        request: Request,
        mut exchange: Exchange,
        way: Way,
    ) {
        let (now, address) = (sluice_core::now(), request.peer.ip());
        exchange.context.answer_by_cookie();
        let proven = match self.browsers.believed(text, &self.revocations, now) {
            Some(who) => Ok(who),
            None => match self.browsers.open(text) {
                Ok(opened) => Err(opened),
                Err(denied) => return self.deny_counted(&asked, exchange, &denied, address),
            },
        };
        if !is_from_here(&request.head) {
            self.metrics.browsers_cross_site.add(1);
            return self.deny(&asked, exchange, &Denied::CrossSite, address);
        }
        let opened = match proven {
            Ok(who) => {
                self.metrics.browsers_hits.add(1);
                return self.perform(asked, who, request, exchange);
            }
            Err(opened) => opened,
        };
        let shard = self.placement.shard_of(&opened.user);
        let owner = self.placement.owner(shard);
        if owner != self.id {
            return self.pass_on(owner, request, exchange, way, None);
        }
        self.metrics.browsers_misses.add(1);
        let (core, text) = (Rc::clone(self), *text);
        sluice_core::spawn(async move {
            let means = core.key_means();
            let checked = core.browsers.check(means, &text, &opened, shard, now).await;
            core.metrics.browsers_cached.set(core.browsers.len() as u64);
            match checked {
                Ok(who) => core.perform(asked, who, request, exchange),
                Err(denied) => core.deny(&asked, exchange, &denied, address),
            }
        });
    }

    pub(super) fn key_means(&self) -> KeyMeans<'_> {
        KeyMeans {
            store: &self.store,
            revocations: &self.revocations,
            limiter: &self.limiter,
            clock: &self.clock,
        }
    }

    fn serve_key(
        self: &Rc<Self>,
        asked: Asked,
        text: &KeyText,
        request: Request,
        exchange: Exchange,
        way: Way,
    ) {
        let (now, class) = (sluice_core::now(), asked.1.class());
        if let Some(who) = self.keys.believed(text, &self.revocations, now) {
            self.metrics.keys_hits.add(1);
            return self.perform(asked, who, request, exchange);
        }
        let user = match auth::parse(text) {
            Ok(key) => key.user(),
            Err(denied) => return self.deny_counted(&asked, exchange, &denied, request.peer.ip()),
        };
        let shard = self.placement.shard_of(&user);
        let owner = self.placement.owner(shard);
        if owner != self.id {
            return self.pass_on(owner, request, exchange, way, None);
        }
        // It does not count before it is known that nobody has it: after a start everybody behind an address may bring a
        // key at once. How many are looked at before the first one counts is bounded by the limit of the address.
        let address = request.peer.ip();
        if let Err(refused) = self.limiter.may_look_at(address, class, self.limiter.limits().ns(now)) {
            return exchange.limited(&refused);
        }
        self.metrics.keys_misses.add(1);
        let (core, text) = (Rc::clone(self), *text);
        sluice_core::spawn(async move {
            let means = core.key_means();
            let checked = core.keys.check(means, &text, shard, now).await;
            core.metrics.keys_cached.set(core.keys.len() as u64);
            match checked {
                Ok(who) => core.perform(asked, who, request, exchange),
                Err(denied @ (Denied::Missing | Denied::Unknown)) => {
                    core.deny_counted(&asked, exchange, &denied, address);
                }
                Err(denied) => core.deny(&asked, exchange, &denied, address),
            }
        });
    }

    /// Denies a request that shows no credential, what cannot be one, or a token that is not accepted, unless its address
    /// has shown too many of those.
    fn deny_counted(self: &Rc<Self>, asked: &Asked, exchange: Exchange, denied: &Denied, address: IpAddr) {
        let now_ns = self.limiter.limits().ns(sluice_core::now());
        match self.limiter.note_unauthorized(address, asked.1.class(), now_ns) {
            Ok(()) => self.deny(asked, exchange, denied, address),
            Err(refused) => exchange.limited(&refused),
        }
    }

    /// Checks a token that is not believed, and goes on with whom it proves.
    async fn serve_token(
        self: Rc<Self>,
        asked: Asked,
        fingerprint: Fingerprint,
        request: Request,
        exchange: Exchange,
    ) {
        let Ok(Shown::Token(token)) = auth::shown(&request.head) else {
            return self.deny(&asked, exchange, &Denied::Missing, request.peer.ip());
        };
        // As a key, it does not count meanwhile: everybody behind an address may bring one at once when their provider's
        // keys change.
        let (address, class) = (request.peer.ip(), asked.1.class());
        let now_ns = || self.limiter.limits().ns(sluice_core::now());
        if let Err(refused) = self.limiter.may_look_at(address, class, now_ns()) {
            return exchange.limited(&refused);
        }
        let means = TokenMeans {
            store: &self.store,
            clerk: &self.clerk,
            revocations: &self.revocations,
            unix_ms: self.clock.unix_ms(),
            address,
            request_id: exchange.context.request_id(),
        };
        let checked = self.tokens.check(token, fingerprint, means).await;
        self.metrics.tokens_cached.set(self.tokens.len() as u64);
        match checked {
            Ok(who) => self.serve_proven(asked, &who, request, exchange),
            Err(denied @ Denied::Token(_)) => self.deny_counted(&asked, exchange, &denied, address),
            Err(denied) => self.deny(&asked, exchange, &denied, address),
        }
    }

    /// Serves a request of somebody who was proven here, or passes it on to their core.
    fn serve_proven(self: &Rc<Self>, asked: Asked, who: &Passed, request: Request, exchange: Exchange) {
        let owner = self.placement.owner(who.shard);
        if owner == self.id {
            return self.welcome(asked, who, request, exchange);
        }
        self.pass_on(owner, request, exchange, Way::Direct, Some(Box::new(who.clone())));
    }

    /// Serves a request of a user of this core who was proven, here or elsewhere.
    fn welcome(self: &Rc<Self>, asked: Asked, who: &Passed, request: Request, exchange: Exchange) {
        let now = sluice_core::now();
        if let Some(who) = self.welcomed.find(who, now) {
            return self.perform(asked, who, request, exchange);
        }
        let (core, passed) = (Rc::clone(self), who.clone());
        sluice_core::spawn(async move {
            match core.limiter.recall(&core.store, &core.clock, passed.shard, passed.user).await {
                Ok(allowance) => {
                    let who = Rc::new(passed.with(allowance));
                    core.welcomed.insert(&passed, &who, now);
                    core.perform(asked, who, request, exchange);
                }
                Err(error) => core.deny(&asked, exchange, &Denied::Storage(error), request.peer.ip()),
            }
        });
    }

    fn deny(self: &Rc<Self>, asked: &Asked, exchange: Exchange, denied: &Denied, address: IpAddr) {
        let detail = denied.to_string();
        let overloaded = |detail| Problem::new(ProblemKind::Overloaded, detail).with_retry_after_s(1);
        let mut actor = Actor::Nobody;
        let problem = match denied {
            Denied::Missing | Denied::Unknown | Denied::Expired => {
                Problem::new(ProblemKind::Unauthorized, detail)
            }
            Denied::Session | Denied::SessionOver => {
                self.metrics.browsers_refused.add(1);
                return exchange.refuse(Problem::new(ProblemKind::Unauthorized, detail));
            }
            Denied::CrossSite => return exchange.refuse(Problem::new(ProblemKind::CrossSite, detail)),
            Denied::Token(_) => {
                self.metrics.tokens_refused.add(1);
                return exchange.refuse(Problem::new(ProblemKind::Unauthorized, detail));
            }
            Denied::Disabled(user) => {
                actor = Actor::User(*user);
                Problem::new(ProblemKind::Forbidden, detail)
            }
            Denied::NoUser => Problem::new(ProblemKind::Forbidden, detail),
            Denied::NoKeysYet | Denied::Busy => overloaded(detail),
            Denied::Storage(error) => routes::read_problem(error),
            // Whose name or address is taken is not for whoever comes with a token.
            Denied::Clerk(problem) if problem.status() < 500 => {
                tracing::warn!(kind = problem.kind().slug(), "no user was made for a token");
                Problem::new(ProblemKind::Forbidden, Denied::NoUser.to_string())
            }
            Denied::Clerk(problem) => problem.clone(),
        };
        self.metrics.keys_refused.add(1);
        if problem.kind() == ProblemKind::Forbidden {
            return self.forbid(asked, actor, address, exchange, problem);
        }
        exchange.refuse(problem);
    }

    /// Answers 403. What is for an office is told in the audit log before, within bounds, so that whoever has the answer
    /// finds the entry.
    pub(super) fn forbid(
        self: &Rc<Self>,
        asked: &Asked,
        actor: Actor,
        address: IpAddr,
        exchange: Exchange,
        problem: Problem,
    ) {
        let (access, target) = *asked;
        if !access.is_for_office() {
            return exchange.refuse(problem);
        }
        let who = match actor {
            Actor::User(user) => Some(user),
            Actor::Operator | Actor::Gateway | Actor::Nobody => None,
        };
        let at_ms = self.clock.unix_ms();
        if let Err(left_out) = self.refusals.take(who, at_ms) {
            match left_out {
                LeftOut::User => self.metrics.audit_refusals_left_out_user.add(1),
                LeftOut::Core => self.metrics.audit_refusals_left_out_core.add(1),
            }
            return exchange.refuse(problem);
        }
        let shard = match who {
            Some(user) => self.shard_of(&user),
            None => self.store.store().shard_count().shards().next().expect("there is at least one shard"),
        };
        let mut batch = Batch::new(shard);
        let (act, meant) = target.act();
        let object = meant.as_ref().map_or(Object::Named(""), Object::User);
        let author = Author::of_request(actor, address, exchange.context.request_id());
        author.tell_that(&mut batch, act, object, Outcome::Refused, at_ms);
        let commit = self.store.commit(batch);
        let core = Rc::clone(self);
        sluice_core::spawn(async move {
            match commit.await {
                Ok(_) => core.metrics.audit_refusals_told.add(1),
                Err(error) => {
                    core.metrics.audit_refusals_left_out_storage.add(1);
                    tracing::warn!(%error, "a refused administrative act is not in the audit log");
                }
            }
            exchange.refuse(problem);
        });
    }
}
