//! Runs user data once per instance, as cloud-init runs a script: as root, after the network is up,
//! output to the console and to `/var/log/cloud-init-output.log`.
//!
//! A marker named after the instance id is written before the script starts, so that a script that
//! reboots the machine does not run for ever.

use crate::init::say;
use crate::{network, sys};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

const LOG: &str = "/var/log/cloud-init-output.log";

/// What user data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Script,
    /// Something that needs cloud-init; its name.
    CloudInit(&'static str),
    Unknown,
}

fn kind(user_data: &[u8]) -> Kind {
    const MARKS: [(&[u8], &str); 9] = [
        (b"#cloud-config", "#cloud-config"),
        (b"#cloud-boothook", "#cloud-boothook"),
        (b"#include", "#include"),
        (b"#part-handler", "#part-handler"),
        (b"## template:", "a template"),
        (b"Content-Type:", "a MIME message"),
        (b"MIME-Version:", "a MIME message"),
        (b"From ", "a MIME message"),
        (b"\x1f\x8b", "gzip data"),
    ];
    if user_data.iter().all(u8::is_ascii_whitespace) {
        return Kind::Nothing;
    }
    if user_data.starts_with(b"#!") {
        return Kind::Script;
    }
    MARKS
        .iter()
        .find(|(mark, _)| {
            user_data.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark))
        })
        .map_or(Kind::Unknown, |(_, name)| Kind::CloudInit(name))
}

/// The step; exit code 0 unless the script could not be run.
pub(crate) fn run() -> i32 {
    let Ok(user_data) = fs::read(network::USER_DATA) else { return 0 };
    let Ok(id) = fs::read_to_string(network::INSTANCE_ID) else { return 0 };
    match kind(&user_data) {
        Kind::Nothing => 0,
        Kind::CloudInit(name) => {
            say(&format!(
                "user data is {name}, which needs cloud-init; the micro image runs only scripts \
                 (#!). The image debian-12 has cloud-init"
            ));
            1
        }
        Kind::Unknown => {
            say("user data does not begin with #! and is not run");
            1
        }
        Kind::Script => match run_once(&id, &user_data) {
            Ok(()) => 0,
            Err(error) => {
                say(&format!("cannot run user data: {error}"));
                1
            }
        },
    }
}

fn run_once(id: &str, script: &[u8]) -> io::Result<()> {
    let directory = Path::new(network::STATE).join("instance").join(id);
    let marker = directory.join("user-data-ran");
    if marker.exists() {
        say("user data ran at an earlier boot of this instance");
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    let file = directory.join("user-data");
    fs::write(&file, script)?;
    fs::set_permissions(&file, Permissions::from_mode(0o700))?;
    File::create(&marker)?.sync_all()?;
    say("running user data");
    let started = sys::uptime();
    let log = File::options().create(true).append(true).open(LOG)?;
    let (reader, writer) = io::pipe()?;
    let mut child = Command::new(&file)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .map_err(|error| explain(error, script))?;
    // What the script leaves running holds the pipe and may go on writing: another process copies.
    let copier = sys::fork(|| copy(reader, log))?;
    let status = child.wait()?;
    let took = sys::uptime().saturating_sub(started);
    // Let the last words of the script come first on the console, if nothing holds the pipe.
    sys::wait_briefly(copier);
    let result = match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    say(&format!("user data ended with {result} after {:.2} s", took.as_secs_f64()));
    Ok(())
}

/// Copies output to the console and to the log until every writer is gone.
fn copy(mut from: io::PipeReader, mut log: File) -> i32 {
    let mut buffer = [0; 4096];
    while let Ok(size) = from.read(&mut buffer) {
        if size == 0 {
            break;
        }
        let _ = log.write_all(&buffer[..size]);
        let _ = io::stdout().write_all(&buffer[..size]);
        let _ = io::stdout().flush();
    }
    0
}

/// The usual reasons why a script does not start, in plain words.
fn explain(error: io::Error, script: &[u8]) -> io::Error {
    let line = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    if line.ends_with(b"\r") {
        return io::Error::new(error.kind(), "its lines end in CR LF (saved on Windows?)");
    }
    if error.kind() == io::ErrorKind::NotFound {
        let message = format!("there is no such interpreter: {}", text.trim());
        return io::Error::new(error.kind(), message);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scripts_run() {
        assert_eq!(kind(b"#!/bin/sh\necho"), Kind::Script);
        assert_eq!(kind(b""), Kind::Nothing);
        assert_eq!(kind(b" \n"), Kind::Nothing);
        assert_eq!(kind(b"#cloud-config\npackages: []"), Kind::CloudInit("#cloud-config"));
        assert_eq!(kind(b"content-type: multipart/mixed"), Kind::CloudInit("a MIME message"));
        assert_eq!(kind(b"\x1f\x8b\x08"), Kind::CloudInit("gzip data"));
        assert_eq!(kind(b" #!/bin/sh"), Kind::Unknown);
        assert_eq!(kind(b"echo hello"), Kind::Unknown);
        assert_eq!(kind(b"\xff\xfe"), Kind::Unknown);
    }

    #[test]
    fn a_script_that_does_not_start_is_explained() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        assert!(explain(missing(), b"#!/bin/bash\r\nx").to_string().contains("CR LF"));
        assert!(explain(missing(), b"#!/bin/zsh\nx").to_string().contains("#!/bin/zsh"));
    }
}
