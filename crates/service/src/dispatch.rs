//! The way of a request: who asks, for what, is it allowed, one transaction, an answer.
//!
//! The order is AWS's: a request is authenticated before anything is said about its content, and
//! throttled before it costs anything. A handler that stages writes runs again when its transaction
//! met a conflict, on a newer snapshot, up to [`ATTEMPTS`] times.
//!
//! Answers of pure reads are kept until the state changes: a poller that asks the same question of
//! the same revision gets the same bytes with a new request id. Identity, signature and throttling
//! are judged every time.

use crate::call::{Awaited, Call, Environment};
use crate::error::Error;
use crate::identity::{Identity, Lookup};
use crate::inspect::{Inspection, first_unhonoured, inspect};
use crate::operation::{Input, Kind, Operation, Service, SetUp};
use crate::throttle::Throttle;
use base::Timestamp;
use base::volume::State;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use store::Store;
use wire::Protocol;
use wire::sigv4::{self, Flavour, RequestParts, Rules, SigningKeyCache};

/// How often a request whose transaction meets conflicts is tried. Every failure means that another
/// request succeeded, so this is only reached under absurd contention.
const ATTEMPTS: usize = 100;

/// How long an answer is held back at most ([`Call::answer_when`]).
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest client token, in characters.
const TOKEN_LENGTH: usize = 64;

/// How long the answer to a client token is remembered, in the region's milliseconds (24 hours).
const TOKEN_LIFE_MILLIS: i64 = 24 * 3_600_000;

/// A request as HTTP brought it; the same parts that a signature covers.
pub type Request<'a> = RequestParts<'a>;

/// What goes back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub content_type: Cow<'static, str>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Request id, for the header; it is in the body as well where the protocol says so.
    pub request_id: String,
    /// The body in three chunks, of which the outer ones may be shared with other answers.
    pub body: [Bytes; 3],
}

/// How callers are known.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// Signatures are verified against this lookup.
    Sigv4(Lookup),
    /// Any key, or none, is the root of the account.
    Open,
}

struct Served {
    model: &'static wire::ServiceModel,
    rules: Rules,
    operations: HashMap<&'static str, &'static Operation>,
    set_up: Option<SetUp>,
}

/// All services behind one port.
pub struct Dispatcher {
    services: HashMap<&'static str, Served>,
    environment: Arc<Environment>,
    store: Arc<dyn Store>,
    authentication: Authentication,
    throttle: Option<Throttle>,
    signing_keys: SigningKeyCache,
    root: Identity,
    ready: RwLock<HashSet<(&'static str, String, String)>>,
    answers: Mutex<Answers>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("environment", &self.environment).finish_non_exhaustive()
    }
}

/// An encoded answer that may be given again under another request id.
#[derive(Clone)]
struct Reply {
    status: u16,
    content_type: Cow<'static, str>,
    headers: Vec<(String, String)>,
    head: Bytes,
    id_in_body: bool,
    tail: Bytes,
}

impl Reply {
    fn new(response: wire::server::Response) -> Self {
        Reply {
            status: response.status,
            content_type: response.content_type.into(),
            headers: response.headers,
            head: response.head.into(),
            id_in_body: response.id_in_body,
            tail: response.tail.into(),
        }
    }

    fn answer(self, request_id: String) -> Answer {
        let id = if self.id_in_body { request_id.clone().into() } else { Bytes::new() };
        Answer {
            status: self.status,
            content_type: self.content_type,
            headers: self.headers,
            body: [self.head, id, self.tail],
            request_id,
        }
    }
}

/// The stored answer to a client token.
#[derive(Clone, Serialize, Deserialize)]
struct TokenRecord {
    v: u16,
    canonical: String,
    status: u16,
    content_type: String,
    head: String,
    id_in_body: bool,
    tail: String,
    expires: Timestamp,
}

impl TokenRecord {
    fn new(reply: &Reply, canonical: String, expires: Timestamp) -> Self {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        TokenRecord {
            v: 1,
            canonical,
            status: reply.status,
            content_type: reply.content_type.clone().into_owned(),
            head: text(&reply.head),
            id_in_body: reply.id_in_body,
            tail: text(&reply.tail),
            expires,
        }
    }

    fn reply(&self) -> Reply {
        Reply {
            status: self.status,
            content_type: self.content_type.clone().into(),
            headers: Vec::new(),
            head: self.head.clone().into(),
            id_in_body: self.id_in_body,
            tail: self.tail.clone().into(),
        }
    }
}

