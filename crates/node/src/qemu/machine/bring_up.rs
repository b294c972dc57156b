//! How a machine comes up.

use super::{HANDSHAKE, Machine, Up, blocking, explain};
use crate::qemu::boot;
use crate::qemu::directory::{Directory, Record, Stage};
use crate::qemu::disks::Disks;
use crate::qemu::launch::{connect, connect_disks, start};
use crate::qemu::nics::Nics;
use crate::qemu::qmp::Client;
use crate::volume::host::{Chain, Host};
use base::image::Boot;
use base::machine::{Spec, Wanted};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

impl Machine {
    pub(super) async fn launch(&mut self, spec: &Arc<Spec>, start: u32, reboots: u32) {
        let mut record = match self.record.take() {
            Some(record) => record,
            None => Record {
                v: 1,
                user: self.shared.take_user(),
                token_key: BASE64.encode(crate::imds::new_token_key()),
                start,
                reboots,
                boot: None,
                stage: Stage::Launching,
            },
        };
        (record.start, record.reboots, record.stage) = (start, reboots, Stage::Launching);
        self.remember_key(&record);
        self.record = Some(record.clone());
        self.publish();
        let began = Instant::now();
        match self.bring_up(spec, &mut record).await {
            Ok(up) => {
                tracing::info!(id = self.handle.id, start, elapsed = ?began.elapsed(), "launched");
                self.up = Some(up);
            }
            Err(message) => {
                tracing::error!(id = self.handle.id, start, message, "the launch failed");
                record.stage = Stage::Failed(message);
                self.give_back().await;
                self.keep(&record);
            }
        }
        self.record = Some(record);
        self.publish();
    }

    /// Makes everything that the machine needs and starts it. The error is for the user.
    async fn bring_up(&self, spec: &Arc<Spec>, record: &mut Record) -> Result<Up, String> {
        let began = Instant::now();
        self.prepare(spec, record).await?;
        let chains = self.acquire(spec, record.user).await?;
        let disks = began.elapsed();
        self.wait_for_network(spec).await?;
        let network = began.elapsed();
        let engine = self.shared.judge.engine().await;
        let (shared, spec_too) = (Arc::clone(&self.shared), Arc::clone(spec));
        let (directory, user) = (self.directory.clone(), record.user);
        let boot = record.boot.clone().unwrap_or(Boot::Firmware);
        let starting = tokio::task::spawn_blocking(move || {
            start(&shared, &spec_too, &directory, engine, &boot, chains, user)
        });
        let mut process = starting.await.map_err(|error| error.to_string())??;
        let id = &self.handle.id;
        tracing::debug!(id, ?disks, ?network, started = ?began.elapsed(), "QEMU was started");
        record.stage = Stage::Up(process.identity.clone());
        let (directory, running) = (self.directory.clone(), record.clone());
        let recorded = blocking(move || directory.write(&running)).await;
        let connected = match recorded {
            Err(error) => Err(explain(&self.directory, &error)),
            Ok(()) => tokio::select! {
                how = process.ended() => {
                    let (words, image) = (self.directory.last_words(), &spec.image);
                    return Err(format!(
                        "{how}: {words}; if image {image} is damaged build or import it again"
                    ));
                }
                connected = timeout(HANDSHAKE, connect_both(&self.directory)) => {
                    connected.unwrap_or_else(|_| Err("QEMU does not answer".to_owned()))
                }
            },
        };
        match connected {
            Ok((monitor, powered_off, host)) => {
                let mut up = Up::new(process, !spec.interfaces.is_empty());
                up.monitor = Some(monitor);
                up.powered_off = powered_off;
                let attached: Vec<String> = spec.volumes.iter().map(|v| v.id.clone()).collect();
                let volumes = self.shared.volumes.clone();
                up.disks = Some(Disks::launched(volumes, id, user, host, &attached));
                let network = self.shared.network.clone();
                up.nics = Some(Nics::launched(id, network, &spec.interfaces));
                Ok(up)
            }
            Err(message) => {
                // Its own words are the better message, if it ended rather than we ended it.
                let ended = timeout(Duration::from_secs(1), process.ended()).await;
                let why = ended.unwrap_or(message);
                process.kill();
                process.ended().await;
                Err(format!("{why}: {}", self.directory.last_words()))
            }
        }
    }

    /// Makes the machine's directory, its instance store and the links to what it boots by.
    async fn prepare(&self, spec: &Arc<Spec>, record: &mut Record) -> Result<(), String> {
        if spec.volumes.is_empty() {
            return Err("the machine has no root volume".to_owned());
        }
        let (directory, launching) = (self.directory.clone(), record.clone());
        let spec_too = Arc::clone(spec);
        blocking(move || {
            directory.create(launching.user)?;
            directory.write(&launching)?;
            directory.make_local_disks(&spec_too.local_disks, launching.user)
        })
        .await
        .map_err(|error| explain(&self.directory, &error))?;
        if record.boot.is_none() {
            let (images, key) = (self.shared.images_dir.clone(), spec.image.clone());
            let machine = self.directory.path().to_owned();
            let pin = move || boot::pin(&images, &key, &machine);
            let pinned = tokio::task::spawn_blocking(pin).await.map_err(|e| e.to_string())?;
            record.boot = Some(pinned.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// Waits until the machine may open its volumes, or nobody wants it any more.
    async fn acquire(&self, spec: &Spec, user: u32) -> Result<Vec<Chain>, String> {
        let (volumes, machine) = (&self.shared.volumes, &self.handle.id);
        let mut asked = JoinSet::new();
        for (place, volume) in spec.volumes.iter().enumerate() {
            let (volumes, id, machine) = (volumes.clone(), volume.id.clone(), machine.clone());
            asked.spawn(async move { (place, volumes.acquire(&id, &machine, user).await) });
        }
        let all = async {
            let mut chains = vec![None; spec.volumes.len()];
            while let Some(joined) = asked.join_next().await {
                let (place, acquired) = joined.map_err(|error| error.to_string())?;
                chains[place] = Some(acquired?);
            }
            Ok(chains.into_iter().flatten().collect())
        };
        tokio::select! {
            chains = all => chains,
            () = self.called_off(spec) => Err("the launch was called off".to_owned()),
        }
    }

    /// Until this start is not wanted any more.
    async fn called_off(&self, spec: &Spec) {
        let mut inbox = self.inbox.clone();
        let start = |wanted| match wanted {
            Wanted::Running { start, .. } => Some(start),
            Wanted::Stopped { .. } | Wanted::Terminated => None,
        };
        let mine = start(spec.wanted);
        let other = inbox.wait_for(|now| now.as_ref().is_some_and(|now| start(now.wanted) != mine));
        if other.await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the kernel has the machine's interfaces, or nobody wants it any more.
    async fn wait_for_network(&self, spec: &Spec) -> Result<(), String> {
        let Some(network) = &self.shared.network else {
            return match spec.interfaces.is_empty() {
                true => Ok(()),
                false => Err("this node has no network for the machine's interfaces".to_owned()),
            };
        };
        let interfaces: Vec<String> = spec.interfaces.iter().map(|i| i.id.clone()).collect();
        tokio::select! {
            held = network.holds(&self.handle.id, &interfaces) => held,
            () = self.called_off(spec) => Err("the launch was called off".to_owned()),
        }
    }
}

/// Connects to both monitors of a QEMU that was just started.
async fn connect_both(directory: &Directory) -> Result<(Client, bool, Host), String> {
    let (monitor, powered_off) = connect(directory).await?;
    Ok((monitor, powered_off, connect_disks(directory).await?))
}
