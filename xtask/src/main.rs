//! The project's chores: `cargo xtask NAME`.

mod bench;
mod codegen;
mod setup;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("bench") => bench::run(&arguments[1..]),
        Some("codegen") => codegen::run(),
        other => {
            if let Some(name) = other {
                eprintln!("xtask: there is no `{name}`");
            }
            bail!("usage: cargo xtask bench|codegen")
        }
    }
}
