//! The `al2-compat` image: `debian-12` in which the commands of Amazon Linux courses work as written.
//! It is Debian and says so; it is published under names that people search for Amazon Linux by.
//!
//! Three commands are put before Debian's on the path: yum (and dnf) speaks to apt-get, and systemctl
//! and service know Amazon Linux's unit names. Apache comes with the image as a package file, so the
//! course's first script needs no network.

use super::{Build, Error, Manifest, debian, io_error, tools};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Where the image has its own small package repository.
const REPOSITORY: &str = "usr/share/gureum/packages";

pub(super) fn build(build: Build, progress: &mut dyn FnMut(&str)) -> Result<Manifest, Error> {
    let tree = debian::start(&build, progress)?;
    let files = carry_packages(&tree)?;
    install_needed(&tree, &files)?;
    for (path, text) in [
        ("usr/local/bin/yum", YUM),
        ("usr/local/bin/systemctl", SYSTEMCTL),
        ("usr/local/sbin/service", SERVICE),
        ("usr/local/sbin/chkconfig", CHKCONFIG),
        ("usr/local/bin/amazon-linux-extras", AMAZON_LINUX_EXTRAS),
    ] {
        debian::write(&tree, path, text, 0o755)?;
    }
    debian::write(&tree, "usr/local/lib/gureum/names.sh", NAMES, 0o644)?;
    debian::write(&tree, "etc/motd", MOTD, 0o644)?;
    debian::write(&tree, "var/www/html/.keep", "", 0o644)?;
    fs::remove_file(tree.join("var/www/html/.keep")).map_err(io_error("write", &tree))?;
    for (target, link) in
        [("yum", "usr/local/bin/dnf"), ("apache2", "etc/httpd"), ("apache2", "var/log/httpd")]
    {
        let link = tree.join(link);
        symlink(target, &link).map_err(io_error("create", &link))?;
    }
    // Amazon Linux's names for the accounts that Debian calls www-data and sudo.
    append(&tree, "etc/passwd", "apache:x:33:33:Apache:/var/www:/usr/sbin/nologin\n")?;
    append(&tree, "etc/group", "apache:x:33:ec2-user\nwheel:x:990:ec2-user\n")?;
    let day = build.day();
    debian::finish(build, &tree, progress, "ec2-user", |manifest| {
        manifest.name = format!("amzn2-ami-hvm-2.0.{day}.0-x86_64-gp2");
        manifest.also_named = vec![format!("al2023-ami-2023.9.{day}.0-kernel-6.1-x86_64")];
        manifest.description = "gureum al2-compat: Debian 12 in which yum, dnf and httpd map to \
                                apt-get and apache2. It is not Amazon Linux"
            .to_owned();
        manifest.owner_id = Some("137112412989".to_owned());
        manifest.owner_alias = Some("amazon".to_owned());
        // As with Amazon Linux 2: scripts of courses ask IMDS without a token.
        manifest.imds_v2 = false;
    })
}

fn append(tree: &Path, path: &str, text: &str) -> Result<(), Error> {
    let path = tree.join(path);
    let mut whole = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    whole += text;
    fs::write(&path, whole).map_err(io_error("write", &path))
}

/// Makes the carried package files a repository that apt reads without network; their names.
fn carry_packages(tree: &Path) -> Result<Vec<String>, Error> {
    let from = tree.join(debian::CARRIED_IN);
    let to = tree.join(REPOSITORY);
    fs::create_dir_all(&to).map_err(io_error("create", &to))?;
    let mut index = String::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(&from).map_err(io_error("read", &from))?.flatten() {
        let name = entry.file_name().to_string_lossy().replace("%3a", ".");
        let file = to.join(&name);
        fs::rename(entry.path(), &file).map_err(io_error("create", &file))?;
        let fields = tools::run(Command::new("dpkg-deb").arg("-f").arg(&file))?;
        let sum = tools::run(Command::new("sha256sum").arg("-b").arg(&file))?;
        let sum = String::from_utf8_lossy(&sum);
        let size = fs::metadata(&file).map_err(io_error("read", &file))?.len();
        index += &index_entry(
            String::from_utf8_lossy(&fields).trim_end(),
            &name,
            size,
            sum.split(' ').next().unwrap_or_default(),
        );
        names.push(name);
    }
    debian::write(tree, &format!("{REPOSITORY}/Packages"), &index, 0o644)?;
    debian::write(
        tree,
        "etc/apt/sources.list.d/gureum.list",
        &format!("deb [trusted=yes] file:/{REPOSITORY} ./\n"),
        0o644,
    )?;
    Ok(names)
}

