//! The rows about disks: bench/disks.py measures them on real machines with the clients of the tests.

use super::server::Tools;
use crate::{setup, test};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Measures the rows with these keys; key and value of each. `told` gets them as they come.
pub(super) fn measure(
    tools: &Tools,
    keys: &[&'static str],
    mut told: impl FnMut(&str, f64),
) -> Result<()> {
    if !setup::is_root() {
        bail!("virtual machines in namespaces need root");
    }
    setup::machine_packages()?;
    setup::packages(&[("fio", "fio")])?;
    let python = test::python()?;
    let gureum = tools.gureum.as_ref().context("gureum is not built")?;
    let output = Command::new(python.join("python"))
        .arg(setup::root().join("bench/disks.py"))
        .arg(tools.work.join("disks"))
        .args(keys)
        .env("GUREUM", gureum)
        .stderr(Stdio::inherit())
        .output()
        .context("bench/disks.py cannot be started")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((key, value)) = line.split_once(' ')
            && let Ok(value) = value.parse()
        {
            told(key, value);
        }
    }
    if !output.status.success() {
        bail!("bench/disks.py ended with {}", output.status);
    }
    Ok(())
}
