//! Commands of the micro image that busybox has not: `ec2-metadata`, `hostname` (busybox' needs the
//! name service), `sudo` and `shutdown`.

use crate::imds::Client;
use crate::sys;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Group whose members may become root without a password; the login user is in it.
const ADMINISTRATORS: &str = "wheel";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `ec2-metadata [--OPTION | PATH]`: prints items of IMDS, version 2. A path is one below
/// `/latest/`, or below `/latest/meta-data/`; the options are those of Amazon Linux.
pub(crate) fn ec2_metadata(arguments: &[String]) -> ExitCode {
    let client = match Client::connect(Duration::from_secs(2)) {
        Ok(client) => client,
        Err(error) => return fail("ec2-metadata", &error.to_string()),
    };
    let Some(argument) = arguments.first() else {
        for (_, name, path) in OPTIONS {
            let value = client.text(path).ok().flatten();
            println!("{name}: {}", value.as_deref().unwrap_or("not available"));
        }
        return ExitCode::SUCCESS;
    };
    let option = OPTIONS.iter().find(|(letter, name, _)| {
        argument.strip_prefix("--") == Some(name) || argument.strip_prefix('-') == Some(letter)
    });
    if let Some((_, name, path)) = option {
        return match client.text(path) {
            Ok(value) => {
                println!("{name}: {}", value.as_deref().unwrap_or("not available"));
                ExitCode::SUCCESS
            }
            Err(error) => fail("ec2-metadata", &error.to_string()),
        };
    }
    if argument.starts_with('-') {
        return fail("ec2-metadata", &format!("unknown option {argument}"));
    }
    let path = argument.trim_start_matches('/').trim_start_matches("latest/");
    let below = ["meta-data", "dynamic", "user-data"].iter().any(|top| path.starts_with(top));
    let path = if below { path.to_owned() } else { format!("meta-data/{path}") };
    match client.get(&path) {
        Ok(mut value) => {
            if !value.ends_with(b"\n") {
                value.push(b'\n');
            }
            let _ = std::io::stdout().write_all(&value);
            ExitCode::SUCCESS
        }
        Err(error) => fail("ec2-metadata", &format!("{path}: {error}")),
    }
}

const OPTIONS: [(&str, &str, &str); 11] = [
    ("a", "ami-id", "meta-data/ami-id"),
    ("i", "instance-id", "meta-data/instance-id"),
    ("t", "instance-type", "meta-data/instance-type"),
    ("h", "local-hostname", "meta-data/local-hostname"),
    ("o", "local-ipv4", "meta-data/local-ipv4"),
    ("z", "placement", "meta-data/placement/availability-zone"),
    ("p", "public-hostname", "meta-data/public-hostname"),
    ("v", "public-ipv4", "meta-data/public-ipv4"),
    ("s", "security-groups", "meta-data/security-groups"),
    ("R", "region", "meta-data/placement/region"),
    ("d", "user-data", "user-data"),
];

fn fail(command: &str, message: &str) -> ExitCode {
    eprintln!("{command}: {message}");
    ExitCode::FAILURE
}

/// `hostname [-s|-f|-d|-i|NAME]`.
pub(crate) fn hostname(arguments: &[String]) -> ExitCode {
    let short = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let short = short.trim();
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let (address, full) = host_entry(&hosts, short).unwrap_or(("", short));
    match arguments.first().map(String::as_str) {
        None => println!("{short}"),
        Some("-s" | "--short") => println!("{}", short.split('.').next().unwrap_or(short)),
        Some("-f" | "--fqdn" | "--long") => println!("{full}"),
        Some("-d" | "--domain") => {
            println!("{}", full.split_once('.').map_or("", |(_, rest)| rest))
        }
        Some("-i" | "-I" | "--ip-address" | "--all-ip-addresses") => println!("{address}"),
        Some(name) if !name.starts_with('-') => {
            if let Err(error) = sys::set_hostname(name) {
                return fail("hostname", &error.to_string());
            }
        }
        Some(option) => return fail("hostname", &format!("unknown option {option}")),
    }
    ExitCode::SUCCESS
}