/// Installs what the carried packages need, but not they themselves: unpacking libraries is most of
/// the work of installing Apache, and minutes of it without hardware virtualisation. Then apt reads
/// the repository, so that installing works before the first update.
fn install_needed(tree: &Path, files: &[String]) -> Result<(), Error> {
    let needed = files
        .iter()
        .filter(|file| !debian::CARRIED.iter().any(|name| file.starts_with(&format!("{name}_"))))
        .map(|file| format!("/{REPOSITORY}/{file}"));
    tools::run(
        Command::new("chroot")
            .arg(tree)
            .args(["/usr/bin/dpkg", "--force-unsafe-io", "-i"])
            .args(needed)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    )?;
    tools::run(
        Command::new("chroot")
            .arg(tree)
            .args(["/usr/bin/apt-get", "-q", "update"])
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", "Dir::Etc::SourceList=/etc/apt/sources.list.d/gureum.list"])
            .args(["-o", "Dir::Etc::SourceParts=-"])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    )?;
    Ok(())
}

/// A paragraph of a repository's `Packages`.
fn index_entry(fields: &str, name: &str, size: u64, sum: &str) -> String {
    let mut entry = fields.to_owned();
    let _ = write!(entry, "\nFilename: ./{name}\nSize: {size}\nSHA256: {sum}\n\n");
    entry
}

const MOTD: &str = "
This is Debian 12 with the names of Amazon Linux: yum and dnf speak to apt-get, httpd is apache2.

";

/// Both directions of names that the commands share.
const NAMES: &str = r#"# Sourced by yum, systemctl and service.
debian_package() {
    case "$1" in
        httpd) echo apache2 ;;
        httpd-tools) echo apache2-utils ;;
        mod_ssl) echo apache2 ;;
        mariadb|mysql|mariadb105) echo default-mysql-client ;;
        mariadb-server|mysql-server|mariadb105-server) echo default-mysql-server ;;
        docker) echo docker.io ;;
        bind-utils) echo dnsutils ;;
        nmap-ncat|nc) echo ncat ;;
        cronie) echo cron ;;
        php-mysqlnd) echo php-mysql ;;
        aws-cli|awscli-2) echo awscli ;;
        java-*-amazon-corretto*|java-*-openjdk*) echo default-jre-headless ;;
        python-pip) echo python3-pip ;;
        vim|vim-enhanced) echo vim ;;
        amazon-efs-utils) echo nfs-common ;;
        *) echo "$1" ;;
    esac
}
debian_unit() {
    case "${1%.service}" in
        httpd) echo apache2 ;;
        sshd) echo ssh ;;
        crond) echo cron ;;
        mysqld) echo mariadb ;;
        *) echo "$1" ;;
    esac
}
"#;

const YUM: &str = r#"#!/bin/bash
# yum and dnf for Debian: the commands that courses use, said to apt-get.
. /usr/local/lib/gureum/names.sh
export DEBIAN_FRONTEND=noninteractive
command=
yes=
packages=()
for word in "$@"; do
    case "$word" in
        -y|--assumeyes) yes=-y ;;
        -q|--quiet|-e|-d|--nogpgcheck|--skip-broken|--allowerasing) ;;
        --version) echo "gureum's yum, in front of $(apt-get --version | head -1)"; exit 0 ;;
        -*) echo "yum: option $word is not known here; it is left out" >&2 ;;
        *) if [ -z "$command" ]; then command=$word; else packages+=("$(debian_package "$word")"); fi ;;
    esac
