//! The system calls that std has no function for. All `unsafe` of the crate is here; each function
//! takes and returns safe types.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn process_id() -> u32 {
    std::process::id()
}

pub(crate) fn user_id() -> u32 {
    // SAFETY: getuid has no preconditions and cannot fail.
    unsafe { libc::getuid() }
}

pub(crate) fn effective_user_id() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Becomes root for good: supplementary groups, group and user, real and saved.
pub(crate) fn become_user(user: u32, group: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `groups`, which outlives the call.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::setresuid(user, user, user) })?;
    Ok(())
}

/// mount(2). `kind` and `data` may be empty.
pub(crate) fn mount(
    source: &str,
    target: &str,
    kind: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, target) = (c_string(source)?, c_string(target)?);
    let (kind, data) = (c_string(kind)?, c_string(data)?);
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })?;
    Ok(())
}

pub(crate) fn unmount(target: &str) -> io::Result<()> {
    let target = c_string(target)?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), 0) })?;
    Ok(())
}

/// Loads a kernel module; one that is loaded already is not an error.
pub(crate) fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open and the parameter string is a NUL-terminated literal.
    let result = unsafe {
        libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0 as libc::c_int)
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error);
        }
    }
    Ok(())
}

pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Syncs nothing by itself: what is to be kept must be synced before. Does not return on success.
pub(crate) fn reboot(how: libc::c_int) -> io::Error {
    // SAFETY: a plain integer; the call ends the system.
    unsafe { libc::reboot(how) };
    io::Error::last_os_error()
}

/// Makes Ctrl-Alt-Del a signal to init instead of an immediate reset.
pub(crate) fn catch_ctrl_alt_del() {
    // SAFETY: a plain integer.
    unsafe { libc::reboot(libc::RB_DISABLE_CAD) };
}

pub(crate) fn sync() {
    // SAFETY: sync has no preconditions and cannot fail.
    unsafe { libc::sync() }
}

/// Makes `file` the standard streams.
pub(crate) fn use_as_standard_streams(file: &File) -> io::Result<()> {
    for stream in 0..3 {
        // SAFETY: both are plain descriptor numbers; replacing 0..3 is the purpose, and std's
        // handles of them carry no state that this breaks.
        check(unsafe { libc::dup2(file.as_raw_fd(), stream) })?;
    }
    Ok(())
}

/// Forks. The child runs `work` and exits with its result; the parent gets the child's id. The
/// process must have one thread, which is true of this program everywhere.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: this process never has a second thread, so the child may run arbitrary code.
    match check(unsafe { libc::fork() })? {
        0 => {
            unblock_signals();
            std::process::exit(work())
        }
        child => Ok(child),
    }
}

/// Starts a session of its own, so that a terminal's or a parent's end does not reach it.
pub(crate) fn new_session() {
    // SAFETY: no arguments; fails harmlessly if the process leads a group already.
    unsafe { libc::setsid() };
}

/// What became of a child: its id and exit code (128 + signal number if a signal ended it).
pub(crate) struct Ended {
    pub(crate) child: i32,
    pub(crate) code: i32,
}

/// Reaps one ended child without waiting. `Ok(None)`: children run, none has ended; an error with
/// `ECHILD`: there is none.
pub(crate) fn reap() -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let child = check(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    if child == 0 {
        return Ok(None);
    }
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    Ok(Some(Ended { child, code }))
}

/// Waits for a child of this process, at most a tenth of a second.
pub(crate) fn wait_briefly(child: i32) {
    for _ in 0..20 {
        // SAFETY: a null pointer says that the status is not wanted.
        let result = unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) };
        if result != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal; -1 is every process but this one.
pub(crate) fn kill(process: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::kill(process, signal) })?;
    Ok(())
}

/// Blocks `signals` and gives a descriptor that reads them.
pub(crate) fn signal_descriptor(signals: &[i32]) -> io::Result<File> {
    // SAFETY: sigset_t is plain data for which zero is valid; sigemptyset and sigaddset get a valid
    // pointer to it, and signalfd reads it.
    let descriptor = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?
    };
    // SAFETY: signalfd just returned the descriptor and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn unblock_signals() {
    // SAFETY: an initialised empty set, and no wish for the old mask.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// The first signal number of a block that a signal descriptor gave.
