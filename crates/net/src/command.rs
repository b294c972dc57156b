//! Running `ip` and `nft`, the tools whose language the kernel's network speaks.

use crate::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where the tools are on Debian when the caller's PATH does not say.
const FALLBACK: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The path of a program.
pub(crate) fn find(tool: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FALLBACK.iter().map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|file| file.is_file())
        .ok_or(Error::ToolMissing { tool, package })
}

/// Runs `ip` with arguments; the answer is its standard output.
pub(crate) fn ip(arguments: &[&str]) -> Result<String, Error> {
    run("ip", "iproute2", arguments, "")
}

/// Runs lines of `ip` as one process; empty input runs nothing.
///
/// The first line that fails stops it.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut arguments = namespace.map_or(Vec::new(), |name| vec!["-n", name]);
    arguments.extend(["-batch", "-"]);
    run("ip", "iproute2", &arguments, &(lines.join("\n") + "\n")).map(drop)
}

/// Runs lines of `ip rule`, which says only on its command line which version of IP is meant.
pub(crate) fn ip_rule_batch(version: &str, lines: &[String]) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    run("ip", "iproute2", &[version, "-batch", "-"], &(lines.join("\n") + "\n")).map(drop)
}

/// Runs lines of `bridge` as one process.
pub(crate) fn bridge_batch(lines: &[String]) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    run("bridge", "iproute2", &["-batch", "-"], &(lines.join("\n") + "\n")).map(drop)
}

/// Runs `ip` or `bridge` with arguments that make it answer with a list in JSON.
pub(crate) fn json(
    tool: &'static str,
    arguments: &[&str],
) -> Result<Vec<serde_json::Value>, Error> {
    let text = run(tool, "iproute2", arguments, "")?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).map_err(|error| Error::Tool {
        command: format!("{tool} {}", arguments.join(" ")),
        message: format!("answered with text that is not JSON: {error}"),
    })
}

/// Gives `nft` one batch; the caller's thread stands in the namespace that it is for.
pub(crate) fn nft_batch(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    run("nft", "nftables", &["-f", "-"], text).map(drop)
}

/// Runs `nft` with arguments; the answer is its standard output.
pub(crate) fn nft(arguments: &[&str]) -> Result<String, Error> {
    run("nft", "nftables", arguments, "")
}

fn run(
    tool: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, Error> {
    let program = find(tool, package)?;
    let command = || format!("{tool} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io(format!("run {}", command())))?;
    let mut stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Apart, because a child that writes before it has read all would wait for us.
        scope.spawn(move || {
            if let Some(pipe) = &mut stdin {
                // A child that died early says why on its standard error.
                let _ = pipe.write_all(input.as_bytes());
            }
        });
        child.wait_with_output()
    })
    .map_err(Error::io(format!("run {}", command())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if let Some(line) = failed_line(&message, input) {
        message = format!("{message} ({line})");
    }
    message.truncate(message.floor_char_boundary(2000));
    Err(Error::Tool { command: command(), message })
}

/// The line of a batch that `ip` and `bridge` mean with `Command failed -:7`.
fn failed_line<'a>(message: &str, input: &'a str) -> Option<&'a str> {
    let (_, number) = message.rsplit_once("Command failed -:")?;
    let number: usize = number.trim().parse().ok()?;
    input.lines().nth(number.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_line_that_failed_is_told() {
        let message = "RTNETLINK answers: No such process\nCommand failed -:2";
        assert_eq!(super::failed_line(message, "one\ntwo\n"), Some("two"));
        assert_eq!(super::failed_line(message, "one\n"), None);
        assert_eq!(super::failed_line("Command failed -:0", "one\n"), None);
    }
}
