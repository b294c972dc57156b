//! The project's chores: `cargo xtask NAME`.

mod bench;
mod codegen;
mod demo;
mod setup;
mod test;

use anyhow::{Result, bail};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("bench") => bench::run(&arguments[1..]),
        Some("codegen") => codegen::run(),
        Some("demo") => demo::run(&arguments[1..]),
        Some("guest") => setup::guest().map(|path| println!("{}", path.display())),
        Some("test") => test::run(&arguments[1..]),
        other => {
            if let Some(name) = other {
                eprintln!("xtask: there is no `{name}`");
            }
            bail!("usage: cargo xtask bench|codegen|demo|guest|test")
        }
    }
}