pub(crate) fn signal_number(block: &[u8]) -> Option<i32> {
    let number = block.get(..4)?;
    Some(u32::from_ne_bytes([number[0], number[1], number[2], number[3]]) as i32)
}

/// Size of one block that a signal descriptor gives.
pub(crate) const SIGNAL_BLOCK: usize = size_of::<libc::signalfd_siginfo>();

/// Waits until one of the descriptors can be read; which ones. `None` waits for ever.
pub(crate) fn wait_readable(
    descriptors: &[RawFd],
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut set: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd { fd: *descriptor, events: libc::POLLIN, revents: 0 })
        .collect();
    let milliseconds =
        timeout.map_or(-1, |time| i32::try_from(time.as_millis().max(1)).unwrap_or(i32::MAX));
    // SAFETY: the pointer and the length describe `set`.
    match check(unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, milliseconds) }) {
        Ok(_) => Ok(set.iter().map(|entry| entry.revents != 0).collect()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Ok(vec![false; descriptors.len()])
        }
        Err(error) => Err(error),
    }
}

/// Time since the kernel started.
pub(crate) fn uptime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.max(0) as u64, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Size of a block device, bytes.
pub(crate) fn device_size(device: &File) -> io::Result<u64> {
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the pointer.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut size) })?;
    Ok(size)
}

/// Grows the mounted ext4 that `directory` is on to `blocks` file system blocks.
pub(crate) fn grow_ext4(directory: &File, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64 from the pointer.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })?;
    Ok(())
}

/// Number of blocks and block size of the file system at `path`.
pub(crate) fn file_system_size(path: &str) -> io::Result<(u64, u64)> {
    let path = c_string(path)?;
    // SAFETY: statvfs is plain data for which zero is valid; both pointers are valid.
    let answer = unsafe {
        let mut answer: libc::statvfs = std::mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &raw mut answer))?;
        answer
    };
    Ok((answer.f_blocks, answer.f_frsize))
}

/// A network interface request with its name filled in.
fn interface_request(interface: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.as_bytes())
    {
        *to = *from as libc::c_char;
    }
    request
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: socket just returned the descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn interface_control(request: libc::c_ulong, argument: &mut libc::ifreq) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: every request that this module passes reads or writes one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, std::ptr::from_mut(argument)) })?;
    Ok(())
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: sockaddr_in and sockaddr have the same size (16 bytes) and any bytes are valid.
    unsafe { std::mem::transmute(address) }
}

