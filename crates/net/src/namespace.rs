//! Named network namespaces, as `ip netns` shows them.

use crate::{Error, command, system};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/netns";

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Whether the namespace exists.
pub(crate) fn exists(name: &str) -> bool {
    path(name).exists()
}

/// What tells a namespace from an earlier one of the same name.
pub(crate) fn number(name: &str) -> Result<u64, Error> {
    let data = fs::metadata(path(name)).map_err(Error::io(format!("look at namespace {name}")))?;
    Ok(data.ino())
}

/// Names of the namespaces that start with `prefix` and a dash.
pub(crate) fn list(prefix: &str) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("read {DIRECTORY}"))(error)),
    };
    let start = format!("{prefix}-");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&start))
        .collect();
    names.sort();
    Ok(names)
}

/// Makes the namespace unless it is there.
pub(crate) fn create(name: &str) -> Result<(), Error> {
    if exists(name) && within(name, || Ok(())).is_err() {
        // A daemon that died between the two steps of `ip netns add` leaves an empty file.
        let file = path(name);
        fs::remove_file(&file).map_err(Error::io(format!("remove {}", file.display())))?;
    }
    if exists(name) {
        return Ok(());
    }
    command::ip(&["netns", "add", name]).map(drop)
}

/// Removes the namespace and every link in it.
///
/// The links go first: a descriptor that somebody still holds keeps a namespace alive.
pub(crate) fn remove(name: &str) -> Result<(), Error> {
    if !exists(name) {
        return Ok(());
    }
    // One operation for all, since each costs the kernel a wait. A link that never got its group,
    // because its daemon died, is left to the second step; an empty group is an error.
    let _ = command::ip(&["-n", name, "link", "delete", "group", crate::names::LINK_GROUP]);
    if let Ok(links) = within(name, || system::links().map_err(Error::io("list links"))) {
        let lines: Vec<String> = links
            .keys()
            .filter(|link| crate::layout::is_ours(link))
            .map(|link| format!("link delete {link}"))
            .collect();
        command::ip_batch(Some(name), &lines)?;
    }
    command::ip(&["netns", "delete", name]).map(drop)
}

/// Runs `work` on a new thread inside the namespace, and waits for it.
///
/// A thread of its own, because a thread that moved must never run anybody else's work.
/// Children that `work` starts are inside as well; sockets that it opens stay inside for good.
pub(crate) fn within<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let file = File::open(path(name)).map_err(Error::io(format!("open namespace {name}")))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".into());
        let handle = thread
            .spawn_scoped(scope, || {
                system::enter(&file).map_err(Error::io(format!("enter namespace {name}")))?;
                work()
            })
            .map_err(Error::io("start a thread"))?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
