//! The processes of a volume that are ours: the server of its source, and the storage daemon that
//! owns it while several machines have it.
//!
//! Both are started when something needs them, started again when they die, and ended when nothing
//! does. They outlive the daemon; the record names them.

use super::directory::{IDLE_USER, Record};
use super::keeper::{Keeper, Purpose};
use super::source;
use super::task::{TICK, Volume};
use base::volume::Spec;

impl Volume {
    /// Starts what serves the source, unless it is not needed or runs; `user` may connect.
    pub(super) async fn ensure_server(&mut self, user: u32) -> Result<(), String> {
        let Some(record) = &self.record else { return Ok(()) };
        let Some(content) = record.source.clone().filter(|_| !record.filled) else {
            return Ok(());
        };
        if self.server.is_none() {
            let config = &self.shared.config;
            let served = source::Served {
                blobs: &config.blob_config,
                key: self.shared.data_key(content.key.as_ref()).await?,
                content: &content,
                user,
                bytes: record.bytes(),
            };
            let server =
                source::start(&config.storage, &config.data_dir, &self.directory, served).await?;
            let identity = server.identity.clone();
            self.server = Some(server);
            if let Some(record) = &mut self.record {
                record.server = Some(identity);
            }
            // If it cannot be recorded it is a stray after the next start.
            self.save().await;
        }
        if rustix::process::geteuid().is_root() {
            let socket = self.directory.path().join(source::SOCKET);
            std::os::unix::fs::chown(socket, Some(user), Some(user)).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    pub(super) async fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
            server.ended().await;
        }
        if let Some(record) = &mut self.record {
            record.server = None;
        }
    }

    /// Stops what serves the source once nothing reads it.
    pub(super) async fn spare_server(&mut self) {
        let filled = self.record.as_ref().is_none_or(|record| record.filled);
        let unused = !self.is_owned() && self.work.is_none();
        if (filled || unused) && self.uploading.is_none() && self.server.is_some() {
            self.stop_server().await;
            self.save().await;
        }
    }

    pub(super) fn on_server_ended(&mut self, how: &str) {
        tracing::warn!(id = self.handle.id, how, "the process that serves the source has ended");
        self.server = None;
        if let Some(record) = &mut self.record {
            record.server = None;
        }
    }

    /// Starts again what machines need and what has ended.
    pub(super) async fn keep_processes(&mut self, spec: &Spec) {
        if self.needs_keeper()
            && self.keeper.is_none()
            && self.is_due("keeper")
            && let Err(message) = self.ensure_keeper(spec).await
        {
            tracing::error!(id = self.handle.id, message, "the storage daemon cannot be started");
            self.put_off("keeper", TICK);
        }
        let user = self.record.as_ref().map_or(IDLE_USER, Record::user);
        let needed = self.is_owned() || self.work.is_some() || self.uploading.is_some();
        if needed
            && self.server.is_none()
            && self.is_due("server")
            && let Err(message) = self.ensure_server(user).await
        {
            tracing::error!(id = self.handle.id, message, "the source cannot be served");
            self.put_off("server", TICK);
        }
    }

    /// Whether machines wait for a storage daemon of ours.
    pub(super) fn needs_keeper(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.multi_attach && !record.holders.is_empty())
    }

    /// Starts the owner of a Multi-Attach volume.
    pub(super) async fn ensure_keeper(&mut self, spec: &Spec) -> Result<(), String> {
        if self.keeper.is_some() {
            return Ok(());
        }
        self.ensure_server(IDLE_USER).await?;
        let chain = self.chain(spec).await?;
        let data_dir = &self.shared.config.data_dir;
        let keeper = Keeper::start(data_dir, &self.directory, Purpose::Owner, IDLE_USER).await?;
        if let Err(message) = keeper.share(&chain).await {
            keeper.quit().await;
            return Err(message);
        }
        self.told = Some(chain.throttle);
        self.in_force = Some(spec.limits);
        if let Some(record) = &mut self.record {
            record.keeper = Some(keeper.identity());
        }
        self.listen("", &keeper.host.clone());
        self.keeper = Some(keeper);
        self.admit_holders()?;
        // If it cannot be recorded it is a stray after the next start.
        self.save().await;
        Ok(())
    }

    /// The owner of a Multi-Attach volume is no more: its machines wait for another.
    pub(super) async fn on_keeper_ended(&mut self, how: &str) {
        tracing::warn!(id = self.handle.id, how, "a volume's storage daemon has ended");
        self.keeper = None;
        self.job = None;
        let Some(record) = &mut self.record else { return };
        record.keeper = None;
        // Nobody writes to the layer below a new one, so its instant was the daemon's end.
        record.finish_cut();
        self.save().await;
    }
}
