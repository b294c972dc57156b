//! Disks that come and go while a machine runs.

use crate::support::{
    DATA, Node, ROOT, RUN, attached, image, is_running, privileged, spec, until, until_state,
    until_volume, volume,
};
use base::machine::Driver as _;
use std::time::Duration;

/// A volume whose content is a script that the guest runs when it sees it.
const SCRIPT: &str = "vol-0123456789abcdef2";

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_come_and_go() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    node.make(&[volume(ROOT), volume(DATA), volume(SCRIPT)]).await;
    node.write(SCRIPT, b"#!sh\necho MARKER hello from a script\n");
    driver.apply(spec("test", RUN));
    until_state(&driver, is_running).await;
    until("the boot", LIMIT, || node.console().contains("MARKER up").then_some(())).await;
    until_volume(&driver, DATA, |volume| volume.attached.len() == 1).await;

    let mut more = spec("test", RUN);
    more.volumes.push(attached(SCRIPT));
    driver.apply(more);
    until("the plug", LIMIT, || {
        node.console().contains("MARKER hello from a script").then_some(())
    })
    .await;
    assert!(node.console().contains("MARKER plugged vol0123456789abcdef2 sectors=2097152"));
    driver.apply(spec("test", RUN));
    until("the unplug", LIMIT, || node.console().contains("MARKER unplugged").then_some(())).await;
    until_volume(&driver, SCRIPT, |volume| volume.attached.is_empty()).await;
}
