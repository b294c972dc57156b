//! A node of its own for each test, and a small guest.

use base::image::{Boot, Manifest};
use base::key::{self, DataKey, Keys, WrappedKey};
use base::machine::{Driver as _, Metadata, Spec, State, Volume, Wanted};
use base::volume::{self, Driver as _};
use base::{Clock, Timestamp};
use node::qemu::{Accelerator, Config, Driver, Fabric, Timing};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const RUN: Wanted = Wanted::Running { start: 1, reboots: 0 };
pub const ID: &str = "i-0123456789abcdef0";
pub const ROOT: &str = "vol-0123456789abcdef0";
pub const DATA: &str = "vol-0123456789abcdef1";

/// Says what it sees of its machine, powers off at the button, or at once if it is told to.
pub const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk button evdev failover net_failover virtio_net crc16 crc32c_generic libcrc32c mbcache jbd2 ext4; do
  [ ! -e /m/$m.ko ] || insmod /m/$m.ko
done
# The device with a serial.
printf '#!/bin/sh\nfor b in /sys/block/vd*; do [ "$(cat $b/serial)" != $1 ] || echo ${b##*/}; done\n' > /bin/disk
chmod +x /bin/disk
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
imds=169.254.169.254
get() { wget -q -O - http://$imds/$1; }
token() { printf 'PUT /latest/api/token HTTP/1.0\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n' | nc $imds 80; }
case "$(cat /proc/cmdline)" in *gureum.net*)
  printf '#!/bin/sh\n[ "$1" = bound ] && ifconfig eth0 $ip netmask $subnet && route add default gw $router && echo MARKER dhcp=$ip router=$router\n' > /bin/script
  chmod +x /bin/script; ifconfig lo up; ifconfig eth0 up
  udhcpc -i eth0 -q -f -n -t 20 -T 1 -s /bin/script
  echo "MARKER id=$(get latest/meta-data/instance-id) user=$(get latest/user-data)"
  echo "MARKER listing=$(get 2021-03-23/meta-data/ | tr '\n' ,)"
  token | tr -d '\r' | while read line; do echo "MARKER token $line"; done
  echo "MARKER net";;
esac
case "$(cat /proc/cmdline)" in *gureum.fill*) dd if=/dev/zero of=/dev/vdb bs=1M; echo MARKER filled;; esac
# Says which disks come and go; one that begins with #!sh is a script to run.
# A disk that comes again has another number.
seen=
cards=
for d in vda vdb; do seen="$seen $d:$(cat /sys/block/$d/diskseq) "; done
while :; do
  now=
  for block in /sys/block/vd*; do
    d=${block##*/}
    [ -b /dev/$d ] || continue
    one=$d:$(cat $block/diskseq)
    now="$now $one "
    case "$seen" in *" $one "*) continue;; esac
    echo "MARKER plugged $(cat $block/serial) sectors=$(cat $block/size)"
    if [ "$(head -c 4 /dev/$d)" = '#!sh' ]; then
      head -c 4096 /dev/$d | tr -d '\000' > /script-$d
      sh /script-$d &
    fi
  done
  for one in $seen; do
    case "$now" in *" $one "*) ;; *) echo "MARKER unplugged $one";; esac
  done
  seen=$now
  now=
  for card in /sys/class/net/eth*; do
    [ -e $card/address ] || continue
    # One that comes again has another number.
    one="$(cat $card/address)#$(cat $card/ifindex)"
    now="$now $one "
    case "$cards" in *" $one "*) ;; *) echo "MARKER card $one";; esac
  done
  for one in $cards; do
    case "$now" in *" $one "*) ;; *) echo "MARKER no card $one";; esac
  done
  cards=$now
  sleep 0.1
done
"#;

pub fn run(program: &str, arguments: &[&str], directory: &Path) {
    let status = Command::new(program).args(arguments).current_dir(directory).status();
    assert!(status.expect(program).success(), "{program} {arguments:?}");
}

