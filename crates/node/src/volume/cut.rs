//! Cutting several volumes at one instant.
//!
//! Each volume's task prepares its part and joins the group; the last to join cuts all, with one
//! transaction for each process. All volumes of one machine have one owner, so that is one
//! transaction; a Multi-Attach volume among them is cut right after it. A part whose volume has no
//! owner needs no cutting: nobody writes to it, and its task gives it to nobody meanwhile.

use super::host::{Cut, Host};
use super::locked;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a part waits for the others.
const PATIENCE: Duration = Duration::from_secs(4);

/// Groups that are not complete.
#[derive(Debug)]
pub(crate) struct Groups {
    parts: Mutex<HashMap<String, Vec<Part>>>,
    patience: Duration,
}

impl Default for Groups {
    fn default() -> Self {
        Groups { parts: Mutex::default(), patience: PATIENCE }
    }
}

#[derive(Debug)]
struct Part {
    volume: String,
    /// The name of the owner's process, its block layer, and the cut; `None` without an owner.
    owned: Option<(String, Host, Cut)>,
    answer: oneshot::Sender<Result<(), String>>,
}

impl Groups {
    /// Cuts `volume` together with the other `members` of its group (snapshots and volumes, in any
    /// order).
    ///
    /// # Errors
    /// The others did not come, or the owner refused: whether the cut has happened must be asked
    /// of the owner.
    pub(crate) async fn join(
        &self,
        members: &[(String, String)],
        volume: &str,
        owned: Option<(String, Host, Cut)>,
    ) -> Result<(), String> {
        let mut names: Vec<String> =
            members.iter().map(|(first, second)| format!("{first}/{second}")).collect();
        names.sort();
        let name = names.join(" ");
        let (answer, mut done) = oneshot::channel();
        let complete = {
            let mut groups = locked(&self.parts);
            let parts = groups.entry(name.clone()).or_default();
            parts.retain(|part| part.volume != volume);
            parts.push(Part { volume: volume.to_owned(), owned, answer });
            (parts.len() >= members.len()).then(|| groups.remove(&name).unwrap_or_default())
        };
        if let Some(parts) = complete {
            perform(parts).await;
        }
        if let Ok(answered) = tokio::time::timeout(self.patience, &mut done).await {
            return answered.unwrap_or_else(|_| Err("the cut was given up".to_owned()));
        }
        let waits = {
            let mut groups = locked(&self.parts);
            let parts = groups.get_mut(&name);
            let before = parts.as_ref().map_or(0, |parts| parts.len());
            let after = parts.map_or(0, |parts| {
                parts.retain(|part| part.volume != volume);
                parts.len()
            });
            if after == 0 {
                groups.remove(&name);
            }
            after < before
        };
        match waits {
            true => Err("the other volumes of the snapshot were not ready".to_owned()),
            // It is being cut right now.
            false => done.await.unwrap_or_else(|_| Err("the cut was given up".to_owned())),
        }
    }
}

async fn perform(parts: Vec<Part>) {
    let mut owners: BTreeMap<String, (Host, Vec<Cut>, Vec<oneshot::Sender<_>>)> = BTreeMap::new();
    let mut idle = Vec::new();
    for part in parts {
        match part.owned {
            Some((name, host, cut)) => {
                let owner = owners.entry(name).or_insert_with(|| (host, Vec::new(), Vec::new()));
                owner.1.push(cut);
                owner.2.push(part.answer);
            }
            None => idle.push(part.answer),
        }
    }
    let mut failed = None;
    for (host, cuts, answers) in owners.into_values() {
        let done = host.cut(&cuts).await.map_err(|error| error.to_string());
        failed = failed.or_else(|| done.clone().err());
        for answer in answers {
            // Nobody waits if the volume's task has ended.
            let _ = answer.send(done.clone());
        }
    }
    for answer in idle {
        let _ = answer.send(failed.clone().map_or(Ok(()), Err));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<(String, String)> {
        ["1", "2"].map(|n| (format!("vol-{n}"), format!("snap-{n}"))).to_vec()
    }

    #[tokio::test]
    async fn a_part_waits_for_the_others_and_gives_up() {
        let groups = Groups { patience: Duration::from_millis(50), ..Groups::default() };
        let turned: Vec<_> = members().into_iter().rev().collect();
        let all = members();
        let (first, second) =
            tokio::join!(groups.join(&all, "vol-1", None), groups.join(&turned, "vol-2", None));
        assert_eq!((first, second), (Ok(()), Ok(())));
        let alone = groups.join(&all, "vol-1", None).await;
        assert!(alone.unwrap_err().contains("not ready"));
        assert!(locked(&groups.parts).is_empty());
    }
}
