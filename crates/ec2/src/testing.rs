//! A region for unit tests: a store in memory, a clock that stands still, and a driver that does
//! what a test tells it.

mod blocks;

pub(crate) use blocks::MemoryBlocks;

use crate::{image, region};
use base::Clock;
use base::key::{self, DataKey, Keys, WrappedKey};
use base::machine::{Console, Driver, InterfaceState, Spec, State};
use base::network::Plan;
use base::volume::{self, Driver as _};
use service::{Call, Effect, Environment, Error, Identity};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use store::Store;

/// The account of the tests.
pub(crate) const ACCOUNT: &str = "123456789012";

/// 2026-11-21T10:00:23Z: when tests begin.
const START: i64 = 1_795_255_223_000;

/// Remembers what it was told; knows of machines what a test said.
#[derive(Debug, Default)]
pub(crate) struct FakeDriver {
    states: Mutex<HashMap<String, State>>,
    interfaces: Mutex<HashMap<(String, String), InterfaceState>>,
    applied: Mutex<HashMap<String, (Spec, Option<u64>)>>,
    network: Mutex<Option<Plan>>,
    has_network: AtomicBool,
    told: AtomicUsize,
    volume_states: Mutex<HashMap<String, volume::State>>,
    volumes: Mutex<HashMap<String, (volume::Spec, Option<u64>)>>,
    task_states: Mutex<HashMap<String, volume::SnapshotState>>,
    tasks: Mutex<HashMap<String, volume::Task>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeDriver {
    /// From now on the machine is in this state.
    pub(crate) fn set(&self, id: &str, state: State) {
        lock(&self.states).insert(id.to_owned(), state);
    }

    /// From now on the machine is this far with an interface.
    pub(crate) fn set_interface(&self, machine: &str, interface: &str, state: InterfaceState) {
        lock(&self.interfaces).insert((machine.to_owned(), interface.to_owned()), state);
    }

    /// The last spec of a machine.
    pub(crate) fn spec(&self, id: &str) -> Option<Spec> {
        lock(&self.applied).get(id).map(|(spec, _)| spec.clone())
    }

    /// What the reconciler of a machine remembers of that spec.
    pub(crate) fn fingerprint(&self, id: &str) -> Option<u64> {
        lock(&self.applied).get(id).and_then(|(_, fingerprint)| *fingerprint)
    }

    /// How often it was told what a machine should be.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }

    /// The last network plan.
    pub(crate) fn network(&self) -> Option<Plan> {
        lock(&self.network).clone()
    }

    /// From now on the volume is in this state.
    pub(crate) fn set_volume(&self, id: &str, state: volume::State) {
        lock(&self.volume_states).insert(id.to_owned(), state);
    }

    /// From now on the task is this far.
    pub(crate) fn set_task(&self, id: &str, state: volume::SnapshotState) {
        lock(&self.task_states).insert(id.to_owned(), state);
    }

    /// The last spec of a volume.
    pub(crate) fn volume_spec(&self, id: &str) -> Option<volume::Spec> {
        lock(&self.volumes).get(id).map(|(spec, _)| spec.clone())
    }

    /// What the reconciler of a volume remembers of that spec.
    pub(crate) fn volume_fingerprint(&self, id: &str) -> Option<u64> {
        lock(&self.volumes).get(id).and_then(|(_, fingerprint)| *fingerprint)
    }

    /// A task that it was told.
    pub(crate) fn task(&self, id: &str) -> Option<volume::Task> {
        lock(&self.tasks).get(id).cloned()
    }

    /// From now on the driver has packets.
    pub(crate) fn with_network(&self) {
        self.has_network.store(true, Ordering::SeqCst);
    }
}

impl volume::Driver for FakeDriver {
    fn apply_volume(&self, spec: volume::Spec) {
        lock(&self.volumes).insert(spec.id.clone(), (spec, None));
    }

    fn volume_state(&self, id: &str) -> volume::State {
        lock(&self.volume_states).get(id).cloned().unwrap_or(volume::State::Absent)
    }

    fn forget_volume(&self, id: &str) {
        lock(&self.volume_states).remove(id);
    }

    fn apply_task(&self, task: volume::Task) {
        lock(&self.tasks).insert(task.id.clone(), task);
    }

    fn task_state(&self, id: &str) -> Option<volume::SnapshotState> {
        lock(&self.task_states).get(id).cloned()
    }

    fn forget_task(&self, id: &str) {
        lock(&self.task_states).remove(id);
    }
}

/// Keys whose data keys are their own wrapping.
#[derive(Debug)]
struct FakeKeys;

impl Keys for FakeKeys {
    fn resolve(
        &self,
        region: &str,
        account: &str,
        reference: Option<&str>,
    ) -> Result<String, key::Error> {
        match reference {
            None | Some("alias/aws/ebs") => Ok(format!(
                "arn:aws:kms:{region}:{account}:key/00000000-0000-4000-8000-000000000000"
            )),
            Some(arn) if arn.contains(":key/") => Ok(arn.to_owned()),
            Some(other) => Err(key::Error::NotFound(other.to_owned())),
        }
    }

    fn generate(&self, key_arn: &str) -> Result<WrappedKey, key::Error> {
        Ok(WrappedKey { key_arn: key_arn.to_owned(), ciphertext: "AA==".to_owned() })
    }

    fn unwrap(&self, _: &WrappedKey) -> Result<DataKey, key::Error> {
        Ok(DataKey([0; 32]))
    }

    fn rewrap(&self, wrapped: &WrappedKey, key_arn: &str) -> Result<WrappedKey, key::Error> {
        Ok(WrappedKey { key_arn: key_arn.to_owned(), ..wrapped.clone() })
    }
}

impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn apply(&self, spec: Spec) {
        self.told.fetch_add(1, Ordering::SeqCst);
        lock(&self.applied).insert(spec.id.clone(), (spec, None));
    }

