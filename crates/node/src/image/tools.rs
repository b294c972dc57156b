//! Running Debian's programs: quietly, with their last words in the error.

use super::Error;
use std::io;
use std::process::{Command, Stdio};

/// Lines of output that an error quotes.
const QUOTED_LINES: usize = 8;

/// Runs a command to its end; its standard output.
pub(super) fn run(command: &mut Command) -> Result<Vec<u8>, Error> {
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot_start(command, error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(failed(command, &output.status.to_string(), said))
}

/// Runs `producer | consumer`.
pub(super) fn pipe(producer: &mut Command, consumer: &mut Command) -> Result<(), Error> {
    let mut from = producer
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(producer, error))?;
    if let Some(stream) = from.stdout.take() {
        consumer.stdin(stream);
    }
    let to = consumer
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| cannot_start(consumer, error));
    let from = from.wait().map_err(|error| cannot_start(producer, error))?;
    let to = to?;
    if !to.status.success() {
        return Err(failed(consumer, &to.status.to_string(), &to.stderr));
    }
    if !from.success() {
        return Err(failed(producer, &from.to_string(), b""));
    }
    Ok(())
}

fn failed(command: &Command, status: &str, output: &[u8]) -> Error {
    Error::Program {
        command: shown(command),
        status: status.to_owned(),
        output: last_lines(&String::from_utf8_lossy(output)),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

fn cannot_start(command: &Command, error: io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == io::ErrorKind::NotFound
        && let Some(package) = package_of(&program)
    {
        return Error::MissingProgram { program, package };
    }
    Error::Program {
        command: shown(command),
        status: "not started".to_owned(),
        output: error.to_string(),
    }
}

/// The Debian package that has a program that images are made with.
fn package_of(program: &str) -> Option<&'static str> {
    Some(match program {
        "apt-get" => "apt",
        "dpkg-deb" => "dpkg",
        "tar" => "tar",
        "cp" | "chroot" => "coreutils",
        "mke2fs" => "e2fsprogs",
        "mmdebstrap" => "mmdebstrap",
        "qemu-img" => "qemu-utils",
        "xz" => "xz-utils",
        _ => return None,
    })
}

/// Program and the first few arguments, enough to recognise it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args().take(6));
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let mut command = Command::new("mmdebstrap");
        command.env("PATH", "/nonexistent");
        let error = run(&mut command).unwrap_err().to_string();
        assert_eq!(error, "mmdebstrap is not installed: apt-get install mmdebstrap");
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("why"), "{text}");
    }

    #[test]
    fn both_ends_of_a_pipe_are_watched() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        assert!(pipe(&mut shell("echo x"), &mut shell("read line; [ $line = x ]")).is_ok());
        assert!(pipe(&mut shell("exit 1"), &mut shell("cat")).is_err());
        assert!(pipe(&mut shell("echo x"), &mut shell("cat; exit 1")).is_err());
    }
}
