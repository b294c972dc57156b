//! `cargo xtask demo`: the first lesson of every EC2 course, on this machine, through aws-cli.
//!
//! It installs what is missing, builds a release, builds the `micro` image, starts a region and
//! plays the lesson, printing each command, its answer in a line and how long it took. Run again,
//! it takes seconds. `--stop` leaves nothing behind but the data directory.

use crate::setup;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const ADDRESS: &str = "127.0.0.1:4566";

const USER_DATA: &str = "#!/bin/sh
mkdir -p /var/www
echo \"<h1>Hello World from $(hostname -f)</h1>\" > /var/www/index.html
httpd -p 80 -h /var/www
";

struct Demo {
    gureum: PathBuf,
    data: PathBuf,
    aws: PathBuf,
    credentials: Vec<(String, String)>,
}

/// Runs the demo, or stops what it started.
///
/// # Errors
/// A step failed; the text says which and why.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut data = PathBuf::from("/var/lib/gureum");
    let mut stop = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--stop" => stop = true,
            "--data-dir" => data = rest.next().context("--data-dir needs a directory")?.into(),
            other => {
                bail!("unknown argument {other}; usage: cargo xtask demo [--stop] [--data-dir DIR]")
            }
        }
    }
    if !setup::is_root() {
        bail!(
            "the demo makes network namespaces and virtual machines: run it as root \
             (without privileges, `cargo run -p gureum -- serve --driver sim` gives the simulated region)"
        );
    }
    if stop {
        return stop_all(&data);
    }
    let begun = Instant::now();
    step("packages", setup::machine_packages)?;
    fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
    let gureum = step("release build", || setup::build("release"))?;
    let aws = step("aws-cli", || find_aws(&data))?;
    step("micro image", || {
        setup::quiet(
            Command::new(&gureum)
                .args(["image", "build", "micro", "--if-missing"])
                .arg("--data-dir")
                .arg(&data),
        )
    })?;
    step("region", || start_region(&gureum, &data))?;
    let credentials = environment(&gureum, &data)?;
    let demo = Demo { gureum, data, aws, credentials };
    demo.lesson()?;
    println!("\nthe whole demo took {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn stop_all(data: &Path) -> Result<()> {
    let gureum = setup::target().join("release/gureum");
    if !gureum.exists() {
        bail!("{} is not built: nothing was started", gureum.display());
    }
    setup::quiet(Command::new(&gureum).arg("down").arg("--data-dir").arg(data))?;
    println!("stopped; {} is kept", data.display());
    Ok(())
}

/// Does one step of the preparation, with progress lines once it takes longer than two seconds.
fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let result = with_progress(name, work);
    if result.is_ok() {
        println!("{name}: ready ({:.1} s)", begun.elapsed().as_secs_f64());
    }
    result.with_context(|| name.to_owned())
}

