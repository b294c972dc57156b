//! The qemu driver with real machines, without a network: a Debian cloud kernel and an initrd of
//! busybox. Needs root; runs when GUREUM_PRIVILEGED_TESTS=1. Five short boots in all.

use base::image::{Boot, Manifest};
use base::machine::{Driver as _, ExitCause, Metadata, Spec, State, Volume, Wanted};
use base::{Clock, Timestamp};
use node::qemu::{Accelerator, Config, Driver, Timing};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ID: &str = "i-0123456789abcdef0";
const ROOT: &str = "vol-0123456789abcdef0";
const DATA: &str = "vol-0123456789abcdef1";

/// Says what it sees of its machine, powers off at the button, or at once if it is told to.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk button evdev; do
  insmod /m/$m.ko
done
dmi=/sys/class/dmi/id
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\necho MARKER button\npoweroff -f\n' > /etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
case "$(cat /proc/cmdline)" in *gureum.off*) echo MARKER off; poweroff -f;; esac
acpid -d -l /dev/console &
tries=0
while [ ! -e /sys/block/vdb/serial ] && [ $tries -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
echo "MARKER uuid=$(cat $dmi/product_uuid) vendor=$(cat $dmi/sys_vendor) product=$(cat $dmi/product_name)"
for disk in vda vdb; do
  echo "MARKER $disk serial=$(cat /sys/block/$disk/serial) sectors=$(cat /sys/block/$disk/size)"
done
echo "MARKER content=$(head -c 5 /dev/vda)"
echo "MARKER up"
case "$(cat /proc/cmdline)" in *gureum.fill*) dd if=/dev/zero of=/dev/vdb bs=1M; echo MARKER filled;; esac
exec sleep 1000000
"#;

fn run(program: &str, arguments: &[&str], directory: &Path) {
    let status = Command::new(program).args(arguments).current_dir(directory).status();
    assert!(status.expect(program).success(), "{program} {arguments:?}");
}

/// A directory with `vmlinuz` and `initrd`, made once and kept beside cargo's output.
fn kernel() -> PathBuf {
    // Tests of one process share it; it is made again when its script changes.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("test-kernel");
    if fs::read_to_string(cache.join("init")).is_ok_and(|made| made == INIT) {
        return cache;
    }
    let work = tempfile::tempdir().unwrap();
    let here = work.path();
    let depends = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output();
    let depends = String::from_utf8(depends.expect("apt-cache").stdout).unwrap();
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    run("apt-get", &["download", "-q", package.expect("the kernel's package")], here);
    run("sh", &["-c", "dpkg-deb -x *.deb package"], here);
    let script = "set -e; mkdir -p initrd/bin initrd/m initrd/proc initrd/sys initrd/dev; \
        cp /bin/busybox initrd/bin/; cp init initrd/init; chmod +x initrd/init; \
        for m in virtio virtio_ring virtio_pci virtio_pci_legacy_dev virtio_pci_modern_dev \
        virtio_blk button evdev; do find package/lib -name $m.ko -exec cp {} initrd/m/ \\;; done; \
        cd initrd; find . | busybox cpio -o -H newc | gzip -1 > ../initrd.gz";
    fs::write(here.join("init"), INIT).unwrap();
    run("sh", &["-c", script], here);
    fs::create_dir_all(&cache).unwrap();
    run("sh", &["-c", "cp package/boot/vmlinuz-* kernel"], here);
    fs::copy(here.join("kernel"), cache.join("vmlinuz")).unwrap();
    fs::copy(here.join("initrd.gz"), cache.join("initrd")).unwrap();
    fs::write(cache.join("init"), INIT).unwrap();
    cache
}

