//! The way of a request: who asks, for what, is it allowed, one transaction, an answer.
//!
//! The order is AWS's: a request is authenticated before anything is said about its content, and
//! throttled before it costs anything. A handler that stages writes runs again when its transaction
//! met a conflict, on a newer snapshot, up to [`ATTEMPTS`] times.
//!
//! Answers of pure reads are kept until the state changes: a poller that asks the same question of
//! the same revision gets the same bytes with a new request id. Identity, signature and throttling
//! are judged every time.

use crate::call::{Call, Environment};
use crate::error::Error;
use crate::identity::{Identity, Lookup};
use crate::inspect::{Inspection, first_unhonoured, inspect};
use crate::operation::{Kind, Operation, Service, SetUp};
use crate::protocol;
use crate::throttle::Throttle;
use base::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use store::Store;
use wire::sigv4::{self, RequestParts, Rules, SigningKeyCache};

/// How often a request whose transaction meets conflicts is tried. Every failure means that another
/// request succeeded, so this is only reached under absurd contention.
const ATTEMPTS: usize = 100;

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
    pub content_type: &'static str,
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

/// The stored answer to a client token.
#[derive(Clone, Serialize, Deserialize)]
struct TokenRecord {
    v: u16,
    canonical: String,
    head: String,
    tail: String,
    expires: Timestamp,
}

#[derive(Default)]
struct Answers {
    revision: u64,
    bytes: usize,
    kept: HashMap<Vec<u8>, Tail>,
}

/// Most bytes of kept answers.
const ANSWERS_LIMIT: usize = 16 << 20;

