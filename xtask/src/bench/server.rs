//! The servers under load: gureum and its peers, started fresh, asked in the same words.

use super::load;
use crate::setup;
use anyhow::{Context, Result, bail};
use base::Timestamp;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wire::sigv4::{Credentials, RequestParts, Rules, Signer};

/// The versions that the bars were set against; ministack's is whatever PyPI has, and is printed.
pub(super) const PACKAGES: [&str; 2] = ["moto[server]==5.2.1", "ministack"];
const REGION: &str = "us-east-1";
const EC2: &str = "Version=2016-11-15";

/// A request of a query protocol, before it is spelt and signed.
#[derive(Clone, Debug)]
pub(super) struct Question {
    service: &'static str,
    action: &'static str,
    version: &'static str,
    rest: String,
}

impl Question {
    /// To EC2; `rest` is further parameters, each after an `&`.
    pub(super) fn ec2(action: &'static str, rest: &str) -> Self {
        Question { service: "ec2", action, version: "2016-11-15", rest: rest.to_owned() }
    }

    /// To STS.
    pub(super) fn sts(action: &'static str) -> Self {
        Question { service: "sts", action, version: "2011-06-15", rest: String::new() }
    }

    fn body(&self, spelling: usize) -> String {
        let mut body = String::from("Action=");
        let mut bits = spelling;
        for (index, text) in [self.action, self.version].into_iter().enumerate() {
            if index > 0 {
                body.push_str("&Version=");
            }
            for byte in text.bytes() {
                match bits & 1 {
                    0 => body.push(char::from(byte)),
                    _ => body.push_str(&format!("%{byte:02X}")),
                }
                bits >>= 1;
            }
        }
        body.push_str(&self.rest);
        body
    }
}

/// A running server; it and its children end when this is dropped.
pub(super) struct Server {
    /// What the table calls it.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// From its start until it had answered a DescribeInstances.
    pub first_answer: Duration,
    child: Child,
    log: PathBuf,
    access_key_id: String,
    secret_access_key: String,
    image: String,
}

/// Where gureum's binary and the peers' are, and where all of them may write.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    /// The release build of gureum; `None` if only peers are measured.
    pub gureum: Option<PathBuf>,
    /// The `bin` of the peers' venv.
    pub peers: PathBuf,
    /// Logs and data directories.
    pub work: PathBuf,
}

impl Tools {
    /// Starts moto_server.
    pub(super) fn moto(&self) -> Result<Server> {
        let port = free_port()?;
        let mut command = Command::new(self.peers.join("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        self.start("moto", command, port, None)
    }

    /// Starts ministack.
    pub(super) fn ministack(&self) -> Result<Server> {
        let port = free_port()?;
        let mut command = Command::new(self.peers.join("ministack"));
        command.env("GATEWAY_PORT", port.to_string()).env("BIND_HOST", "127.0.0.1");
        // Its access log costs it speed that it need not lose.
        command.env("LOG_LEVEL", "ERROR");
        self.start("ministack", command, port, None)
    }

    /// Starts gureum on `data`, which is kept if it is there, and waits for its first answer.
    pub(super) fn gureum(&self, data: &Path) -> Result<Server> {
        self.gureum_with(data, &["--driver", "sim"], "error")
    }

    /// Starts gureum with further arguments and what its log is to say.
    pub(super) fn gureum_with(&self, data: &Path, more: &[&str], log: &str) -> Result<Server> {
        let port = free_port()?;
        let binary = self.gureum.as_ref().context("gureum is not built")?;
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(data);
        command.args(more).env("GUREUM_LOG", log).env("NO_COLOR", "1");
        self.start("gureum", command, port, Some(data))
    }

    /// The root's key of the region in `data`, from what `gureum env` prints.
    fn credentials(&self, data: &Path) -> Result<(String, String)> {
        let binary = self.gureum.as_ref().context("gureum is not built")?;
        let output = Command::new(binary).arg("env").arg("--data-dir").arg(data).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(&format!("export {name}=")))
                .map(|value| value.trim_matches(['\'', '"']).to_owned())
                .with_context(|| format!("gureum env prints no {name}"))
        };
        Ok((value("AWS_ACCESS_KEY_ID")?, value("AWS_SECRET_ACCESS_KEY")?))
    }

