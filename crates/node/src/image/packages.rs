//! Debian packages from the host's apt, verified by apt, kept in a cache, unpacked without being
//! installed.

use super::{Error, io_error, tools};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of `packages`, in that order: from the cache if the version that apt would install is
/// there, or any version if apt knows none (no network and no lists).
pub(super) fn get(
    packages: &[&str],
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<PathBuf>, Error> {
    let directory = cache.join("packages");
    fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
    let mut candidates = candidates(packages);
    if candidates.is_empty() {
        if let Some(files) = any_versions(&directory, packages) {
            return Ok(files);
        }
        progress("reading apt's package lists");
        tools::run(Command::new("apt-get").args(["-q", "update"]))?;
        candidates = self::candidates(packages);
    }
    let missing: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| {
            fs::metadata(directory.join(&candidate.file))
                .map_or(true, |found| found.len() != candidate.size)
        })
        .collect();
    if !missing.is_empty() || candidates.is_empty() {
        let size: u64 = missing.iter().map(|candidate| candidate.size).sum();
        progress(&format!("fetching {} ({} MiB)", packages.join(", "), size.div_ceil(1 << 20)));
        let fetched = tools::run(
            Command::new("apt-get")
                .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
                .args(packages)
                .current_dir(&directory),
        );
        if let Err(error) = fetched {
            return any_versions(&directory, packages).ok_or_else(|| Error::Package {
                package: packages.join(", "),
                reason: error.to_string(),
            });
        }
    }
    packages
        .iter()
        .map(|package| {
            let prefix = format!("{package}_");
            candidates
                .iter()
                .find(|candidate| candidate.file.starts_with(&prefix))
                .map(|candidate| directory.join(&candidate.file))
                .filter(|file| file.exists())
                .or_else(|| any_version(&directory, package))
                .ok_or_else(|| Error::Package {
                    package: (*package).to_owned(),
                    reason: "apt-get download did not leave it".to_owned(),
                })
        })
        .collect()
}

/// Unpacks package files over `tree`, where `/bin` and the like may be links.
pub(super) fn unpack(file: &Path, tree: &Path) -> Result<(), Error> {
    tools::pipe(
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(file),
        Command::new("tar").args(["-x", "--keep-directory-symlink", "-C"]).arg(tree),
    )
}

/// Names of the packages that a package file depends on, first alternatives only.
pub(super) fn dependencies(file: &Path) -> Result<Vec<String>, Error> {
    let text = tools::run(Command::new("dpkg-deb").arg("-f").arg(file).arg("Depends"))?;
    Ok(parse_dependencies(&String::from_utf8_lossy(&text)))
}

fn parse_dependencies(text: &str) -> Vec<String> {
    text.split(',')
        .filter_map(|dependency| dependency.split(['|', '(']).next())
        .map(|name| name.trim().split(':').next().unwrap_or_default().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// What apt would download.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    file: String,
    size: u64,
}

/// What apt would download; nothing if it knows one of the packages not.
fn candidates(packages: &[&str]) -> Vec<Candidate> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "--print-uris", "download"]).args(packages);
    let output = tools::run(&mut command).unwrap_or_default();
    parse_candidates(&String::from_utf8_lossy(&output))
}

/// Reads lines such as `'http://…' bash_5.2-1_amd64.deb 12345 SHA256:…`.
fn parse_candidates(output: &str) -> Vec<Candidate> {
    let candidate = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|uri| uri.starts_with('\''))?;
        let file = words.next().filter(|file| file.ends_with(".deb") && !file.contains('/'))?;
        Some(Candidate { file: file.to_owned(), size: words.next()?.parse().ok()? })
    };
    output.lines().filter_map(candidate).collect()
}

/// Some version of every package from the cache.
fn any_versions(directory: &Path, packages: &[&str]) -> Option<Vec<PathBuf>> {
    packages.iter().map(|package| any_version(directory, package)).collect()
}

/// The newest file of `package` in the cache.
fn any_version(directory: &Path, package: &str) -> Option<PathBuf> {
    let prefix = format!("{package}_");
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_says_what_it_would_download() {
        let output = "Reading package lists...\n\
            'http://deb.debian.org/debian/pool/main/b/bash/bash_5.2.15-2+b10_amd64.deb' \
            bash_5.2.15-2+b10_amd64.deb 1491276 SHA256:4a6f7c\n";
        let wanted = Candidate { file: "bash_5.2.15-2+b10_amd64.deb".into(), size: 1_491_276 };
        assert_eq!(parse_candidates(output), [wanted]);
        assert!(parse_candidates("E: Unable to locate package x\n").is_empty());
        assert!(parse_candidates("'http://x/../y.deb' ../y.deb 1 SHA256:0\n").is_empty());
    }

    #[test]
    fn dependencies_are_names() {
        let text = "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), a | b, c:any\n";
        assert_eq!(parse_dependencies(text), ["linux-image-6.1.0-56-cloud-amd64", "a", "c"]);
        assert!(parse_dependencies("\n").is_empty());
    }
}