/// An encoded answer without its request id: what stands before it and after it.
type Tail = (Bytes, Bytes);

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
        let services = services
            .into_iter()
            .map(|service| {
                let operations = service
                    .operations
                    .iter()
                    .map(|o| (o.model.name, *o))
                    .collect::<HashMap<_, _>>();
                let served = Served { model: service.model, operations, set_up: service.set_up };
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
        let mut protocol = protocol::Writer::unknown();
        match self.answer(request, &request_id, &mut protocol).await {
            Ok((head, tail)) => Answer {
                status: 200,
                content_type: protocol.content_type(),
                body: [head, Bytes::copy_from_slice(request_id.as_bytes()), tail],
                request_id,
            },
            Err(error) => Answer {
                status: error.status,
                content_type: protocol.content_type(),
                body: [protocol.error(&error, &request_id), Bytes::new(), Bytes::new()],
                request_id,
            },
        }
    }

    async fn answer(
        &self,
        request: &Request<'_>,
        request_id: &str,
        writer: &mut protocol::Writer,
    ) -> Result<Tail, Error> {
        let claim = sigv4::parse(request);
        let named = match &claim {
            Ok(claim) => self.services.get(claim.service.as_ref()),
            Err(_) => None,
        };
        let served = match named {
            Some(served) => served,
            None => match (&claim, &self.authentication) {
                (Ok(claim), Authentication::Sigv4(_)) => {
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
            },
        };
        writer.speak(served.model);
        let region = match &claim {
            Ok(claim) => claim.region.to_string(),
            Err(_) => "us-east-1".to_owned(),
        };
        let identity = self.authenticate(request, claim, writer)?;
        if !is_region(&region) {
            return Err(Error::client(
                "SignatureDoesNotMatch",
                "Credential should be scoped to a valid region.",
            )
            .with_status(403));
        }
        let operation = self.operation(served, request)?;
        self.prepare(served, &region, &identity).await?;
        if operation.kind == Kind::Read && self.throttle.is_none() {
            return self.read(served, operation, request, &region, &identity, request_id);
        }
        self.run(served, operation, request, &region, &identity, request_id).await
    }

    /// The service of an unsigned request: by its operation, since their names differ.
    fn service_of(&self, request: &Request<'_>) -> Result<&Served, Error> {
        let action = protocol::action(request)?;
        self.services
            .values()
            .find(|served| served.model.operations.iter().any(|o| o.name == action))
            .ok_or_else(|| invalid_action(&action))
    }

    fn authenticate(
        &self,
        request: &Request<'_>,
        claim: Result<sigv4::Claim<'_>, sigv4::Error>,
        writer: &protocol::Writer,
    ) -> Result<Identity, Error> {
        let Authentication::Sigv4(lookup) = self.authentication else {
            return Ok(self.root.clone());
        };
        let refuse = |error: sigv4::Error| {
            let answer = error.answer(writer.flavour());
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
        sigv4::verify(request, &claim, &key, Rules::STANDARD, Timestamp::wall()).map_err(refuse)?;
        Ok(credential.identity)
    }

    fn operation(
        &self,
        served: &Served,
        request: &Request<'_>,
    ) -> Result<&'static Operation, Error> {
        let action = protocol::action(request)?;
        if let Some(operation) = served.operations.get(action.as_ref()) {
            return Ok(operation);
        }
        if served.model.operations.iter().any(|o| o.name == action) {
            return Err(Error::unsupported(format!(
                "The operation {action} is not built in gureum yet."
            )));
        }
        Err(invalid_action(&action))
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

    /// A pure read: from the kept answers, or from the handler.
    fn read(
        &self,
        served: &Served,
        operation: &'static Operation,
        request: &Request<'_>,
        region: &str,
        identity: &Identity,
        request_id: &str,
    ) -> Result<Tail, Error> {
        let snapshot = self.store.snapshot();
        let revision = snapshot.revision();
        let key = [
            identity.arn.as_bytes(),
            region.as_bytes(),
            served.model.name.as_bytes(),
            protocol::question(request),
            request.body,
        ]
        .join(&0);
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.revision < revision {
                *answers = Answers { revision, ..Answers::default() };
            } else if answers.revision == revision
                && let Some(kept) = answers.kept.get(&key)
            {
                return Ok(kept.clone());
            }
        }
        let (input, inspection) = self.decode(served, operation, request)?;
        let mut call = Call::new(&self.environment, snapshot, region, identity, request_id);
        let output = (operation.run)(&mut call, input.as_any())?;
        if inspection.dry_run {
            return Err(dry_run());
        }
        let tail = protocol::encode(served.model, operation.model, output.as_ref());
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let size = key.len() + tail.0.len() + tail.1.len();
        if answers.revision == revision && answers.bytes + size <= ANSWERS_LIMIT {
            answers.bytes += size;
            answers.kept.insert(key, tail.clone());
        }
        Ok(tail)
    }

    fn decode(
        &self,
        served: &Served,
        operation: &'static Operation,
        request: &Request<'_>,
    ) -> Result<(Box<dyn crate::operation::Input>, Inspection), Error> {
        let mut input = (operation.input)();
        protocol::decode(served.model, operation.model, request, input.shape_mut())?;
        let inspection = inspect(input.shape_mut(), operation.model.idempotency_token);
        if let Some(path) = first_unhonoured(&inspection.paths, operation.honours) {
            return Err(Error::unsupported(format!(
                "The parameter {path} of {} is not built in gureum yet.",
                operation.model.name
            )));
        }
        Ok((input, inspection))
    }

    async fn run(
        &self,
        served: &Served,
        operation: &'static Operation,
        request: &Request<'_>,
        region: &str,
        identity: &Identity,
        request_id: &str,
    ) -> Result<Tail, Error> {
        let (input, inspection) = self.decode(served, operation, request)?;
        if let Some(throttle) = &self.throttle {
            let name = operation.model.name;
            let key = format!("{}/{region}/{name}", identity.account_id);
            throttle.take(&key, operation.rate_of(&inspection.paths), 1.0, Timestamp::wall())?;
        }
        let token_key = inspection.token.as_ref().map(|token| {
            let name = operation.model.name;
            format!("/{region}/client-token/{}/{name}/{token}", identity.account_id)
        });
        for _ in 0..ATTEMPTS {
            let mut call =
                Call::new(&self.environment, self.store.snapshot(), region, identity, request_id);
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
                return Ok((known.head.clone().into(), known.tail.clone().into()));
            }
            let output = (operation.run)(&mut call, input.as_any())?;
            if inspection.dry_run {
                return Err(dry_run());
            }
            if let Some(refusal) = call.partial_refusal() {
                if call.is_read_only() || self.commit(call).await? {
                    return Err(refusal);
                }
                continue;
            }
            let tail = protocol::encode(served.model, operation.model, output.as_ref());
            if let Some(key) = &token_key {
                let expires = call.now.plus_millis(TOKEN_LIFE_MILLIS);
                let canonical = inspection.canonical.clone();
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let (head, tail) = (text(&tail.0), text(&tail.1));
                call.put(key, TokenRecord { v: 1, canonical, head, tail, expires });
            }
            if call.is_read_only() || self.commit(call).await? {
                return Ok(tail);
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
            _ => Err((404, format!("there is no {method} /_gureum/{name}"))),
        };
        let (status, body) = match result {
            Ok(body) => (200, body),
            Err((status, message)) => (status, serde_json::json!({ "error": message })),
        };
        Answer {
            status,
            content_type: "application/json",
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

fn dry_run() -> Error {
    Error::client("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        .with_status(412)
}

fn invalid_action(action: &str) -> Error {
    Error::client(
        "InvalidAction",
        format!("The action {action} is not valid for this web service."),
    )
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