/// A directory with `vmlinuz` and `initrd`, made once and kept beside cargo's output.
pub fn kernel() -> PathBuf {
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
        virtio_blk button evdev failover net_failover virtio_net \
        crc16 crc32c_generic libcrc32c mbcache jbd2 ext4; do find package/lib -name $m.ko -exec cp {} initrd/m/ \\;; done; \
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

pub fn image(images: &Path, key: &str, command_line: &str) {
    let directory = images.join(key);
    fs::create_dir_all(&directory).unwrap();
    for file in ["vmlinuz", "initrd"] {
        fs::copy(kernel().join(file), directory.join(file)).unwrap();
    }
    let boot = Boot::Kernel {
        kernel: "vmlinuz".to_owned(),
        initrd: "initrd".to_owned(),
        command_line: format!("console=ttyS0 panic=-1 quiet {command_line}"),
    };
    publish(images, key, boot);
}

/// A disk that the firmware boots: its first sector writes `text` to the serial port and halts.
pub fn boot_sector(text: &str) -> Vec<u8> {
    // cli
    let mut disk = vec![0xfa];
    for byte in text.bytes() {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        disk.extend([0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);
    }
    // hlt; jmp to the hlt
    disk.extend([0xf4, 0xeb, 0xfd]);
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk
}

fn publish(images: &Path, key: &str, boot: Boot) {
    let directory = images.join(key);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("disk.raw"), [0; 4096]).unwrap();
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
        boot,
        owner_id: None,
        owner_alias: None,
        login_user: None,
        imds_v2: true,
        created: Timestamp::wall(),
    };
    fs::write(directory.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// A volume in a machine's spec.
pub fn attached(id: &str) -> Volume {
    Volume { id: id.to_owned(), device_name: "/dev/xvda".to_owned() }
}

/// An empty volume of 1 GiB.
pub fn volume(id: &str) -> volume::Spec {
    volume::Spec {
        id: id.to_owned(),
        region: "us-east-1".to_owned(),
        wanted: volume::Wanted::Present,
        size_gib: 1,
        source: None,
        key: None,
        limits: volume::Limits::default(),
        initialization_rate: None,
        filled_first: false,
        multi_attach: false,
        snapshots: Vec::new(),
    }
}

/// A key store whose wrapped keys are the keys in the clear.
#[derive(Debug)]
pub struct OpenKeys;

impl Keys for OpenKeys {
    fn resolve(&self, _: &str, _: &str, _: Option<&str>) -> Result<String, key::Error> {
        Ok("arn:aws:kms:us-east-1:000000000000:key/test".to_owned())
    }

    fn generate(&self, key_arn: &str) -> Result<WrappedKey, key::Error> {
        Ok(WrappedKey { key_arn: key_arn.to_owned(), ciphertext: "ab".repeat(16) })
    }

    fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, key::Error> {
        let bytes = <[u8; 32]>::try_from(wrapped.ciphertext.as_bytes());
        bytes.map(DataKey).map_err(|_| key::Error::NotOurs(wrapped.key_arn.clone()))
    }

    fn rewrap(&self, wrapped: &WrappedKey, key_arn: &str) -> Result<WrappedKey, key::Error> {
        Ok(WrappedKey { key_arn: key_arn.to_owned(), ..wrapped.clone() })
    }
}

pub fn spec(image: &str, wanted: Wanted) -> Spec {
    Spec {
        id: ID.to_owned(),
        region: "us-east-1".to_owned(),
        wanted,
        image: image.to_owned(),
        vcpus: 1,
        memory_mib: 1024,
        volumes: vec![attached(ROOT), attached(DATA)],
        forced_off: Vec::new(),
        forced_off_interfaces: Vec::new(),
        local_disks: Vec::new(),
        interfaces: Vec::new(),
        metadata: Metadata::default(),
    }
}

/// A data directory with its images, whose machines end with it.
pub struct Node {
    /// Below `root`, so it must go first.
    pub small: Option<Small>,
    pub root: tempfile::TempDir,
    pub driver: Option<Arc<Driver>>,
    pub announced: Arc<Mutex<Vec<State>>>,
    /// What the control plane would tell each daemon when it starts.
    volumes: Mutex<Vec<volume::Spec>>,
}

impl Node {
    pub fn new() -> Node {
        let root = tempfile::tempdir().unwrap();
        // As strict as a user's own directory may be: QEMU's user cannot pass through it.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Node {
            small: None,
            root,
            driver: None,
            announced: Arc::default(),
            volumes: Mutex::default(),
        }
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn images(&self) -> PathBuf {
        self.root.path().join("images")
    }

    /// Starts a driver, after ending the one before as a dying daemon would.
    pub fn start(&mut self) -> Arc<Driver> {
        self.start_with(None, Timing::default())
    }

    /// [`Node::start`] on a network.
    pub fn start_on(&mut self, network: Option<Arc<dyn Fabric>>) -> Arc<Driver> {
        self.start_with(network, Timing::default())
    }

    /// [`Node::start_on`] with other graces.
    pub fn start_with(&mut self, network: Option<Arc<dyn Fabric>>, timing: Timing) -> Arc<Driver> {
        self.driver = None;
        let blob_config = self.blob_config();
        let blobs = block::Blobs::open(&blob_config).unwrap();
        let uploads = self.data().join("uploads");
        let direct = block::Direct::open(blobs.clone(), Arc::new(OpenKeys), &uploads).unwrap();
        let config = Config {
            endpoints: node::endpoint::Endpoints::default(),
            volumes: node::volume::Config {
                data_dir: self.data(),
                blobs,
                blob_config,
                direct: Arc::new(direct),
                keys: Arc::new(OpenKeys),
                storage: PathBuf::from("/bin/false"),
                throttled: true,
                fill_after: Duration::from_secs(1),
            },
            data_dir: self.data(),
            images_dir: self.images(),
            vm_memory_max: Some(256),
            accelerator: Accelerator::Auto,
            clock: Clock::wall(),
            network: net::Config::new(self.data().join("net")),
        };
        let driver = Driver::start_with(config, network, timing).unwrap();
        let announced = Arc::clone(&self.announced);
        let observed = Arc::downgrade(&driver);
        driver.listen(Box::new(move |id| {
            if let Some(driver) = observed.upgrade() {
                announced.lock().unwrap().push(driver.state(id));
            }
        }));
        for volume in self.volumes.lock().unwrap().iter() {
            driver.apply_volume(volume.clone());
        }
        self.driver = Some(Arc::clone(&driver));
        driver
    }

    /// Makes volumes and waits until they are there.
    pub async fn make(&self, specs: &[volume::Spec]) {
        let driver = self.driver.as_ref().expect("it was started");
        for spec in specs {
            driver.apply_volume(spec.clone());
            let mut volumes = self.volumes.lock().unwrap();
            volumes.retain(|volume| volume.id != spec.id);
            volumes.push(spec.clone());
        }
        for spec in specs {
            until_volume(driver, &spec.id, |_| true).await;
        }
    }

    /// Makes [`ROOT`] and [`DATA`].
    pub async fn make_both(&self) {
        self.make(&[volume(ROOT), volume(DATA)]).await;
    }

    /// Writes to the start of a volume that no machine has.
    pub fn write(&self, volume: &str, bytes: &[u8]) {
        let directory = self.data().join("volumes").join(volume);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let from = file.path().to_str().unwrap();
        let arguments = ["convert", "-n", "-f", "raw", "-O", "qcow2", from, "0.qcow2"];
        run("qemu-img", &arguments, &directory);
    }

    pub fn pid(&self) -> i32 {
        let path = self.data().join("machines").join(ID).join("record.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        i32::try_from(record["stage"]["up"]["pid"].as_i64().expect("it runs")).unwrap()
    }

    /// The blob store, for reading.
    pub fn blobs(&self) -> block::Blobs {
        block::Blobs::open_read_only(&self.blob_config()).unwrap()
    }

    fn blob_config(&self) -> block::Config {
        block::Config::Local { directory: self.data().join("blobs") }
    }

    pub fn console(&self) -> String {
        self.console_of(ID)
    }

    pub fn console_of(&self, machine: &str) -> String {
        let path = self.data().join("machines").join(machine).join("console.log");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    pub fn files(&self, directory: &str) -> Vec<String> {
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
pub async fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_state(driver: &Driver, matches: impl Fn(&State) -> bool) -> State {
    let what = format!("the state (now {:?})", driver.state(ID));
    until(&what, Duration::from_secs(60), || Some(driver.state(ID)).filter(|s| matches(s))).await
}

/// Waits until the volume is ready and as it should be.
pub async fn until_volume(
    driver: &Driver,
    id: &str,
    matches: impl Fn(&volume::Ready) -> bool,
) -> volume::Ready {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let state = driver.volume_state(id);
        match &state {
            volume::State::Ready(ready) if matches(ready) => return ready.clone(),
            _ => assert!(Instant::now() < deadline, "{id} stays {state:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn is_running(state: &State) -> bool {
    matches!(state, State::Running { .. })
}

pub fn has_ended(state: &State) -> bool {
    matches!(state, State::Exited { .. } | State::Failed { .. })
}

pub fn privileged() -> bool {
    let privileged = std::env::var("GUREUM_PRIVILEGED_TESTS").is_ok_and(|value| value == "1");
    if !privileged {
        eprintln!("skipped: needs root and QEMU; set GUREUM_PRIVILEGED_TESTS=1");
    }
    privileged
}

/// A small file system of its own, taken away with the test.
pub struct Small(PathBuf);

impl Small {
    pub fn mount(path: PathBuf) -> Small {
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
