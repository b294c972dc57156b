//! A node without machines, a key store without keys, a blob store without blocks: what tests of
//! services stand on when none of them matters.

use base::key::{DataKey, Error, Keys, WrappedKey};
use base::machine::{Console, Driver, InterfaceState, Spec, State};
use base::volume::{self, Blocks, Content};
use std::io;

/// Does nothing, and refuses what would have to be remembered.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl volume::Driver for Nothing {
    fn apply_volume(&self, _: volume::Spec) {}

    fn volume_state(&self, _: &str) -> volume::State {
        volume::State::Absent
    }

    fn forget_volume(&self, _: &str) {}

    fn apply_task(&self, _: volume::Task) {}

    fn task_state(&self, _: &str) -> Option<volume::SnapshotState> {
        None
    }

    fn forget_task(&self, _: &str) {}
}

impl Driver for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
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

    fn listen(&self, _: Box<dyn Fn(&str) + Send + Sync>) {}
}

impl Keys for Nothing {
    fn resolve(&self, _: &str, _: &str, key: Option<&str>) -> Result<String, Error> {
        Err(Error::NotFound(key.unwrap_or_default().to_owned()))
    }

    fn generate(&self, key: &str) -> Result<WrappedKey, Error> {
        Err(Error::NotFound(key.to_owned()))
    }

    fn unwrap(&self, key: &WrappedKey) -> Result<DataKey, Error> {
        Err(Error::NotFound(key.key_arn.clone()))
    }

    fn rewrap(&self, _: &WrappedKey, key: &str) -> Result<WrappedKey, Error> {
        Err(Error::NotFound(key.to_owned()))
    }
}

impl Blocks for Nothing {
    fn list(&self, _: &Content, _: u64, _: usize) -> io::Result<Vec<(u64, String)>> {
        refused()
    }

    fn changed(
        &self,
        _: &Content,
        _: &Content,
        _: u64,
        _: usize,
    ) -> io::Result<Vec<(u64, Option<String>, Option<String>)>> {
        refused()
    }

    fn read(&self, _: &Content, _: u64) -> io::Result<Option<Vec<u8>>> {
        refused()
    }

    fn put(&self, _: &str, _: Option<&WrappedKey>, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn uploaded(&self, _: &str) -> io::Result<u64> {
        refused()
    }

    fn drop_upload(&self, _: &str) -> io::Result<()> {
        refused()
    }
}
