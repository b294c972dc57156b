//! `gureum down`: stops the daemon and every machine, and takes the network away. The data
//! directory stays; the next `gureum serve` finds its machines stopped.

use crate::Down;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs `gureum down`. Works whether or not a daemon runs.
pub(crate) fn run(options: &Down) -> Result<()> {
    let data = options.data.path();
    stop_daemon(&data)?;
    node::qemu::stop_all(&data)?;
    let mut network = net::Config::new(data.join("net"));
    network.name_prefix.clone_from(&options.network.network_prefix);
    net::Network::destroy_all(network)?;
    Ok(())
}

/// Ends the daemon whose pid file is there, if it is one of ours.
fn stop_daemon(data: &Path) -> Result<()> {
    let file = data.join("gureum.pid");
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    let pid: i32 = text.trim().parse().with_context(|| file.display().to_string())?;
    let is_ours = || {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let mut words = line.split(|b| *b == 0);
            words.next().is_some_and(|program| program.ends_with(b"gureum"))
                && words.any(|word| word == b"serve")
        })
    };
    if is_ours() {
        let Some(process) = rustix::process::Pid::from_raw(pid) else { return Ok(()) };
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_ours() {
            if Instant::now() > deadline {
                bail!("the daemon (pid {pid}) does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let _ = std::fs::remove_file(file);
    Ok(())
}