done
# The disk of a new machine holds nothing that a crash while installing could lose.
apt() {
    apt-get -q -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Use-Pty=0 "$@"
}
root() {
    if [ "$(id -u)" != 0 ]; then
        echo "This command has to be run with superuser privileges (under the root user on most systems)." >&2
        exit 1
    fi
}
# Without network this fails soon, and the packages that come with the image still install.
refresh() {
    apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=15 update
}
lists() {
    ls /var/lib/apt/lists/*_Packages >/dev/null 2>&1 || refresh
}
case "$command" in
    install|localinstall|reinstall) root; lists; apt $yes install "${packages[@]}" ;;
    update|upgrade|upgrade-minimal)
        root
        refresh
        if [ ${#packages[@]} -gt 0 ]; then
            apt $yes install --only-upgrade "${packages[@]}"
        else
            apt $yes upgrade
        fi ;;
    remove|erase) root; apt $yes remove "${packages[@]}" ;;
    autoremove) root; apt $yes autoremove ;;
    makecache|check-update) root; refresh ;;
    clean) root; exec apt-get clean ;;
    search) lists; exec apt-cache search "${packages[@]}" ;;
    info) lists; exec apt-cache show "${packages[@]}" ;;
    list) exec dpkg-query -W "${packages[@]}" ;;
    provides|whatprovides) exec dpkg -S "${packages[@]}" ;;
    "") echo "usage: yum [-y] install|update|remove|search|info|list|clean PACKAGE…" >&2; exit 1 ;;
    *)
        echo "yum: $command is not among the commands that this image maps to apt-get" >&2
        exit 1 ;;
esac
"#;

const SYSTEMCTL: &str = r#"#!/bin/bash
# systemctl that knows Amazon Linux's unit names.
. /usr/local/lib/gureum/names.sh
words=()
for word in "$@"; do
    case "$word" in
        -*) words+=("$word") ;;
        *) words+=("$(debian_unit "$word")") ;;
    esac
done
exec /usr/bin/systemctl "${words[@]}"
"#;

const SERVICE: &str = r#"#!/bin/bash
# service NAME ACTION, with Amazon Linux's names.
if [ $# -lt 2 ]; then echo "usage: service NAME start|stop|restart|reload|status" >&2; exit 1; fi
exec /usr/local/bin/systemctl "$2" "$1"
"#;

const CHKCONFIG: &str = r#"#!/bin/bash
# chkconfig NAME on|off.
case "$2" in
    on) exec /usr/local/bin/systemctl enable "$1" ;;
    off) exec /usr/local/bin/systemctl disable "$1" ;;
    *) exec /usr/local/bin/systemctl is-enabled "$1" ;;
esac
"#;

const AMAZON_LINUX_EXTRAS: &str = r#"#!/bin/bash
echo "This is Debian 12 (gureum al2-compat), which has no extras: yum install takes the package from Debian."
case "$1" in install) shift; exec /usr/local/bin/yum -y install "${@%%[0-9=]*}" ;; esac
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a function of names.sh.
    fn mapped(function: &str, name: &str) -> String {
        let script = format!("{NAMES}\n{function} \"$1\"");
        let output = Command::new("bash").args(["-c", &script, "bash", name]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn names_are_mapped() {
        assert_eq!(mapped("debian_package", "httpd"), "apache2");
        assert_eq!(mapped("debian_package", "java-17-amazon-corretto"), "default-jre-headless");
        assert_eq!(mapped("debian_package", "git"), "git");
        assert_eq!(mapped("debian_unit", "httpd.service"), "apache2");
        assert_eq!(mapped("debian_unit", "start"), "start");
    }

    #[test]
    fn the_scripts_are_bash() {
        for script in [NAMES, YUM, SYSTEMCTL, SERVICE, CHKCONFIG, AMAZON_LINUX_EXTRAS] {
            let output = Command::new("bash").args(["-n", "-c", script]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn an_index_entry_ends_with_an_empty_line() {
        let entry = index_entry("Package: a\nVersion: 1", "a_1_all.deb", 5, "00ff");
        assert_eq!(
            entry,
            "Package: a\nVersion: 1\nFilename: ./a_1_all.deb\nSize: 5\nSHA256: 00ff\n\n"
        );
    }
}
