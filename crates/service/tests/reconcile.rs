//! Who is woken by what a driver announces.

use base::Clock;
use base::machine::{Console, Driver, InterfaceState, Spec, State};
use base::volume;
use service::call::{Effect, Environment};
use service::reconcile::{Reconciler, start};
use service::{Call, Error};
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use store::{Op, Txn};

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// Announces what a test says.
#[derive(Default)]
struct Announcer {
    listener: OnceLock<Listener>,
    tasks: Mutex<Vec<volume::Task>>,
}

impl Announcer {
    fn announce(&self, id: &str) {
        self.listener.get().expect("somebody listens")(id);
    }
}

impl volume::Driver for Announcer {
    fn apply_volume(&self, _: volume::Spec) {}

    fn volume_state(&self, _: &str) -> volume::State {
        volume::State::Absent
    }

    fn forget_volume(&self, _: &str) {}

    fn apply_task(&self, task: volume::Task) {
        self.tasks.lock().unwrap().push(task);
    }

    fn task_state(&self, _: &str) -> Option<volume::SnapshotState> {
        None
    }

    fn forget_task(&self, _: &str) {}
}

impl Driver for Announcer {
    fn name(&self) -> &'static str {
        "announcer"
    }

    fn apply(&self, _: Spec) {}

    fn state(&self, _: &str) -> State {
        State::Absent
    }

    fn interface_state(&self, _: &str, _: &str) -> InterfaceState {
        InterfaceState::Out
    }

    fn forget(&self, _: &str) {}

    fn console(&self, _: &str) -> io::Result<Option<Console>> {
        Ok(None)
    }

    fn apply_network(&self, _: base::network::Plan) {}

    fn has_network(&self) -> bool {
        false
    }

    fn listen(&self, listener: Listener) {
        assert!(self.listener.set(listener).is_ok());
    }
}

/// Keys in the order in which they ran.
static RUNS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The record says what its key listens to.
fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    RUNS.lock().unwrap().push(work_key.to_owned());
    match call.get::<String>(work_key)?.as_deref().map(String::as_str) {
        None => call.effect(Effect::UnlistenAll),
        Some("") => call.effect(Effect::Unlisten("vol-1".to_owned())),
        Some(id) => call.effect(Effect::Listen(id.to_owned())),
    }
    Ok(())
}

fn work_key(record_key: &str) -> Option<String> {
    Some(record_key.to_owned())
}

static RECONCILERS: &[Reconciler] =
    &[Reconciler { name: "listening", for_network: false, work_key, run }];

fn runs(of: &str) -> usize {
    RUNS.lock().unwrap().iter().filter(|key| *key == of).count()
}

async fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < end, "{:?}", RUNS.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn announcements_wake_everybody_who_listens() {
    let driver = Arc::new(Announcer::default());
    let environment = Arc::new(Environment {
        account_id: "123456789012".to_owned(),
        public_pool: "203.0.113.0/24".parse().unwrap(),
        driver: Arc::clone(&driver) as Arc<dyn Driver>,
        clock: Clock::wall(),
        keys: Arc::new(service::nothing::Nothing),
        blocks: Arc::new(service::nothing::Nothing),
        services: service::invoke::Table::default(),
    });
    let store = store::memory();
    start(RECONCILERS, environment, Arc::clone(&store));
    let put = async |key: &str, value: &str| {
        store.txn(Txn::write(vec![Op::put(key, &value).unwrap()])).await.unwrap();
    };
    put("/r/a", "vol-1").await;
    put("/r/b", "vol-1").await;
    // Once for the record, once more since what was announced before is unknown.
    until(|| runs("/r/a") == 2 && runs("/r/b") == 2).await;
    driver.announce("vol-2");
    driver.announce("vol-1");
    until(|| runs("/r/a") == 3 && runs("/r/b") == 3).await;
    put("/r/b", "").await;
    until(|| runs("/r/b") == 4).await;
    // It may still be about to stop listening: what it does after its run is not seen from here.
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let before = runs("/r/b");
            let heard = runs("/r/a");
            driver.announce("vol-1");
            until(|| runs("/r/a") > heard).await;
            if runs("/r/b") == before {
                break;
            }
        }
    })
    .await
    .unwrap();
}
