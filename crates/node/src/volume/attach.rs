//! Giving a volume to machines and taking it back.
//!
//! ```text
//!  acquire ──► wait: made, filled if it is to be, cut what is due, nobody else's ──► given
//!                                                                    held: the guest can see it │
//!  released ◄── the guest has let go, or its process has ended, or it never opened it ◄─────────┘
//! ```

use super::Ask;
use super::directory::{self, Holder, IDLE_USER, Record};
use super::host::{Chain, Error, Host, JobKind, Layer, Source, Throttle};
use super::jobs::volume_of;
use super::keeper::{self, EXPORT, Purpose, export_socket};
use super::source;
use super::task::{TICK, Volume, Waiting, blocking};
use base::volume::{Spec, Wanted};
use std::time::Duration;
use tokio::time::Instant;

/// How often a machine's wish is tried that something prevents.
const ADMISSIONS: u32 = 20;

impl Volume {
    /// Gives the volume to the machine that has waited longest, if it can be.
    pub(super) async fn admit(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        if self.waiting.is_empty() || !self.is_due("admit") || self.unsaved {
            return false;
        }
        if spec.wanted == Wanted::Deleted {
            for waiting in self.waiting.drain(..) {
                // Nobody may wait any more.
                let _ = waiting.answer.send(Err("the volume is being deleted".to_owned()));
            }
            return true;
        }
        if spec.filled_first && !record.filled {
            return false;
        }
        let free = |waiting: &Waiting| {
            record.multi_attach
                || record.holders.is_empty()
                || record.holders.contains_key(&waiting.machine)
        };
        let Some(at) = self.waiting.iter().position(free) else { return false };
        let Some(mut waiting) = self.waiting.remove(at) else { return false };
        if record.holders.contains_key(&waiting.machine) {
            self.release(&waiting.machine).await;
        }
        match self.grant(spec, &waiting.machine, waiting.user).await {
            Ok(chain) => {
                if waiting.answer.send(Ok(chain)).is_err() {
                    self.release(&waiting.machine).await;
                }
            }
            Err(message) => {
                tracing::warn!(id = self.handle.id, message, "the volume cannot be opened yet");
                waiting.tries += 1;
                if waiting.tries >= ADMISSIONS {
                    // Nobody may wait any more.
                    let _ = waiting.answer.send(Err(message));
                } else {
                    self.waiting.push_back(waiting);
                }
                self.put_off("admit", TICK);
            }
        }
        true
    }

    pub(super) async fn grant(
        &mut self,
        spec: &Spec,
        machine: &str,
        user: u32,
    ) -> Result<Chain, String> {
        self.stop_work().await;
        self.advance_balance(spec, None);
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        if record.multi_attach {
            self.ensure_keeper(spec).await?;
        } else {
            let (directory, files) = (self.directory.clone(), record.clone());
            blocking(move || directory.give(&files, user)).await.map_err(|e| e.to_string())?;
            self.ensure_server(user).await?;
        }
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        record.holders.insert(machine.to_owned(), Holder { user, held: false });
        if !self.save().await {
            let record = self.record.as_mut().ok_or("the volume is not there")?;
            record.holders.remove(machine);
            return Err("the volume's record cannot be written".to_owned());
        }
        self.admit_holders()?;
        let chain = self.chain(spec).await?;
        let record = self.record.as_ref().ok_or("the volume is not there")?;
        if record.multi_attach {
            let socket = export_socket(Purpose::Owner);
            let socket = format!("{}/{socket}", directory::relative(&self.handle.id));
            let source = Source { socket, export: EXPORT.to_owned(), writable: true };
            return Ok(Chain {
                volume: self.handle.id.clone(),
                layers: Vec::new(),
                source: Some(source),
                passphrase: None,
                throttle: Throttle::default(),
            });
        }
        self.told = Some(chain.throttle);
        self.in_force = Some(spec.limits);
        Ok(chain)
    }

    /// Lets the machines of a Multi-Attach volume connect to its owner.
    pub(super) fn admit_holders(&self) -> Result<(), String> {
        let Some(record) = &self.record else { return Ok(()) };
        if self.keeper.is_none() {
            return Ok(());
        }
        let users: Vec<u32> = record.holders.values().map(|holder| holder.user).collect();
        keeper::admit(&self.directory, &users).map_err(|error| error.to_string())
    }