/// A request whose service and caller are known.
struct Asked<'a> {
    served: &'a Served,
    request: &'a Request<'a>,
    region: &'a str,
    identity: &'a Identity,
    request_id: &'a str,
}

impl<'a> Asked<'a> {
    fn call(&self, environment: &'a Environment, snapshot: store::Snapshot) -> Call<'a> {
        Call::new(environment, snapshot, self.region, self.identity, self.request_id)
    }

    /// What makes two requests the same question, in whatever protocol it is asked; `None` for a
    /// presigned URL, which differs every time.
    fn question(&self) -> Option<Vec<u8>> {
        let header = |wanted: &str| {
            let found = self.request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(wanted));
            found.map_or(&b""[..], |(_, value)| value)
        };
        let parts = [
            self.identity.arn.as_bytes(),
            self.region.as_bytes(),
            self.served.model.name.as_bytes(),
            self.request.method.as_bytes(),
            self.request.path.as_bytes(),
            header("content-type"),
            header("x-amz-target"),
            header("smithy-protocol"),
            self.request.body,
        ];
        self.request.query.is_empty().then(|| parts.join(&0))
    }
}

/// A request whose operation and input are known.
struct Task {
    operation: &'static Operation,
    protocol: Protocol,
    input: Box<dyn Input>,
    inspection: Inspection,
}

impl Task {
    fn reply(&self, model: &'static wire::ServiceModel, output: &dyn wire::Shape) -> Reply {
        Reply::new(wire::server::encode(model, self.protocol, self.operation.model, output, 0))
    }
}

#[derive(Default)]
struct Answers {
    revision: u64,
    bytes: usize,
    kept: HashMap<Vec<u8>, Reply>,
}

/// Most bytes of kept answers.
const ANSWERS_LIMIT: usize = 16 << 20;

/// Stands for the service of a request that names none.
static UNKNOWN: wire::ServiceModel = wire::ServiceModel {
    name: "",
    service_id: "",
    protocols: &[Protocol::Ec2],
    api_version: "",
    xml_namespace: "",
    signing_name: "",
    endpoint_prefix: "",
    target_prefix: "",
    operations: &[],
};

impl Dispatcher {
    /// Joins services over a store.
    pub fn new(
        services: Vec<Service>,
        environment: Arc<Environment>,
        store: Arc<dyn Store>,
        authentication: Authentication,
        throttled: bool,
    ) -> Self {
        let root = Identity::root(&environment.account_id);
        environment.services.fill(&services);
        let services = services
            .into_iter()
            .map(|service| {
                let operations = service
                    .operations
                    .iter()
                    .map(|o| (o.model.name, *o))
                    .collect::<HashMap<_, _>>();
                let served = Served {
                    model: service.model,
                    rules: rules(service.model),
                    operations,
                    set_up: service.set_up,
                };
                (service.model.signing_name, served)
            })
            .collect();
        Dispatcher {
            services,
            environment,
            store,
            authentication,
            throttle: throttled.then(Throttle::default),
            signing_keys: SigningKeyCache::new(1_024),
            root,
            ready: RwLock::default(),
            answers: Mutex::default(),
        }
    }

    /// Answers a request. Never fails: a refusal is an answer too.
    pub async fn dispatch(&self, request: &Request<'_>) -> Answer {
        if let Some(name) = request.path.strip_prefix("/_gureum/") {
            return self.administer(request.method, name).await;
        }
        let request_id = base::id::request_id(&mut fastrand::Rng::new());
        let mut served = None;
        let reply = match self.answer(request, &request_id, &mut served).await {
            Ok(reply) => reply,
            Err(error) => {
                // Before the service is known, errors are written as EC2 does.
                let (model, protocol) = served
                    .map_or((&UNKNOWN, Protocol::Ec2), |served: &Served| {
                        (served.model, wire::server::protocol(served.model, request))
                    });
                Reply::new(wire::server::encode_error(model, protocol, &error.into()))
            }
        };
        reply.answer(request_id)
    }