    /// An empty directory for gureum to keep its state in.
    pub(super) fn fresh_data(&self, name: &str) -> Result<PathBuf> {
        let data = self.work.join(name);
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
        }
        fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        Ok(data)
    }

    fn start(
        &self,
        name: &'static str,
        mut command: Command,
        port: u16,
        data: Option<&Path>,
    ) -> Result<Server> {
        fs::create_dir_all(&self.work)?;
        let log = self.work.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        // Known before the start, if the region has been there before: the time to the first answer
        // should not contain a second process.
        let mut keys = data.map(|data| self.credentials(data)).transpose().unwrap_or_default();
        let begun = Instant::now();
        let child = command
            .current_dir(&self.work)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server {
            name,
            address,
            child,
            log,
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            image: String::new(),
            first_answer: Duration::ZERO,
        };
        server.wait_until_open()?;
        // The port is open before the key is there.
        while let (None, Some(data)) = (&keys, data) {
            match self.credentials(data) {
                Ok(found) => keys = Some(found),
                Err(error) if begun.elapsed() > Duration::from_secs(60) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        if let Some((id, secret)) = keys {
            (server.access_key_id, server.secret_access_key) = (id, secret);
        }
        server.ask("ec2", &format!("Action=DescribeInstances&MaxResults=5&{EC2}"))?;
        server.first_answer = begun.elapsed();
        let images = server.ask("ec2", &format!("Action=DescribeImages&{EC2}"))?;
        let images = all(&images, "imageId");
        server.image =
            images.first().with_context(|| format!("{name} has no image to launch"))?.to_string();
        Ok(server)
    }
}

impl Server {
    /// The image that launches use.
    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A question, signed now, as bytes for the wire. Each `spelling` but 0 escapes other letters
    /// that need no escape: the same question in other bytes.
    pub(super) fn request(&self, question: &Question, spelling: usize) -> Vec<u8> {
        self.sign(question.service, &question.body(spelling))
    }

    fn sign(&self, service: &str, body: &str) -> Vec<u8> {
        let host = self.address.to_string();
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let headers = [("host", host.as_bytes()), ("content-type", kind.as_bytes())];
        let credentials = Credentials {
            access_key_id: &self.access_key_id,
            secret_access_key: &self.secret_access_key,
            session_token: None,
        };
        let signer = Signer { credentials, region: REGION, service, rules: Rules::STANDARD };
        let body_bytes = body.as_bytes();
        let parts = RequestParts {
            method: "POST",
            path: "/",
            query: "",
            headers: &headers,
            body: body_bytes,
        };
        let mut text = format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in signer.headers(&parts, Timestamp::wall()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }

    /// Asks once and gives the body.
    pub(super) fn ask(&self, service: &str, body: &str) -> Result<String> {
        let (status, text) = load::call(self.address, &self.sign(service, body))?;
        if status != 200 {
            bail!("{} answers {status} to {body}: {}", self.name, start_of(&text));
        }
        Ok(text)
    }

    /// A launch of one instance. The zones are taken in turn: a default subnet has 4,091 addresses,
    /// which would not do for a second of launches.
    pub(super) fn launches(&self) -> Vec<Vec<u8>> {
        ["a", "b", "c", "d", "e", "f"].map(|zone| self.launch(1, zone)).to_vec()
    }

    fn launch(&self, count: usize, zone: &str) -> Vec<u8> {
        let image = &self.image;
        let rest = format!(
            "&ImageId={image}&InstanceType=t3.micro&MinCount={count}&MaxCount={count}\
             &Placement.AvailabilityZone={REGION}{zone}"
        );
        self.request(&Question::ec2("RunInstances", &rest), 0)
    }

    /// The ids of all instances.
    pub(super) fn instances(&self) -> Result<Vec<String>> {
        let text = self.ask("ec2", &format!("Action=DescribeInstances&{EC2}"))?;
        let mut ids: Vec<_> = all(&text, "instanceId").into_iter().map(str::to_owned).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Launches instances until there are `count`, ten at a time: moto shows no more than a hundred
    /// reservations at once.
    pub(super) fn grow_to(&self, count: usize) -> Result<()> {
        const AT_ONCE: usize = 10;
        let launch = self.launch(AT_ONCE, "a");
        for _ in (self.instances()?.len()..count).step_by(AT_ONCE) {
            let (status, text) = load::call(self.address, &launch)?;
            if status != 200 {
                bail!("{} answers {status} to RunInstances: {}", self.name, start_of(&text));
            }
        }
        let there = self.instances()?.len();
        if there != count {
            bail!("{} has {there} instances instead of {count}", self.name);
        }
        Ok(())
    }

    /// What it has logged so far.
    pub(super) fn logged(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// Processor time that it has used so far, in seconds. The kernel counts in hundredths.
    pub(super) fn processor_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).context(path)?;
        // The name, which may hold spaces, ends with the last parenthesis; then utime is the 12th.
        let fields = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// Resident memory, in MiB.
    pub(super) fn resident_mib(&self) -> Result<f64> {
        resident_mib(self.pid())
    }

    fn wait_until_open(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} ended ({status}): {}", self.name, start_of(&log));
            }
            if Instant::now() > deadline {
                bail!("{} did not listen within 60 s; see {}", self.name, self.log.display());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The whole group: ministack may have helpers. `kill` is in every Debian.
        let group = format!("-{}", self.child.id());
        let _ = setup::quiet(Command::new("kill").args(["-KILL", "--", &group]));
        let _ = self.child.wait();
    }
}

/// Resident memory of a process, in MiB.
pub(super) fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// The text of every element of that name.
pub(super) fn all<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let tag = format!("<{name}>");
    xml.split(&tag).skip(1).filter_map(|rest| rest.split('<').next()).collect()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn start_of(text: &str) -> String {
    text.chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_differ_and_mean_the_same() {
        let question = Question::ec2("DescribeInstances", "&InstanceId.1=i-1");
        let plain = "Action=DescribeInstances&Version=2016-11-15&InstanceId.1=i-1";
        assert_eq!(question.body(0), plain);
        assert!(question.body(0b101).starts_with("Action=%44e%73cribeInstances&"));
        let bodies: std::collections::HashSet<_> = (0..1 << 12).map(|s| question.body(s)).collect();
        assert_eq!(bodies.len(), 1 << 12);
    }
}