    /// The volume as its owner opens it.
    pub(super) async fn chain(&self, spec: &Spec) -> Result<Chain, String> {
        let record = self.record.as_ref().ok_or("the volume is not there")?;
        Ok(Chain {
            volume: self.handle.id.clone(),
            layers: self.layers(record.layers.iter().map(|layer| layer.number)),
            source: (!record.filled).then(|| self.served()),
            passphrase: self.shared.passphrase(record.key.as_ref()).await?,
            throttle: self.throttle(spec),
        })
    }

    pub(super) fn layers(&self, numbers: impl Iterator<Item = u32>) -> Vec<Layer> {
        let file = |number| directory::layer_file(&self.handle.id, number);
        numbers.map(|number| Layer { number, file: file(number) }).collect()
    }

    /// The source as what opens it sees it.
    pub(super) fn served(&self) -> Source {
        let socket = format!("{}/{}", directory::relative(&self.handle.id), source::SOCKET);
        Source { socket, export: String::new(), writable: false }
    }

    /// Sends what a block layer says into the task's queue.
    pub(super) fn listen(&mut self, name: &str, host: &Host) {
        let mut events = host.events();
        let (asks, id) = (self.handle.asks.clone(), self.handle.id.clone());
        let listening = tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) if volume_of(&event) == id => {
                        if asks.send(Ask::Event(event)).is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let before = self.listening.insert(name.to_owned(), listening.abort_handle());
        if let Some(before) = before {
            before.abort();
        }
    }

    pub(super) async fn on_held(&mut self, machine: String, host: Host) {
        let Some(record) = &mut self.record else { return };
        let Some(holder) = record.holders.get_mut(&machine) else {
            tracing::error!(id = self.handle.id, machine, "a machine has a volume not given to it");
            return;
        };
        let known = std::mem::replace(&mut holder.held, true);
        if !known {
            self.save().await;
            self.put_off("fill", self.shared.config.fill_after);
        }
        self.listen(&machine, &host);
        self.hosts.insert(machine, host.clone());
        if self.record.as_ref().is_some_and(|record| !record.multi_attach) {
            if known {
                self.told = None;
            }
            self.take_up_job(&host).await;
        }
    }

    /// A machine has the volume no more.
    pub(super) async fn release(&mut self, machine: &str) {
        let holds = |record: &Record| record.holders.contains_key(machine);
        if !self.record.as_ref().is_some_and(holds) {
            return;
        }
        let spec = self.inbox.borrow().clone();
        if let Some(spec) = &spec {
            let counters = self.counters().await;
            self.advance_balance(spec, counters.as_ref());
        }
        if let Some(listening) = self.listening.remove(machine) {
            listening.abort();
        }
        if let Some(host) = self.hosts.remove(machine) {
            let patience = Instant::now() + Duration::from_secs(5);
            // Refused while the guest has not quite let go; an error too if the process has ended.
            while let Err(error) = close(&host, &self.handle.id).await {
                if matches!(error, Error::Closed | Error::Io(_)) {
                    break;
                }
                if Instant::now() > patience {
                    tracing::error!(id = self.handle.id, %error, "a volume stays open");
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let Some(record) = &mut self.record else { return };
        if record.holders.remove(machine).is_none() {
            return;
        }
        if record.holders.is_empty() {
            self.job = None;
            self.told = None;
            self.impaired = None;
            if let Some(keeper) = self.keeper.take() {
                keeper.quit().await;
            }
            let Some(record) = &mut self.record else { return };
            record.keeper = None;
            // Nobody writes to the layer below a new one, so its instant was this.
            record.finish_cut();
            let (directory, files) = (self.directory.clone(), record.clone());
            if let Err(error) = blocking(move || directory.give(&files, IDLE_USER)).await {
                tracing::error!(id = self.handle.id, %error, "a volume stays its machine's");
            }
            self.spare_server().await;
        }
        self.save().await;
        self.publish();
    }
}

/// Removes a volume from a process that goes on.
async fn close(host: &Host, volume: &str) -> Result<(), Error> {
    for kind in [JobKind::Stream, JobKind::Commit] {
        host.cancel_job(volume, kind).await?;
    }
    host.remove_chain(volume).await
}
