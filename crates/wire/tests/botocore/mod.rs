//! The source distribution of botocore, AWS's own client library: its unit tests hold the protocol
//! cases and the SigV4 vectors that the codecs and the verifier are held to.
//!
//! It is downloaded once into cargo's target directory and never committed. Use it from another
//! crate with `#[path = "../../wire/tests/botocore/mod.rs"] mod botocore;`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const VERSION: &str = "1.43.11";
/// SHA-256 of the archive on PyPI: a test must not change because an index changed.
const SHA256: &str = "d7d479cc2809ec2728f2898521003adfb79bfe6a4615c59dfd222ec52b0cee6b";

/// The unpacked distribution (it has `tests/unit` below), or `None`, with the reason printed, where
/// PyPI cannot be reached. Panics on every other failure. Safe with many processes at once.
pub(crate) fn sdist() -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("botocore-{VERSION}");
    let unpacked = cache.join(&name);
    fs::create_dir_all(cache).expect("create cargo's directory for test files");
    let lock = File::create(cache.join(format!("{name}.lock"))).expect("create the lock file");
    lock.lock().expect("wait for other tests that download");
    if unpacked.is_dir() {
        return Some(unpacked);
    }

    // Whatever is in here was left by a test that was killed.
    let work = cache.join(format!("{name}.partial"));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).expect("create the download directory");
    fs::write(work.join("requirements"), format!("botocore=={VERSION} --hash=sha256:{SHA256}\n"))
        .expect("write the requirements file");
    let pip = ["-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"];
    let download = ["download", "--no-binary", "botocore", "--no-deps", "--require-hashes"];
    let output = Command::new("python3")
        .args(pip)
        .args(download)
        .args(["--requirement", "requirements", "--dest", "."])
        .current_dir(&work)
        .output()
        .expect("run python3 (install python3 and python3-pip)");
    if is_unreachable(&output) {
        println!("skipped: {name} is not in {} and PyPI cannot be reached", cache.display());
        return None;
    }
    check("pip", &output);
    let archive = format!("{name}.tar.gz");
    let tar = Command::new("tar").args(["xzf", &archive]).current_dir(&work).output();
    check("tar", &tar.expect("run tar"));
    // A rename is the last step, so that a half-unpacked directory never carries the final name.
    fs::rename(work.join(&name), &unpacked).expect("rename the unpacked directory");
    let _ = fs::remove_dir_all(&work);
    Some(unpacked)
}

/// Whether pip failed because it found no index, and not because the package was wrong.
fn is_unreachable(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    !output.status.success()
        && !text.contains("DO NOT MATCH THE HASHES")
        && (text.contains("NewConnectionError")
            || text.contains("Connection") // broken, refused, timed out
            || text.contains("(from versions: none)"))
}

fn check(what: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed:\n{text}");
}
