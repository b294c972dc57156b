//! `/init` of the initrd: loads the drivers that Debian's kernel has as modules, mounts the root
//! disk, grows its file system to the volume, and becomes the init on it. It serves every image that
//! boots a kernel of its own, so it knows nothing of what is on the disk.
//!
//! The archive holds this program, the modules uncompressed and [`MODULE_LIST`], which names them in
//! loading order. Nothing is probed: a boot is paid for in every launch.

use crate::init::say;
use crate::sys;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Paths of the modules, one a line, each after those that it depends on.
pub(crate) const MODULE_LIST: &str = "/modules.list";

/// How long a root disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does not return: it becomes the init of the disk, or the kernel panics (and the machine is reset,
/// as `panic=` says) after the reason is on the console.
pub(crate) fn run() -> ! {
    let error = switch();
    say(&format!("cannot start the system on the root disk: {error}"));
    std::process::exit(1);
}

fn switch() -> io::Error {
    match prepare() {
        Ok(init) => Command::new(init).exec(),
        Err(error) => error,
    }
}

fn prepare() -> io::Result<String> {
    // EBUSY: the kernel mounted it.
    let _ = sys::mount("dev", "/dev", "devtmpfs", libc::MS_NOSUID, "mode=0755");
    let console = File::options().read(true).write(true).open("/dev/console")?;
    sys::use_as_standard_streams(&console)?;
    fs::create_dir_all("/proc")?;
    sys::mount("proc", "/proc", "proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, "")?;
    let command_line = fs::read_to_string("/proc/cmdline")?;
    let list = fs::read_to_string(MODULE_LIST)?;
    for module in list.lines() {
        if let Err(error) = File::open(module).and_then(|file| sys::load_module(&file)) {
            say(&format!("cannot load {module}: {error}"));
        }
    }
    let root = parameter(&command_line, "root").unwrap_or("/dev/vda");
    wait_for(root)?;
    fs::create_dir_all("/root")?;
    sys::mount(root, "/root", "ext4", libc::MS_NOATIME, "").map_err(|error| {
        io::Error::new(error.kind(), format!("{root} does not mount as ext4: {error}"))
    })?;
    if let Err(error) = grow(root, "/root") {
        say(&format!("the file system on {root} stays as small as it is: {error}"));
    }
    // What is left would be locked memory for as long as the machine runs.
    for module in list.lines().chain([MODULE_LIST, "/init"]) {
        let _ = fs::remove_file(module);
    }
    for directory in ["dev", "proc"] {
        let (from, to) = (format!("/{directory}"), format!("/root/{directory}"));
        sys::mount(&from, &to, "", libc::MS_MOVE, "")?;
    }
    std::env::set_current_dir("/root")?;
    sys::mount(".", "/", "", libc::MS_MOVE, "")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(parameter(&command_line, "init").unwrap_or("/sbin/init").to_owned())
}

/// Waits until a device is there.
fn wait_for(device: &str) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !Path::new(device).exists() {
        if Instant::now() > end {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no {device} after {} s", PATIENCE.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Grows the ext4 of `device`, mounted at `directory`, to the device. The kernel does nothing if it
/// fills it already.
fn grow(device: &str, directory: &str) -> io::Result<()> {
    let size = sys::device_size(&File::open(device)?)?;
    let (_, block) = sys::file_system_size(directory)?;
    sys::grow_ext4(&File::open(directory)?, size / block.max(1))
}

/// The value of `name=value` on the kernel command line; the last one counts.
fn parameter<'a>(command_line: &'a str, name: &str) -> Option<&'a str> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn the_last_parameter_counts() {
        let line = "console=ttyS0 quiet root=/dev/vda init=/a init=/b\n";
        assert_eq!(parameter(line, "root"), Some("/dev/vda"));
        assert_eq!(parameter(line, "init"), Some("/b"));
        assert_eq!(parameter(line, "quiet"), None);
    }
}
