//! The rows that need what only some machines have: root, namespaces, QEMU, an image.

use super::server::Tools;
use crate::setup;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Seconds from RunInstances to the guest's first IMDS request, as a ratio to bare QEMU.
pub(super) fn first_imds(_tools: &Tools) -> Result<f64> {
    bail!("not measured yet")
}

/// MiB of resident memory that gureum adds for each running machine, beside QEMU's own.
pub(super) fn memory_per_machine(_tools: &Tools) -> Result<f64> {
    bail!("not measured yet")
}

/// TCP throughput between two namespaces through our rules, to the same path without.
pub(super) fn throughput(_tools: &Tools) -> Result<f64> {
    if !setup::is_root() {
        bail!("namespaces need root");
    }
    let output = Command::new("cargo")
        .args(["run", "-q", "--release", "-p", "net", "--example", "throughput"])
        .current_dir(setup::root())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = error.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
        bail!("the throughput example failed: {last}");
    }
    let last = text.lines().rev().find(|l| !l.trim().is_empty()).context("it printed nothing")?;
    let number = last.split_whitespace().rev().find_map(|word| word.parse().ok());
    number.with_context(|| format!("no number in {last:?}"))
}