fn image(images: &Path, key: &str, command_line: &str) {
    let directory = images.join(key);
    fs::create_dir_all(&directory).unwrap();
    for file in ["vmlinuz", "initrd"] {
        fs::copy(kernel().join(file), directory.join(file)).unwrap();
    }
    let mut disk = b"HELLO".to_vec();
    disk.resize(1 << 20, 0);
    fs::write(directory.join("disk.raw"), disk).unwrap();
    let manifest = Manifest {
        v: 1,
        key: key.to_owned(),
        name: key.to_owned(),
        also_named: Vec::new(),
        description: "test".to_owned(),
        architecture: "x86_64".to_owned(),
        root_device_name: "/dev/xvda".to_owned(),
        size_gib: 1,
        disk: "disk.raw".to_owned(),
        disk_format: "raw".to_owned(),
        boot: Boot::Kernel {
            kernel: "vmlinuz".to_owned(),
            initrd: "initrd".to_owned(),
            command_line: format!("console=ttyS0 panic=-1 quiet {command_line}"),
        },
        owner_id: None,
        owner_alias: None,
        login_user: None,
        imds_v2: true,
        created: Timestamp::wall(),
    };
    fs::write(directory.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn spec(image: &str, wanted: Wanted) -> Spec {
    let volume = |id: &str, source: Option<&str>, delete| Volume {
        id: id.to_owned(),
        device_name: "/dev/xvda".to_owned(),
        size_gib: 1,
        source: source.map(str::to_owned),
        delete_on_termination: delete,
    };
    Spec {
        id: ID.to_owned(),
        region: "us-east-1".to_owned(),
        wanted,
        image: image.to_owned(),
        vcpus: 1,
        memory_mib: 1024,
        volumes: vec![volume(ROOT, Some(image), true), volume(DATA, None, false)],
        interfaces: Vec::new(),
        metadata: Metadata::default(),
    }
}

/// A data directory with its images, whose machines end with it.
struct Node {
    root: tempfile::TempDir,
    driver: Option<Arc<Driver>>,
    announced: Arc<Mutex<Vec<State>>>,
}

impl Node {
    fn new() -> Node {
        let root = tempfile::tempdir().unwrap();
        // As strict as a user's own directory may be: QEMU's user cannot pass through it.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Node { root, driver: None, announced: Arc::default() }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn images(&self) -> PathBuf {
        self.root.path().join("images")
    }

    /// Starts a driver, after ending the one before as a dying daemon would.
    fn start(&mut self) -> Arc<Driver> {
        self.driver = None;
        let config = Config {
            data_dir: self.data(),
            images_dir: self.images(),
            vm_memory_max: Some(256),
            accelerator: Accelerator::Auto,
            clock: Clock::wall(),
            network: net::Config::new(self.data().join("net")),
        };
        let driver = Driver::start_with(config, None, Timing::default()).unwrap();
        let announced = Arc::clone(&self.announced);
        let observed = Arc::downgrade(&driver);
        driver.listen(Box::new(move |id| {
            if let Some(driver) = observed.upgrade() {
                announced.lock().unwrap().push(driver.state(id));
            }
        }));
        self.driver = Some(Arc::clone(&driver));
        driver
    }

    fn pid(&self) -> i32 {
        let path = self.data().join("machines").join(ID).join("record.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        i32::try_from(record["stage"]["up"]["pid"].as_i64().expect("it runs")).unwrap()
    }

    fn console(&self) -> String {
        let path = self.data().join("machines").join(ID).join("console.log");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.data().join(directory)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driver = None;
        let data = self.data();
        let stopped = std::thread::spawn(move || node::qemu::stop_all(&data)).join();
        if !std::thread::panicking() {
            stopped.unwrap().unwrap();
        }
    }
}

/// Waits until `condition` gives something.
async fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_state(driver: &Driver, matches: impl Fn(&State) -> bool) -> State {
    let what = format!("the state (now {:?})", driver.state(ID));
    until(&what, Duration::from_secs(60), || Some(driver.state(ID)).filter(|s| matches(s))).await
}

fn is_running(state: &State) -> bool {
    matches!(state, State::Running { .. })
}

fn has_ended(state: &State) -> bool {
    matches!(state, State::Exited { .. } | State::Failed { .. })
}

fn privileged() -> bool {
    let privileged = std::env::var("GUREUM_PRIVILEGED_TESTS").is_ok_and(|value| value == "1");
    if !privileged {
        eprintln!("skipped: needs root and QEMU; set GUREUM_PRIVILEGED_TESTS=1");
    }
    privileged
}

const RUN: Wanted = Wanted::Running { start: 1, reboots: 0 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machines_life() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();

    // It comes up, unprivileged, as what it was ordered to be.
    driver.apply(spec("test", RUN));
    let up = until_state(&driver, |state| is_running(state) || has_ended(state)).await;
    assert_eq!(up, State::Running { start: 1, reboots: 0, reachable: None });
    let first_pid = node.pid();
    let limit = Duration::from_secs(60);
    until("the first boot", limit, || node.console().contains("MARKER up").then_some(())).await;
    let console = node.console();
    assert!(console.contains("MARKER uuid=ec2"), "{console}");
    assert!(console.contains("vendor=Amazon EC2 product=gureum"), "{console}");
    assert!(console.contains("vda serial=vol0123456789abcdef0 sectors=2097152"), "{console}");
    assert!(console.contains("vdb serial=vol0123456789abcdef1 sectors=2097152"), "{console}");
    assert!(console.contains("content=HELLO"), "{console}");
    let status = fs::read_to_string(format!("/proc/{first_pid}/status")).unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(uids, "Uid:\t1900000000\t1900000000\t1900000000\t1900000000");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");

    // A reboot is orderly and never looks like a stop.
    node.announced.lock().unwrap().clear();
    driver.apply(spec("test", Wanted::Running { start: 1, reboots: 1 }));
    until("the reboot", limit, || (node.console().matches("MARKER up").count() == 2).then_some(()))
        .await;
    assert!(node.console().contains("MARKER button"));
    let rebooted = State::Running { start: 1, reboots: 1, reachable: None };
    assert_eq!(driver.state(ID), rebooted);
    assert!(node.announced.lock().unwrap().iter().all(is_running));
    assert_eq!(node.pid(), first_pid);

    // The next daemon adopts it and can stop it by its button.
    drop(driver);
    let driver = node.start();
    assert_eq!(driver.state(ID), rebooted);
    assert_eq!(node.pid(), first_pid);
    driver.apply(spec("test", Wanted::Running { start: 1, reboots: 1 }));
    driver.apply(spec("test", Wanted::Stopped { force: false }));
    let stopped = until_state(&driver, has_ended).await;
    assert_eq!(stopped, State::Exited { start: 1, cause: ExitCause::Requested });
    assert_eq!(node.console().matches("MARKER button").count(), 2, "{}", node.console());
    assert!(!Path::new(&format!("/proc/{first_pid}")).exists() || is_zombie(first_pid));

    // A death is seen at once and said.
    driver.apply(spec("test", Wanted::Running { start: 2, reboots: 1 }));
    until_state(&driver, is_running).await;
    let killed = Instant::now();
    run("kill", &["-9", &node.pid().to_string()], node.root.path());
    let died = until_state(&driver, has_ended).await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(
        matches!(&died, State::Exited { start: 2, cause: ExitCause::Died(how) } if how.contains("signal 9")),
        "{died:?}"
    );

    // Termination leaves the disk that was to stay, and the console for an hour.
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
    assert_eq!(node.files("volumes"), [format!("{DATA}.qcow2")]);
    assert!(node.files("machines").is_empty());
    let console = driver.console(ID).unwrap().expect("it is kept");
    assert!(String::from_utf8_lossy(&console.bytes).contains("MARKER up"));
    driver.forget(ID);
    assert_eq!(driver.state(ID), State::Absent);
}

/// Our own child that another driver of this test process would have to reap.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_off_that_no_daemon_saw() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "off", "gureum.off");
    let driver = node.start();
    driver.apply(spec("off", RUN));
    until_state(&driver, is_running).await;
    drop(driver);
    node.driver = None;
    let limit = Duration::from_secs(60);
    until("the power-off", limit, || node.console().contains("MARKER off").then_some(())).await;
    let driver = node.start();
    driver.apply(spec("off", RUN));
    let off = until_state(&driver, has_ended).await;
    assert_eq!(off, State::Exited { start: 1, cause: ExitCause::GuestShutdown });
    driver.apply(spec("off", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    image(&node.images(), "test", "");
    let driver = node.start();
    let images = node.images();
    let mut start = 0;
    let mut fails = async |image: &str, expected: &str| {
        start += 1;
        driver.apply(spec(image, Wanted::Running { start, reboots: 0 }));
        let state = until_state(
            &driver,
            |state| matches!(state, State::Failed { start: failed, .. } if *failed == start),
        );
        let State::Failed { message, .. } = state.await else { unreachable!() };
        assert!(message.contains(expected), "{message}");
        assert_eq!(node.files("volumes"), Vec::<String>::new());
    };
    fails("absent", "gureum image build absent").await;
    fs::rename(images.join("test/vmlinuz"), images.join("test/moved")).unwrap();
    fails("test", "(its file \"vmlinuz\" is missing): build or import it again").await;
    fs::write(images.join("test/vmlinuz"), "this is no kernel").unwrap();
    fails("test", "status 1").await;
    fs::write(images.join("test/disk.raw"), "").unwrap();
    fails("test", "it is empty").await;
    driver.apply(spec("test", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
    assert!(node.files("machines").is_empty());
}

/// A small file system of its own, taken away with the test.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Small {
        fs::create_dir_all(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", path.to_str().unwrap()], &path);
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()], Path::new("/"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk() {
    if !privileged() {
        return;
    }
    let mut node = Node::new();
    let small = Small::mount(node.data());
    image(&node.images(), "fill", "gureum.fill");
    let driver = node.start();

    // There is no room for a volume.
    let stuffing = node.data().join("stuffing");
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", "status=none"])
        .arg(format!("of={}", stuffing.display()))
        .stderr(std::process::Stdio::null())
        .status();
    assert!(!status.unwrap().success(), "it must run into the end");
    driver.apply(spec("fill", RUN));
    let failed = until_state(&driver, has_ended).await;
    let full = |how: &str| how.contains("full") && how.contains("free space");
    assert!(matches!(&failed, State::Failed { message, .. } if full(message)), "{failed:?}");
    assert!(node.files("volumes").is_empty());

    // There is room to start, but not for what the guest writes.
    fs::remove_file(stuffing).unwrap();
    driver.apply(spec("fill", Wanted::Running { start: 2, reboots: 0 }));
    until_state(&driver, is_running).await;
    let died = until_state(&driver, has_ended).await;
    assert!(
        matches!(&died, State::Exited { cause: ExitCause::Died(how), .. } if full(how)),
        "{died:?}"
    );
    assert!(!node.console().contains("MARKER filled"));
    driver.apply(spec("fill", Wanted::Terminated));
    until_state(&driver, |state| *state == State::Gone).await;
    drop(driver);
    drop(node);
    drop(small);
}