/// Brings an interface up.
pub(crate) fn interface_up(interface: &str) -> io::Result<()> {
    let mut request = interface_request(interface);
    interface_control(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    interface_control(libc::SIOCSIFFLAGS, &mut request)
}

pub(crate) fn set_interface_mtu(interface: &str, mtu: u16) -> io::Result<()> {
    let mut request = interface_request(interface);
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    interface_control(libc::SIOCSIFMTU, &mut request)
}

/// Gives an interface its address.
pub(crate) fn set_interface_address(
    interface: &str,
    address: Ipv4Addr,
    mask: Ipv4Addr,
) -> io::Result<()> {
    let mut request = interface_request(interface);
    request.ifr_ifru.ifru_addr = socket_address(address);
    interface_control(libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = socket_address(mask);
    interface_control(libc::SIOCSIFNETMASK, &mut request)
}

/// Makes `router` the default route; one that is there already is not an error.
pub(crate) fn add_default_route(router: Ipv4Addr) -> io::Result<()> {
    // SAFETY: rtentry is plain data for which zero is valid (a null device name means any).
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(router);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = control_socket()?;
    // SAFETY: SIOCADDRT reads one rtentry.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw mut route) };
    match check(result) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Index and hardware address of an interface.
pub(crate) fn interface_identity(interface: &str) -> io::Result<(i32, [u8; 6])> {
    let mut request = interface_request(interface);
    interface_control(libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX filled this member of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    interface_control(libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: SIOCGIFHWADDR filled this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    let mut hardware = [0; 6];
    for (to, from) in hardware.iter_mut().zip(address) {
        *to = from as u8;
    }
    Ok((index, hardware))
}

/// The name of an interface.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let mut name = [0; libc::IFNAMSIZ];
    // SAFETY: if_indextoname writes at most IFNAMSIZ bytes with the zero at their end.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null() {
        return None;
    }
    let bytes = name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8);
    String::from_utf8(bytes.collect()).ok()
}

/// Gives an interface an IPv6 address, or takes it; what is so already is not an error.
pub(crate) fn set_interface_address6(index: u32, address: Ipv6Addr, add: bool) -> io::Result<()> {
    /// in6_ifreq of the kernel.
    #[repr(C)]
    struct Request {
        address: [u8; 16],
        length: u32,
        index: i32,
    }
    let mut request = Request { address: address.octets(), length: 128, index: index as i32 };
    // SAFETY: plain integers.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: socket just returned the descriptor and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    /// Not in the libc crate.
    const SIOCDIFADDR: libc::c_ulong = 0x8936;
    let what = if add { libc::SIOCSIFADDR as libc::c_ulong } else { SIOCDIFADDR };
    // SAFETY: on an IPv6 socket both requests read one in6_ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) };
    match check(result) {
        Err(error)
            if ![libc::EEXIST, libc::EADDRNOTAVAIL]
                .contains(&error.raw_os_error().unwrap_or_default()) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// A socket that hears ICMPv6 messages of type `heard` on all interfaces.
pub(crate) fn icmpv6_socket(heard: u8) -> io::Result<UdpSocket> {
    const ICMP6_FILTER: libc::c_int = 1;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain integers.
    let socket = check(unsafe { libc::socket(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6) })?;
    // SAFETY: socket just returned the descriptor and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // One bit a type; those that are set are kept away.
    let mut filter = [u32::MAX; 8];
    filter[usize::from(heard / 32)] &= !(1 << (heard % 32));
    // SAFETY: the pointer and the length describe `filter`.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMP6_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    })?;
    // To read from it is like reading datagrams.
    Ok(socket.into())
}

/// A socket that hears what devices come and go, as the kernel says it (netlink, kobject uevents).
pub(crate) fn device_events() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: plain integers.
    let socket =
        check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) })?;
    // SAFETY: socket just returned the descriptor and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: sockaddr_nl is plain data for which zero is valid; the pointer and the length describe
    // it.
    check(unsafe {
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        // What the kernel itself sends.
        address.nl_groups = 1;
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// One message of a socket; waits for it.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `buffer`.
    let size =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(size).map_err(|_| io::Error::last_os_error())
}

/// A packet socket for IPv4 on one interface: it sends before the interface has an address and hears
/// answers however they are addressed.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
    index: i32,
}

impl PacketSocket {
    pub(crate) fn open(index: i32) -> io::Result<Self> {
        let protocol = (libc::ETH_P_IP as u16).to_be();
        // SAFETY: plain integers.
        let socket = check(unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
                i32::from(protocol),
            )
        })?;
        // SAFETY: socket just returned the descriptor and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let address = Self::address(index);
        // SAFETY: the pointer and the length describe `address`.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        Ok(Self { socket, index })
    }

    /// The link-layer broadcast address on the interface.
    fn address(index: i32) -> libc::sockaddr_ll {
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [255, 255, 255, 255, 255, 255, 0, 0],
        }
    }

    pub(crate) fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let address = Self::address(self.index);
        // SAFETY: both pointers and lengths describe live data.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// One packet, or `None` if none came in time.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        timeout: Duration,
    ) -> io::Result<Option<usize>> {
        if !wait_readable(&[self.socket.as_raw_fd()], Some(timeout))?[0] {
            return Ok(None);
        }
        // SAFETY: the pointer and the length describe `buffer`.
        let size = unsafe {
            libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
        };
        usize::try_from(size).map(Some).map_err(|_| io::Error::last_os_error())
    }
}