    fn state(&self, id: &str) -> State {
        lock(&self.states).get(id).cloned().unwrap_or(State::Absent)
    }

    fn interface_state(&self, machine: &str, interface: &str) -> InterfaceState {
        let place = (machine.to_owned(), interface.to_owned());
        lock(&self.interfaces).get(&place).copied().unwrap_or(InterfaceState::Out)
    }

    fn forget(&self, id: &str) {
        lock(&self.states).remove(id);
    }

    fn console(&self, _: &str) -> io::Result<Option<Console>> {
        Ok(None)
    }

    fn apply_network(&self, plan: Plan) {
        *lock(&self.network) = Some(plan);
    }

    fn has_network(&self) -> bool {
        self.has_network.load(Ordering::SeqCst)
    }

    fn listen(&self, _: Box<dyn Fn(&str) + Send + Sync>) {}
}

/// A region that is set up, with the built-in images.
#[derive(Debug)]
pub(crate) struct Region {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is told to run.
    pub(crate) driver: Arc<FakeDriver>,
    environment: Environment,
    pub(crate) blocks: Arc<MemoryBlocks>,
    pub(crate) store: Arc<dyn Store>,
    identity: Identity,
    now: Arc<AtomicI64>,
}

impl Region {
    /// us-east-1.
    pub(crate) fn new() -> Self {
        Self::named("us-east-1")
    }

    /// A region of this name.
    pub(crate) fn named(name: &'static str) -> Self {
        let driver = Arc::new(FakeDriver::default());
        let now = Arc::new(AtomicI64::new(START));
        let blocks = Arc::new(MemoryBlocks::default());
        let environment = Environment {
            account_id: ACCOUNT.to_owned(),
            public_pool: "203.0.113.0/24".parse().unwrap(),
            driver: Arc::clone(&driver) as Arc<dyn Driver>,
            clock: Clock::Manual(Arc::clone(&now)),
            keys: Arc::new(FakeKeys),
            blocks: Arc::clone(&blocks) as Arc<dyn volume::Blocks>,
            services: service::invoke::Table::default(),
        };
        let region = Region {
            name,
            driver,
            blocks,
            environment,
            store: store::memory(),
            identity: Identity::root(ACCOUNT),
            now,
        };
        region
            .run(|call| {
                region::set_up(call)?;
                image::sync(call, &image::for_tests())
            })
            .unwrap();
        region
    }

    /// Moves the clock on.
    pub(crate) fn pass(&self, millis: i64) {
        self.now.fetch_add(millis, Ordering::SeqCst);
    }

    /// Runs `work` as one request: its writes are committed when it succeeds, then its effects
    /// happen. Times that it asks to be woken at are left to the test.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce(&mut Call<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.run_as(self.name, &self.identity.account_id, work)
    }

    /// As [`Region::run`], in another region or of another account.
    pub(crate) fn run_as<T>(
        &self,
        region: &str,
        account: &str,
        work: impl FnOnce(&mut Call<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let snapshot = self.store.snapshot();
        let identity = Identity::root(account);
        let mut call = Call::new(&self.environment, snapshot, region, &identity, "request-1");
        let answer = work(&mut call)?;
        let (txn, effects) = call.into_parts()?;
        let result = block_on(self.store.txn(txn)).unwrap();
        assert!(result.succeeded, "a request alone cannot meet a conflict");
        for effect in effects {
            match effect {
                Effect::Apply(spec, fingerprint) => {
                    let id = spec.id.clone();
                    self.driver.apply(*spec);
                    if let Some((_, known)) = lock(&self.driver.applied).get_mut(&id) {
                        *known = fingerprint;
                    }
                }
                Effect::Forget(machine) => self.driver.forget(&machine),
                Effect::Network(plan) => self.driver.apply_network(*plan),
                Effect::Volume(spec, fingerprint) => {
                    let id = spec.id.clone();
                    self.driver.apply_volume(*spec);
                    if let Some((_, known)) = lock(&self.driver.volumes).get_mut(&id) {
                        *known = fingerprint;
                    }
                }
                Effect::ForgetVolume(volume) => self.driver.forget_volume(&volume),
                Effect::Task(task) => self.driver.apply_task(*task),
                Effect::ForgetTask(task) => self.driver.forget_task(&task),
                Effect::Again(_)
                | Effect::Listen(_)
                | Effect::Unlisten(_)
                | Effect::UnlistenAll => {}
            }
        }
        Ok(answer)
    }

    /// The answer of a request that must succeed.
    #[track_caller]
    pub(crate) fn ok<I, O>(
        &self,
        handler: impl FnOnce(&mut Call<'_>, I) -> Result<O, Error>,
        input: I,
    ) -> O {
        match self.run(|call| handler(call, input)) {
            Ok(output) => output,
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// Code and message of a request that must be refused.
    #[track_caller]
    pub(crate) fn refused<I, O>(
        &self,
        handler: impl FnOnce(&mut Call<'_>, I) -> Result<O, Error>,
        input: I,
    ) -> String {
        match self.run(|call| handler(call, input)) {
            Ok(_) => panic!("not refused"),
            Err(error) => error.to_string(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A filter of a request.
pub(crate) fn filter(name: &str, values: &[&str]) -> model::ec2::Filter {
    model::ec2::Filter {
        name: Some(name.to_owned()),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

/// A list of texts, as request members have it.
pub(crate) fn list(items: &[&str]) -> Option<Vec<String>> {
    Some(items.iter().map(|item| (*item).to_owned()).collect())
}
