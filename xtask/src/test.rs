//! `cargo xtask test`: installs what the tests need and runs all of them.
//!
//! Layers, in order: formatting and lints; unit, property and golden tests; the real clients against
//! the simulated region; the same clients against real machines (root and QEMU; says so when it
//! skips). `cargo xtask test unit|clients|machines` runs one layer.

use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

const PYTHON_PACKAGES: &[&str] =
    &["boto3==1.43.11", "botocore==1.43.11", "awscli==1.45.11", "moto[server]==5.2.1", "pytest"];

/// Runs the layers named, or all.
///
/// # Errors
/// A test failed.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let wanted = |layer: &str| arguments.is_empty() || arguments.iter().any(|a| a == layer);
    if let Some(unknown) =
        arguments.iter().find(|a| !["lint", "unit", "clients", "machines"].contains(&a.as_str()))
    {
        bail!("there is no layer {unknown}: lint, unit, clients, machines");
    }
    let root = setup::is_root();
    if root {
        layer("packages", setup::machine_packages)?;
    } else {
        println!("not root: tests that need kernel features or real machines are skipped");
    }
    if wanted("lint") {
        layer("formatting and lints", lint)?;
    }
    if wanted("unit") {
        // The blob store's tests find moto's object store there, and say so when they skip it.
        if let Err(error) = python() {
            println!("the tests' Python cannot be installed: {error:#}");
        }
        layer("unit, property and golden tests", || {
            cargo(&["test", "--workspace", "--lib", "--bins", "--tests", "--quiet"], root)
        })?;
    }
    if !wanted("clients") && !wanted("machines") {
        return Ok(());
    }
    let mut gureum = None;
    layer("build", || {
        gureum = Some(setup::build("dev")?);
        Ok(())
    })?;
    let gureum = gureum.context("no binary")?;
    let python = python()?;
    if wanted("clients") {
        layer("clients on the simulated region", || clients(&python, &gureum))?;
    }
    if wanted("machines") {
        if root {
            layer("clients on real machines", || {
                pytest(&python, &gureum, "tests/machines").and_then(check)
            })?;
        } else {
            println!("skipped: tests/machines needs root");
        }
    }
    Ok(())
}

/// The `bin` directory of the tests' Python.
///
/// # Errors
/// Python or PyPI is not there.
pub(crate) fn python() -> Result<std::path::PathBuf> {
    setup::venv(&setup::target().join("test-venv"), PYTHON_PACKAGES)
}

fn layer(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let begun = Instant::now();
    work().with_context(|| name.to_owned())?;
    println!("== {name}: ok ({:.0} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

fn lint() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], false)?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], false)?;
    if Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|o| o.status.success())
    {
        cargo(&["deny", "check", "bans", "licenses", "sources"], false)?;
    } else {
        println!("skipped: cargo-deny is not installed");
    }
    Ok(())
}

fn cargo(arguments: &[&str], privileged: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(setup::root());
    if privileged {
        command.env("GUREUM_PRIVILEGED_TESTS", "1");
    }
    check(command)
}

/// The clients' tests. Terraform's provider mostly sleeps between its questions (ten seconds before
/// the first about an instance or an image), so its tests run beside the others, in eight processes
/// whose outputs come at their end. Each process has a region of its own.
fn clients(python: &Path, gureum: &Path) -> Result<()> {
    const BESIDE: [&str; 8] = [
        "terraform_disks and (test_volumes or test_images)",
        "terraform_instances",
        "test_terraform and not terraform_disks and (test_dlm or test_images)",
        "terraform_vpc",
        "terraform_routes or terraform_insights",
        "terraform_interfaces",
        "terraform_gateways or terraform_module",
        "terraform and not terraform_instances and not test_dlm and not test_images and not \
         (terraform_disks and test_volumes) and not terraform_vpc and not terraform_routes and not \
         terraform_insights and not terraform_interfaces and not terraform_gateways and not \
         terraform_module",
    ];
    let command = |chosen: &str| -> Result<Command> {
        let mut command = pytest(python, gureum, "tests/clients")?;
        command.args(["-k", chosen]);
        Ok(command)
    };
    std::thread::scope(|scope| {
        let beside = BESIDE.map(|chosen| {
            (chosen, scope.spawn(move || Ok(command(chosen)?.stdin(Stdio::null()).output()?)))
        });
        let mut failed = Vec::new();
        if let Err(error) = command("not terraform").and_then(check) {
            failed.push(format!("{error:#}"));
        }
        for (chosen, run) in beside {
            println!("-- beside: {chosen}");
            let output: Result<Output> = run.join().unwrap_or_else(|_| bail!("a panic"));
            let output = output.with_context(|| format!("pytest -k '{chosen}'"))?;
            std::io::stdout().write_all(&output.stdout)?;
            std::io::stderr().write_all(&output.stderr)?;
            if !output.status.success() {
                failed.push(format!("pytest -k '{chosen}': {}", output.status));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("; "));
        Ok(())
    })
}

fn pytest(python: &Path, gureum: &Path, directory: &str) -> Result<Command> {
    let mut path = vec![python.to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    path.push("/usr/sbin".into());
    let mut command = Command::new(python.join("python"));
    command
        .args(["-m", "pytest", "-q", "-rs", "--durations=8", "-p", "no:cacheprovider", directory])
        .current_dir(setup::root())
        .env("PATH", std::env::join_paths(path)?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("GUREUM", gureum)
        .env("GUREUM_TEST_DATA", setup::target().join("test-data"));
    Ok(command)
}

fn check(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