/// Address and first name of the line of /etc/hosts that has `name`.
fn host_entry<'a>(hosts: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or(line).split_ascii_whitespace();
        let (address, first) = (words.next()?, words.next()?);
        (first == name || words.any(|word| word == name)).then_some((address, first))
    })
}

/// What `sudo` was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    user: String,
    /// A login shell or a shell instead of a command.
    shell: bool,
    keep_environment: bool,
    assignments: Vec<(String, String)>,
    command: Vec<String>,
}

/// Reads sudo's command line, the part of it that people use.
fn order(arguments: &[String]) -> Result<Order, String> {
    let mut order = Order {
        user: "root".into(),
        shell: false,
        keep_environment: false,
        assignments: Vec::new(),
        command: Vec::new(),
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => {
                order.command.extend(words.by_ref().cloned());
                break;
            }
            "-n" | "-S" | "-H" | "-k" | "-v" | "-b" | "--non-interactive" | "--set-home" => {}
            "-E" | "--preserve-env" => order.keep_environment = true,
            "-i" | "-s" | "--login" | "--shell" => order.shell = true,
            "-u" | "--user" => order.user = words.next().ok_or("-u needs a user")?.clone(),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            word => match word.split_once('=') {
                Some((name, value)) if order.command.is_empty() && !name.contains('/') => {
                    order.assignments.push((name.into(), value.into()));
                }
                _ => {
                    order.command.push(word.into());
                    order.command.extend(words.by_ref().cloned());
                }
            },
        }
    }
    Ok(order)
}

/// A line of /etc/passwd: user id, group id, home, shell.
fn account<'a>(passwd: &'a str, user: &str) -> Option<(u32, u32, &'a str, &'a str)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, group, _, home, shell] = fields[..] else { return None };
        (name == user).then(|| Some((id.parse().ok()?, group.parse().ok()?, home, shell)))?
    })
}

/// Whether the account with this id may become anybody.
fn may_become_root(id: u32, passwd: &str, groups: &str) -> bool {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    });
    id == 0
        || name.is_some_and(|name| {
            groups.lines().any(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                matches!(fields[..], [group, _, _, members] if group == ADMINISTRATORS
                    && members.split(',').any(|member| member == name))
            })
        })
}

/// `sudo [-u USER] [-i|-s] [NAME=VALUE] COMMAND…`, without password, for [`ADMINISTRATORS`].
pub(crate) fn sudo(arguments: &[String]) -> ExitCode {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (passwd, groups) = (read("/etc/passwd"), read("/etc/group"));
    if !may_become_root(sys::user_id(), &passwd, &groups) {
        return fail("sudo", &format!("you are not in the group {ADMINISTRATORS}"));
    }
    let order = match order(arguments) {
        Ok(order) => order,
        Err(message) => return fail("sudo", &message),
    };
    let Some((user, group, home, shell)) = account(&passwd, &order.user) else {
        return fail("sudo", &format!("there is no user {}", order.user));
    };
    let mut words = order.command.clone();
    if order.shell {
        let command = words.join(" ");
        words = vec![shell.to_owned()];
        if !command.is_empty() {
            words.extend(["-c".to_owned(), command]);
        }
    }
    let Some((program, rest)) = words.split_first() else {
        return fail("sudo", "usage: sudo [-u USER] [-i|-s] [NAME=VALUE] COMMAND…");
    };
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
    if let Err(error) = sys::become_user(user, group, &[group]) {
        return fail("sudo", &format!("cannot become {}: {error}", order.user));
    }
    // The program is looked up on this path, not on the caller's.
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("PATH", PATH) };
    let mut command = Command::new(program);
    if !order.keep_environment {
        command.env_clear().env("TERM", term);
    }
    command.args(rest).env("PATH", PATH).env("HOME", home).env("USER", &order.user);
    command.env("LOGNAME", &order.user).env("SHELL", shell).envs(order.assignments);
    let error = command.exec();
    fail("sudo", &format!("{program}: {error}"))
}

