//! An answer that waits for a record goes out when the record is as it should be, or when its patience
//! ends.

use base::Clock;
use model::ec2::{CreateSnapshotRequest, Snapshot, op};
use service::call::Environment;
use service::dispatch::{Authentication, Dispatcher, Request};
use service::operation::Service;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Op, Store, Txn};

const KEY: &str = "/us-east-1/thing/1";

fn create(call: &mut Call<'_>, _: CreateSnapshotRequest) -> Result<Snapshot, Error> {
    call.put(KEY, false);
    call.answer_when(KEY, |record| record.is_some_and(|kv| kv.value() == b"true"));
    Ok(Snapshot { snapshot_id: Some("snap-1".to_owned()), ..Snapshot::default() })
}

static OPERATIONS: &[Operation] = &[operation!(op::CreateSnapshot, create, Write, ["VolumeId"])];

fn region() -> (Dispatcher, Arc<dyn Store>) {
    let store = store::memory();
    let environment = Environment {
        account_id: "123456789012".to_owned(),
        public_pool: "203.0.113.0/24".parse().unwrap(),
        driver: Arc::new(service::nothing::Nothing),
        clock: Clock::wall(),
        keys: Arc::new(service::nothing::Nothing),
        blocks: Arc::new(service::nothing::Nothing),
        services: service::invoke::Table::default(),
    };
    let services = vec![Service {
        model: &model::ec2::SERVICE,
        operations: OPERATIONS.iter().collect(),
        set_up: None,
    }];
    let (environment, open) = (Arc::new(environment), Authentication::Open);
    (Dispatcher::new(services, environment, Arc::clone(&store), open, false), store)
}

const REQUEST: Request<'_> = Request {
    method: "POST",
    path: "/",
    query: "",
    headers: &[("content-type", b"application/x-www-form-urlencoded")],
    body: b"Action=CreateSnapshot&Version=2016-11-15&VolumeId=vol-1",
};

#[tokio::test]
async fn an_answer_waits_for_its_record() {
    let (dispatcher, store) = region();
    let mut watch = store.watch(KEY, 0).unwrap();
    let fix = async {
        // The request has been committed, and nothing but the record can let its answer go.
        watch.next().await.unwrap();
        store.txn(Txn::write(vec![Op::put(KEY, &true).unwrap()])).await.unwrap();
        Instant::now()
    };
    let (answer, fixed) = tokio::join!(dispatcher.dispatch(&REQUEST), fix);
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(store.snapshot().get(KEY).unwrap().value(), b"true");
    assert!(fixed.elapsed() < Duration::from_secs(4), "it waited for the end of its patience");
}

#[tokio::test]
async fn patience_ends() {
    let (dispatcher, store) = region();
    let answer = tokio::time::timeout(Duration::from_secs(60), dispatcher.dispatch(&REQUEST));
    assert_eq!(answer.await.unwrap().status, 200);
    assert_eq!(store.snapshot().get(KEY).unwrap().value(), b"false");
}