fn with_progress<T>(name: &str, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, waiting) = mpsc::channel::<()>();
        scope.spawn(move || {
            let begun = Instant::now();
            let mut pause = Duration::from_secs(2);
            while waiting.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                println!("  … {name}: {:.0} s", begun.elapsed().as_secs_f64());
                pause = Duration::from_secs(10);
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn find_aws(data: &Path) -> Result<PathBuf> {
    if setup::present("aws")
        && Command::new("aws").arg("--version").output().is_ok_and(|o| o.status.success())
    {
        return Ok("aws".into());
    }
    Ok(setup::venv(&data.join("venv"), &["awscli"])?.join("aws"))
}

fn start_region(gureum: &Path, data: &Path) -> Result<()> {
    if healthy() {
        return Ok(());
    }
    let log = data.join("gureum.log");
    let output = File::options().create(true).append(true).open(&log)?;
    let mut child = Command::new(gureum)
        .args(["serve", "--driver", "qemu", "--listen", ADDRESS, "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while !healthy() {
        if let Some(status) = child.try_wait()? {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            bail!(
                "gureum serve ended ({status}):\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        if Instant::now() > deadline {
            bail!("the region did not answer at {ADDRESS} within 120 s; see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn healthy() -> bool {
    Command::new("curl")
        .args(["-fsS", "-m", "2", "--noproxy", "*", &format!("http://{ADDRESS}/_gureum/health")])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The lines of `gureum env` as variables.
fn environment(gureum: &Path, data: &Path) -> Result<Vec<(String, String)>> {
    let output =
        Command::new(gureum).args(["env", "--listen", ADDRESS, "--data-dir"]).arg(data).output()?;
    if !output.status.success() {
        bail!("gureum env: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect())
}

fn one_line(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(160) {
        Some((cut, _)) => format!("{}…", &flat[..cut]),
        None => flat,
    }
}

impl Demo {
    /// Runs a command of the lesson and prints it as the user would type it.
    fn show(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let quoted: Vec<String> = arguments
            .iter()
            .map(|a| if a.contains([' ', '$', '<', '\n']) { format!("'{a}'") } else { (*a).into() })
            .collect();
        println!("\n$ {name} {}", quoted.join(" "));
        let begun = Instant::now();
        let output = with_progress(&name, || {
            Command::new(program)
                .args(arguments)
                .envs(self.credentials.iter().map(|(k, v)| (k, v)))
                .env("AWS_PAGER", "")
                .stdin(Stdio::null())
                .output()
        })
        .with_context(|| format!("cannot run {name}"))?;
        let text = if output.status.success() { &output.stdout } else { &output.stderr };
        let line = one_line(&String::from_utf8_lossy(text));
        println!(
            "{line}{}({:.1} s)",
            if line.is_empty() { "" } else { "  " },
            begun.elapsed().as_secs_f64()
        );
        Ok(output)
    }

    /// Runs aws-cli, shown as the user would type it; gives its output.
    fn aws(&self, line: &str, more: &[&str]) -> Result<String> {
        let arguments: Vec<&str> = line.split(' ').chain(more.iter().copied()).collect();
        Self::output(line, &self.show(&self.aws, &arguments)?)
    }

    /// The same, with one part of the answer.
    fn query(&self, line: &str, more: &[&str], query: &str) -> Result<String> {
        self.aws(line, &[more, &["--query", query, "--output", "text"]].concat())
    }

    /// Runs aws-cli without showing it.
    fn quiet(&self, line: &str, more: &[&str]) -> Result<String> {
        let output = Command::new(&self.aws)
            .args(line.split(' '))
            .args(more)
            .envs(self.credentials.iter().map(|(k, v)| (k, v)))
            .env("AWS_PAGER", "")
            .output()?;
        Self::output(line, &output)
    }

    fn output(line: &str, output: &Output) -> Result<String> {
        if !output.status.success() {
            bail!("aws {line} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Removes what an earlier demo left.
    fn clean_up(&self) -> Result<()> {
        let ids = self.quiet(
            "ec2 describe-instances --query Reservations[].Instances[].InstanceId --output text --filters",
            &[
                "Name=tag:Name,Values=gureum-demo",
                "Name=instance-state-name,Values=pending,running,stopping,stopped",
            ],
        )?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            println!("terminating what an earlier demo left: {}", ids.join(" "));
            self.quiet("ec2 terminate-instances --instance-ids", &ids)?;
            self.quiet("ec2 wait instance-terminated --instance-ids", &ids)?;
        }
        self.quiet("ec2 delete-key-pair --key-name gureum-demo", &[])?;
        let group = "ec2 describe-security-groups --filters Name=group-name,Values=gureum-demo \
                     --query SecurityGroups[].GroupId --output text";
        if !self.quiet(group, &[])?.is_empty() {
            self.quiet("ec2 delete-security-group --group-name gureum-demo", &[])?;
        }
        Ok(())
    }

    fn lesson(&self) -> Result<()> {
        self.clean_up()?;
        println!("\n— The lesson: a key, a firewall, a machine with a web page —");
        let pem = self.data.join("gureum-demo.pem");
        let _ = fs::remove_file(&pem);
        let create = "ec2 create-key-pair --key-name gureum-demo --key-type ed25519 \
                      --query KeyMaterial --output text";
        println!("\n$ aws {create} > {}", pem.display());
        let material = self.quiet(create, &[])?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&pem)?;
        writeln!(file, "{material}")?;

        let group = self.query(
            "ec2 create-security-group --group-name gureum-demo --description",
            &["the first lesson"],
            "GroupId",
        )?;
        for port in ["22", "80"] {
            self.query(
                &format!(
                    "ec2 authorize-security-group-ingress --group-id {group} --protocol tcp \
                     --port {port} --cidr 0.0.0.0/0"
                ),
                &[],
                "SecurityGroupRules[].[IpProtocol,FromPort,CidrIpv4]",
            )?;
        }
        // Its disk is taken into the blob store at the first start.
        self.aws("ec2 wait image-exists --filters Name=name,Values=gureum-micro-*", &[])?;
        let image = self.query(
            "ec2 describe-images --filters Name=name,Values=gureum-micro-*",
            &[],
            "Images[0].ImageId",
        )?;
        let (instance, address) = self.launch(&image, &group)?;
        self.aws(&format!("ec2 wait instance-status-ok --instance-ids {instance}"), &[])?;
        self.ssh(&pem, &address, "hostname -f; uptime")?;

        println!("\n— Stop and start: same disk, same private address, a new public one —");
        let stop = format!("ec2 stop-instances --instance-ids {instance}");
        self.query(&stop, &[], "StoppingInstances[].CurrentState.Name")?;
        self.aws(&format!("ec2 wait instance-stopped --instance-ids {instance}"), &[])?;
        let start = format!("ec2 start-instances --instance-ids {instance}");
        self.query(&start, &[], "StartingInstances[].CurrentState.Name")?;
        let address = self.running(&instance)?;
        self.ssh(&pem, &address, "hostname -f; ls -l /var/www/index.html")?;

        println!("\n— Terminate: the machine and its disk are gone —");
        let terminate = format!("ec2 terminate-instances --instance-ids {instance}");
        self.query(&terminate, &[], "TerminatingInstances[].CurrentState.Name")?;
        self.aws(&format!("ec2 wait instance-terminated --instance-ids {instance}"), &[])?;

        println!("\n— One more to keep: it is yours —");
        let (_, address) = self.launch(&image, &group)?;
        println!("\nthe page:  http://{address}/");
        println!(
            "log in:    ssh -i {} -o StrictHostKeyChecking=accept-new ec2-user@{address}",
            pem.display()
        );
        println!("go on by hand:");
        for (name, value) in &self.credentials {
            println!("  export {name}={value}");
        }
        println!(
            "  (or: eval \"$({} env --data-dir {})\")",
            self.gureum.display(),
            self.data.display()
        );
        println!("stop it all: cargo xtask demo --stop");
        Ok(())
    }

    /// Launches a machine with a web page and waits for the page; gives id and public address.
    fn launch(&self, image: &str, group: &str) -> Result<(String, String)> {
        let launched = Instant::now();
        let instance = self.query(
            &format!(
                "ec2 run-instances --image-id {image} --instance-type t3.micro \
                 --key-name gureum-demo --security-group-ids {group} \
                 --tag-specifications ResourceType=instance,Tags=[{{Key=Name,Value=gureum-demo}}] \
                 --user-data"
            ),
            &[USER_DATA],
            "Instances[0].InstanceId",
        )?;
        let address = self.running(&instance)?;
        self.page(&format!("http://{address}/"), launched)?;
        Ok((instance, address))
    }

    /// Waits until an instance runs; gives its public address.
    fn running(&self, instance: &str) -> Result<String> {
        self.aws(&format!("ec2 wait instance-running --instance-ids {instance}"), &[])?;
        self.query(
            &format!("ec2 describe-instances --instance-ids {instance}"),
            &[],
            "Reservations[0].Instances[0].PublicIpAddress",
        )
    }

    /// Waits for the page, as a person who presses reload would.
    fn page(&self, url: &str, launched: Instant) -> Result<()> {
        println!("\n$ curl {url}");
        let page = with_progress("curl", || {
            let deadline = Instant::now() + Duration::from_secs(180);
            while Instant::now() < deadline {
                let output = Command::new("curl")
                    .args(["-fsS", "-m", "2", "--noproxy", "*", url])
                    .output()?;
                if output.status.success() {
                    return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            bail!("no page at {url} within 180 s")
        })?;
        println!("{page}  ({:.1} s after run-instances)", launched.elapsed().as_secs_f64());
        Ok(())
    }

    fn ssh(&self, pem: &Path, address: &str, command: &str) -> Result<()> {
        let pem = pem.display().to_string();
        let login = format!("ec2-user@{address}");
        let arguments = [
            "-i",
            &pem,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ConnectTimeout=60",
            "-o",
            "ConnectionAttempts=10",
            &login,
            command,
        ];
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let output = self.show(Path::new("ssh"), &arguments)?;
            if output.status.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "ssh to {address} failed: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