/// `shutdown [-h|-P|-r|-H] [now|+MINUTES]`.
pub(crate) fn shutdown(arguments: &[String]) -> ExitCode {
    let (signal, minutes) = match shutdown_order(arguments) {
        Ok(order) => order,
        Err(message) => return fail("shutdown", &message),
    };
    if minutes == 0 {
        return match sys::kill(1, signal) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail("shutdown", &format!("cannot signal init: {error}")),
        };
    }
    if sys::user_id() != 0 {
        return fail("shutdown", "only root may do this");
    }
    let later = sys::fork(|| {
        sys::new_session();
        std::thread::sleep(Duration::from_secs(minutes * 60));
        let _ = sys::kill(1, signal);
        0
    });
    match later {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail("shutdown", &error.to_string()),
    }
}

/// The signal for init and the minutes to wait.
fn shutdown_order(arguments: &[String]) -> Result<(i32, u64), String> {
    let mut order = (libc::SIGUSR2, 1);
    for argument in arguments {
        match argument.as_str() {
            "-h" | "-P" | "--poweroff" => order.0 = libc::SIGUSR2,
            "-r" | "--reboot" => order.0 = libc::SIGTERM,
            "-H" | "--halt" => order.0 = libc::SIGUSR1,
            "now" => order.1 = 0,
            time => {
                let minutes = time.strip_prefix('+').unwrap_or(time).parse();
                order.1 = minutes.map_err(|_| format!("cannot understand {time}"))?;
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_ascii_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_full_name_is_the_first_of_its_line() {
        let hosts = "127.0.0.1 localhost\n# 1.2.3.4 x\n172.31.5.7 ip-1.ec2.internal ip-1\n";
        assert_eq!(host_entry(hosts, "ip-1"), Some(("172.31.5.7", "ip-1.ec2.internal")));
        assert_eq!(host_entry(hosts, "x"), None);
    }

    #[test]
    fn sudo_understands_what_people_type() {
        let order = order(&words("-E -u ec2-user A=1 env B=2 -n")).unwrap();
        assert_eq!(order.user, "ec2-user");
        assert!(order.keep_environment);
        assert_eq!(order.assignments, [("A".to_owned(), "1".to_owned())]);
        assert_eq!(order.command, ["env", "B=2", "-n"]);
        assert!(super::order(&words("-u")).is_err());
        assert!(super::order(&words("--frobnicate x")).is_err());
    }

    #[test]
    fn only_administrators_become_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\nec2-user:x:1000:1000::/home/ec2-user:/bin/sh\n\
                      eve:x:1001:1001::/:/bin/sh\n";
        let groups = "root:x:0:\nwheel:x:10:ec2-user\nother:x:11:eve\n";
        assert!(may_become_root(0, passwd, groups));
        assert!(may_become_root(1000, passwd, groups));
        assert!(!may_become_root(1001, passwd, groups));
        assert!(!may_become_root(5, passwd, groups));
        assert_eq!(account(passwd, "eve"), Some((1001, 1001, "/", "/bin/sh")));
        assert_eq!(account(passwd, "nobody"), None);
    }

    #[test]
    fn shutdown_understands_now_and_later() {
        assert_eq!(shutdown_order(&words("-h now")), Ok((libc::SIGUSR2, 0)));
        assert_eq!(shutdown_order(&words("-r +5")), Ok((libc::SIGTERM, 5)));
        assert_eq!(shutdown_order(&[]), Ok((libc::SIGUSR2, 1)));
        assert!(shutdown_order(&words("-c")).is_err());
    }
}