    async fn answer<'d>(
        &'d self,
        request: &Request<'_>,
        request_id: &str,
        spoken: &mut Option<&'d Served>,
    ) -> Result<Reply, Error> {
        let claim = sigv4::parse(request);
        let named = claim.as_ref().ok().and_then(|c| self.services.get(c.service.as_ref()));
        let served = match (named, &claim, &self.authentication) {
            (Some(served), ..) => served,
            (None, Ok(claim), Authentication::Sigv4(_)) => {
                return Err(Error::client(
                    "SignatureDoesNotMatch",
                    format!(
                        "Credential should be scoped to a service that this region has; {:?} is not one.",
                        claim.service
                    ),
                )
                .with_status(403));
            }
            _ => self.service_of(request)?,
        };
        *spoken = Some(served);
        let region = claim.as_ref().map_or("us-east-1".into(), |claim| claim.region.to_string());
        let identity = self.authenticate(request, claim, served)?;
        if !is_region(&region) {
            return Err(Error::client(
                "SignatureDoesNotMatch",
                "Credential should be scoped to a valid region.",
            )
            .with_status(403));
        }
        self.prepare(served, &region, &identity).await?;
        let asked = Asked { served, request, region: &region, identity: &identity, request_id };
        let question = asked.question();
        if let Some(question) = &question
            && self.throttle.is_none()
            && let Some(kept) = self.kept(question)
        {
            return Ok(kept);
        }
        let call = wire::server::open(served.model, request)
            .map_err(|error| error.to_api(wire::server::protocol(served.model, request)))?;
        let name = call.operation.name;
        let operation = served.operations.get(name).copied().ok_or_else(|| {
            Error::unsupported(format!("The operation {name} is not built in gureum yet."))
        })?;
        let mut input = (operation.input)();
        call.decode(input.shape_mut()).map_err(|error| error.to_api(call.protocol))?;
        wire::validate::validate(call.protocol, input.shape_mut())?;
        let inspection = inspect(input.shape_mut(), token_member(operation));
        if let Some(path) = first_unhonoured(&inspection.paths, operation.honours) {
            return Err(Error::unsupported(format!(
                "The parameter {path} of {name} is not built in gureum yet."
            )));
        }
        if let Some(throttle) = &self.throttle {
            let key = format!("{}/{region}/{name}", identity.account_id);
            let now = Timestamp::wall();
            let rate = operation.rate_of(&inspection.paths);
            // The two ways to describe have a bucket each: they differ in size.
            let kind = if rate == crate::throttle::UNFILTERED { "/unfiltered" } else { "" };
            let words = |error: Error| error.in_words_of(operation.model);
            throttle.take(&format!("{key}{kind}"), rate, 1.0, now).map_err(words)?;
            if let Some((rate, tokens)) = operation.resources_of(&inspection.canonical) {
                throttle.take(&format!("{key}/resources"), rate, tokens, now).map_err(words)?;
            }
        }
        let task = Task { operation, protocol: call.protocol, input, inspection };
        let reply = match (operation.kind, question) {
            (Kind::Read, Some(question)) => self.read(&asked, &task, question),
            _ => self.run(&asked, &task).await,
        };
        reply.map_err(|error| error.in_words_of(operation.model))
    }

    /// The service of a request that names none: by its operation, since their names differ.
    fn service_of(&self, request: &Request<'_>) -> Result<&Served, Error> {
        let form = wire::form::Form::parse(request.query, request.body)
            .map_err(|error| error.to_api(Protocol::Ec2))?;
        let action = form.get("Action").unwrap_or_default();
        let found = self.services.values().find(|served| served.model.operation(action).is_some());
        found.ok_or_else(|| {
            let error = if action.is_empty() {
                wire::DecodeError::MissingAction
            } else {
                let version = form.get("Version").unwrap_or_default().to_owned();
                wire::DecodeError::InvalidAction { action: action.to_owned(), version }
            };
            error.to_api(Protocol::Ec2).into()
        })
    }

    fn authenticate(
        &self,
        request: &Request<'_>,
        claim: Result<sigv4::Claim<'_>, sigv4::Error>,
        served: &Served,
    ) -> Result<Identity, Error> {
        let Authentication::Sigv4(lookup) = self.authentication else {
            return Ok(self.root.clone());
        };
        let refuse = |error: sigv4::Error| {
            let flavour = match wire::server::protocol(served.model, request) {
                Protocol::Ec2 => Flavour::Ec2,
                Protocol::Query | Protocol::RestXml => Flavour::Query,
                _ => Flavour::Json,
            };
            let answer = error.answer(flavour);
            Error::client(answer.code, answer.message).with_status(answer.status)
        };
        let claim = claim.map_err(refuse)?;
        if claim.session_token.is_some() {
            // No temporary credentials are issued yet, so every session token is somebody else's.
            return Err(refuse(sigv4::Error::UnknownAccessKey));
        }
        let credential = lookup(&self.store.snapshot(), &claim.access_key_id)
            .ok_or_else(|| refuse(sigv4::Error::UnknownAccessKey))?;
        let key = self.signing_keys.get(&claim, &credential.secret);
        sigv4::verify(request, &claim, &key, served.rules, Timestamp::wall()).map_err(refuse)?;
        Ok(credential.identity)
    }

    /// Sets an account's region up before its first request.
    async fn prepare(
        &self,
        served: &Served,
        region: &str,
        identity: &Identity,
    ) -> Result<(), Error> {
        let Some(set_up) = served.set_up else { return Ok(()) };
        let key = (served.model.name, region.to_owned(), identity.account_id.clone());
        if self.ready.read().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let mut call =
                Call::new(&self.environment, self.store.snapshot(), region, identity, "set-up");
            set_up(&mut call)?;
            if call.is_read_only() || self.commit(call).await? {
                self.ready.write().unwrap_or_else(PoisonError::into_inner).insert(key);
                return Ok(());
            }
        }
        Err(Error::internal("the region could not be set up: endless conflicts"))
    }

    /// Makes the next request of every region set it up again: what set-up reads has changed.
    pub fn refresh(&self) {
        self.ready.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Commits what a call staged; false if it met a conflict.
    async fn commit(&self, call: Call<'_>) -> Result<bool, Error> {
        let (txn, _) = call.into_parts()?;
        match self.store.txn(txn).await {
            Ok(result) => Ok(result.succeeded),
            Err(error) if error.is_storage_full() => {
                tracing::error!(%error, "the store's disk is full");
                Err(Error::client(
                    "InsufficientStorage",
                    "The region's disk is full: nothing was changed.",
                )
                .with_status(503))
            }
            Err(error) => Err(Error::internal(error)),
        }
    }

    /// Holds an answer back until every record is as its request awaits it, for [`PATIENCE`] at
    /// most: what is late then is seen by those who describe it.
    async fn wait_for(&self, awaited: &[Awaited]) {
        let wait = async {
            for awaited in awaited {
                loop {
                    let snapshot = self.store.snapshot();
                    if (awaited.until)(snapshot.get(&awaited.key).as_ref()) {
                        break;
                    }
                    let watch = self.store.watch(&awaited.key, snapshot.revision() + 1);
                    drop(snapshot);
                    let changed = match watch {
                        Ok(mut watch) => watch.next().await.is_some(),
                        Err(_) => false,
                    };
                    if !changed {
                        // The watch fell behind, or could not be had: look again soon.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            tracing::warn!(?awaited, "an answer goes out before what it waited for");
        }
    }

    /// The kept answer to a question, if nothing has changed since.
    fn kept(&self, question: &[u8]) -> Option<Reply> {
        let revision = self.store.snapshot().revision();
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.kept.get(question).filter(|_| answers.revision == revision).cloned()
    }

    /// A pure read, whose answer is kept.
    fn read(&self, asked: &Asked<'_>, task: &Task, question: Vec<u8>) -> Result<Reply, Error> {
        let snapshot = self.store.snapshot();
        let revision = snapshot.revision();
        let mut call = asked.call(&self.environment, snapshot);
        let output = (task.operation.run)(&mut call, task.input.as_any())?;
        if task.inspection.dry_run {
            return Err(dry_run());
        }
        let reply = task.reply(asked.served.model, output.as_ref());
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.revision < revision {
            *answers = Answers { revision, ..Answers::default() };
        }
        let size = question.len() + reply.head.len() + reply.tail.len();
        if answers.bytes + size > ANSWERS_LIMIT {
            // Full of old questions, most likely: the newest are the ones that are asked again.
            answers.kept.clear();
            answers.bytes = 0;
        }
        if answers.revision == revision && size <= ANSWERS_LIMIT {
            answers.bytes += size;
            answers.kept.insert(question, reply.clone());
        }
        Ok(reply)
    }

    async fn run(&self, asked: &Asked<'_>, task: &Task) -> Result<Reply, Error> {
        let Task { operation, input, inspection, .. } = task;
        if let Some(token) = &inspection.token {
            check_token(operation.model, token)?;
        }
        let token_key = inspection.token.as_ref().map(|token| {
            let (name, account) = (operation.model.name, &asked.identity.account_id);
            format!("/{}/client-token/{account}/{name}/{token}", asked.region)
        });
        for _ in 0..ATTEMPTS {
            let mut call = asked.call(&self.environment, self.store.snapshot());
            if let Some(key) = &token_key
                && let Some(known) = call.get::<TokenRecord>(key)?
                && known.expires > call.now
            {
                if known.canonical != inspection.canonical {
                    return Err(Error::client(
                        "IdempotentParameterMismatch",
                        "The client token that you provided matches an existing request, but the parameters differ.",
                    ));
                }
                return Ok(known.reply());
            }
            let mut answer = || (operation.run)(&mut call, input.as_any());
            let output = match operation.kind {
                Kind::Live => blocking(answer)?,
                _ => answer()?,
            };
            if inspection.dry_run {
                return Err(dry_run());
            }
            if let Some(refusal) = call.partial_refusal() {
                if call.is_read_only() || self.commit(call).await? {
                    return Err(refusal);
                }
                continue;
            }
            let reply = task.reply(asked.served.model, output.as_ref());
            if let Some(key) = &token_key {
                let expires = call.now.plus_millis(TOKEN_LIFE_MILLIS);
                call.put(key, TokenRecord::new(&reply, inspection.canonical.clone(), expires));
            }
            let awaited = call.awaited();
            if call.is_read_only() || self.commit(call).await? {
                if !awaited.is_empty() {
                    self.wait_for(&awaited).await;
                }
                return Ok(reply);
            }
        }
        Err(Error::internal(format!("{}: endless conflicts", operation.model.name)))
    }

    /// Deletes the answers to client tokens that have expired. To be called every hour.
    ///
    /// # Errors
    /// The store refused.
    pub async fn forget_tokens(&self) -> Result<(), Error> {
        let now = self.environment.clock.now();
        let snapshot = self.store.snapshot();
        let expired: Vec<_> = snapshot
            .scan("/")
            .filter(|kv| kv.key().split('/').nth(2) == Some("client-token"))
            .filter(|kv| kv.decode::<TokenRecord>().is_ok_and(|t| t.expires <= now))
            .collect();
        for batch in expired.chunks(64) {
            let txn = store::Txn {
                compares: Vec::new(),
                success: batch.iter().map(|kv| store::Op::delete(kv.key())).collect(),
                failure: Vec::new(),
            };
            self.store.txn(txn).await.map_err(Error::internal)?;
        }
        Ok(())
    }

    async fn administer(&self, method: &str, name: &str) -> Answer {
        let result = match (method, name) {
            ("GET", "health") => Ok(self.health()),
            ("POST", "reset") => self.reset().await,
            ("GET", name) if name.starts_with("volumes/") => self.volume(&name["volumes/".len()..]),
            _ => Err((404, format!("there is no {method} /_gureum/{name}"))),
        };
        let (status, body) = match result {
            Ok(body) => (200, body),
            Err((status, message)) => (status, serde_json::json!({ "error": message })),
        };
        Answer {
            status,
            content_type: "application/json".into(),
            headers: Vec::new(),
            request_id: String::new(),
            body: [Bytes::from(format!("{body}\n")), Bytes::new(), Bytes::new()],
        }
    }

    fn health(&self) -> serde_json::Value {
        let mut services: Vec<_> = self.services.keys().copied().collect();
        services.sort_unstable();
        serde_json::json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "driver": self.environment.driver.name(),
            "account": self.environment.account_id,
            "services": services,
            "time": self.environment.clock.now().iso_millis(),
        })
    }

    /// What the node knows of a volume that no API shows yet: BurstBalance is a metric.
    fn volume(&self, id: &str) -> Result<serde_json::Value, (u16, String)> {
        match self.environment.driver.volume_state(id) {
            State::Ready(ready) => Ok(serde_json::json!({
                "volume": id,
                "size_gib": ready.size_gib,
                "limits": ready.limits,
                "burst_balance": ready.burst_balance,
                "filled_percent": ready.filled_percent,
                "attached": ready.attached,
                "impaired": ready.impaired,
            })),
            _ => Err((404, format!("there is no volume {id} on this node"))),
        }
    }

    /// Wipes the state of a region that is both simulated and open: what test suites written
    /// against emulators do between tests.
    async fn reset(&self) -> Result<serde_json::Value, (u16, String)> {
        let open = matches!(self.authentication, Authentication::Open);
        if !open || self.environment.driver.name() != "sim" {
            return Err((403, "only a region with --driver sim and --auth open is reset".into()));
        }
        let prefixes: HashSet<String> = self
            .store
            .snapshot()
            .scan("/")
            .filter_map(|kv| kv.key().split('/').nth(1).map(|first| format!("/{first}/")))
            .filter(|prefix| !KEPT_AT_RESET.contains(&prefix.as_str()))
            .collect();
        let txn = store::Txn {
            compares: Vec::new(),
            success: prefixes.into_iter().map(store::Op::delete_prefix).collect(),
            failure: Vec::new(),
        };
        self.store.txn(txn).await.map_err(|error| (500, error.to_string()))?;
        self.refresh();
        Ok(serde_json::json!({ "status": "reset" }))
    }
}

/// What a reset leaves: the root's access key, and what is known of the node's images.
const KEPT_AT_RESET: [&str; 2] = ["/iam/", "/node-image/"];

/// Does work that may wait for a disk or a server, where this thread's other tasks can move to
/// another one.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The answer to a request whose body was not read to its end.
pub(crate) fn too_large(limit: usize) -> Answer {
    let request_id = base::id::request_id(&mut fastrand::Rng::new());
    let error = Error::client(
        "RequestEntityTooLarge",
        format!("The body of the request is larger than {limit} bytes, or was cut off."),
    )
    .with_status(413);
    Reply::new(wire::server::encode_error(&UNKNOWN, Protocol::Ec2, &error.into()))
        .answer(request_id)
}

/// The member that is an operation's idempotency token. Where the model has a ClientToken that it
/// does not mark as one, as of CreateVpcEndpoint, it is one nevertheless, unless the handler sees to
/// it.
fn token_member(operation: &Operation) -> &'static str {
    const UNMARKED: &str = "ClientToken";
    match operation.model.idempotency_token {
        "" if !operation.honours.contains(&UNMARKED) => UNMARKED,
        marked => marked,
    }
}

/// Client tokens are keys of the store, so their form matters (EC2 API Reference, "Ensuring
/// idempotency": at most 64 ASCII characters). A model may allow longer ones.
fn check_token(operation: &wire::OperationModel, token: &str) -> Result<(), Error> {
    let members = operation.input.map_or(&[][..], |input| input.target.members());
    let most = members
        .iter()
        .find(|member| member.name == operation.idempotency_token)
        .and_then(|member| member.target.constraints?.max)
        .map_or(TOKEN_LENGTH as f64, |most| most.max(TOKEN_LENGTH as f64));
    if token.len() as f64 <= most && token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(());
    }
    Err(Error::invalid_parameter_value(format!(
        "Value ({}) for parameter clientToken is invalid. A client token has at most \
         {most} ASCII characters.",
        token.chars().take(2 * TOKEN_LENGTH).collect::<String>()
    )))
}

/// What a service lets differ in signatures. Where a body can be a stream of bytes, a client may
/// leave it out of the signature; what it holds is checked in another way then.
fn rules(model: &wire::ServiceModel) -> Rules {
    let takes_streams = model.operations.iter().any(|operation| {
        let input = operation.input.map(|input| input.target);
        input.is_some_and(|input| {
            let payload = input.traits.map_or("", |traits| traits.payload);
            let mut members = input.members().iter();
            members.any(|m| m.name == payload && matches!(m.target.kind, wire::Kind::Blob))
        })
    });
    Rules { unsigned_payload: takes_streams, ..Rules::STANDARD }
}

pub(crate) fn dry_run() -> Error {
    Error::client("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        .with_status(412)
}

/// Whether a text has the form of a region name, such as `us-east-1` or `ap-southeast-2`. Any
/// region is served.
fn is_region(name: &str) -> bool {
    let mut parts = name.split('-');
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    name.len() <= 32
        && parts.next().is_some_and(letters)
        && parts.next_back().is_some_and(|last| {
            (1..=2).contains(&last.len()) && last.bytes().all(|b| b.is_ascii_digit())
        })
        && {
            let middle: Vec<_> = parts.collect();
            !middle.is_empty() && middle.into_iter().all(letters)
        }
}
