//! System calls that std and rustix do not wrap. The only unsafe code of this crate.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Opens the tap `name` in the caller's network namespace, making it if it does not exist.
///
/// Frames are Ethernet with a `virtio_net_hdr` in front. A `persistent` tap outlives its
/// descriptors. The header has 10 bytes and no offload is on until the user asks for more.
pub(crate) fn open_tap(name: &str, persistent: bool) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of the tap is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags.try_into().unwrap_or_default();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // The user before may have left its own offloads and length of header.
    let (nothing, header): (libc::c_ulong, libc::c_int) = (0, 10);
    // SAFETY: TUNSETOFFLOAD takes its argument by value, TUNSETVNETHDRSZ reads one int.
    let result = unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, nothing)
            | libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if persistent {
        let on: libc::c_ulong = 1;
        // SAFETY: TUNSETPERSIST takes its argument by value.
        if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, on) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(tun.into())
}

/// Every link of the caller's network namespace: name to index.
pub(crate) fn links() -> io::Result<BTreeMap<String, u32>> {
    // SAFETY: takes nothing; the result is checked and given back below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut links = BTreeMap::new();
    let mut entry = list;
    loop {
        // SAFETY: the array ends with an entry whose index is 0, and the loop stops there.
        let item = unsafe { &*entry };
        if item.if_index == 0 || item.if_name.is_null() {
            break;
        }
        // SAFETY: every entry before the last has a name that ends with a zero byte.
        let name = unsafe { CStr::from_ptr(item.if_name) };
        links.insert(name.to_string_lossy().into_owned(), item.if_index);
        // SAFETY: this entry was not the last one.
        entry = unsafe { entry.add(1) };
    }
    // SAFETY: `list` came from if_nameindex and is freed once.
    unsafe { libc::if_freenameindex(list) };
    Ok(links)
}

/// A datagram with the link on which it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub length: usize,
    pub link: u32,
    pub source: SocketAddrV4,
}

/// Asks the kernel to tell with every datagram on which link it came.
pub(crate) fn report_links(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Sets an integer option of a socket.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int, and pointer and length describe one.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for one IP_PKTINFO control message, aligned for its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives a datagram from a socket prepared by [`report_links`].
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: plain data for which all zeros is a value.
    let mut source: libc::sockaddr_in = unsafe { zeroed() };
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: plain data for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut source).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut link = 0;
    // SAFETY: the kernel filled the control buffer; CMSG_* walk within msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::IPPROTO_IP && (*header).cmsg_type == libc::IP_PKTINFO {
                let info: libc::in_pktinfo =
                    std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                link = info.ipi_ifindex.cast_unsigned();
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    let address = Ipv4Addr::from(u32::from_be(source.sin_addr.s_addr));
    Ok(Received { length, link, source: SocketAddrV4::new(address, u16::from_be(source.sin_port)) })
}

/// Sends a datagram out of `link`, from the local address `from`.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    data: &[u8],
    link: u32,
    from: Ipv4Addr,
    to: SocketAddrV4,
) -> io::Result<()> {
    // SAFETY: plain data for which all zeros is a value.
    let mut target: libc::sockaddr_in = unsafe { zeroed() };
    target.sin_family = libc::AF_INET as libc::sa_family_t;
    target.sin_port = to.port().to_be();
    target.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let info = libc::in_pktinfo {
        ipi_ifindex: link.cast_signed(),
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let info_length = size_of::<libc::in_pktinfo>() as libc::c_uint;
    // SAFETY: plain data for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut target).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: arithmetic on a constant.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(info_length) } as usize;
    // SAFETY: the control buffer is larger than CMSG_SPACE of one in_pktinfo and aligned for a
    // header, so the first header exists and its data fits; sendmsg only reads the buffers.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(info_length) as usize;
        std::ptr::write_unaligned(libc::CMSG_DATA(header).cast(), info);
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket that sends and receives the ARP frames of one link of the caller's namespace.
pub(crate) fn arp_socket(link: u32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ARP as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = socket(libc::AF_PACKET, kind, i32::from(protocol))?;
    // SAFETY: plain data for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol;
    address.sll_ifindex = link.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointer and length describe one sockaddr_ll.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// A socket that hears ICMPv6 messages of type `heard` in the caller's namespace and sends what only
/// neighbours may send (hop limit 255).
pub(crate) fn icmpv6_socket(heard: u8) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    const ICMP6_FILTER: libc::c_int = 1;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = socket(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6)?;
    for option in [libc::IPV6_UNICAST_HOPS, libc::IPV6_MULTICAST_HOPS] {
        set_option(socket.as_fd(), libc::IPPROTO_IPV6, option, 255)?;
    }
    // One bit a type; those that are set are kept away.
    let mut filter = [u32::MAX; 8];
    filter[usize::from(heard / 32)] &= !(1 << (heard % 32));
    let length = size_of_val(&filter) as libc::socklen_t;
    let level = libc::IPPROTO_ICMPV6;
    let value = (&raw const filter).cast();
    // SAFETY: the option is an array of 8 words, and pointer and length describe one.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, ICMP6_FILTER, value, length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// A netlink socket of the netfilter family in the caller's namespace.
pub(crate) fn netfilter_socket() -> io::Result<OwnedFd> {
    socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER)
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let descriptor = unsafe { libc::socket(family, kind, protocol) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Moves the calling thread, and only it, into a network namespace.
pub(crate) fn enter(namespace: &File) -> io::Result<()> {
    use std::os::fd::AsFd;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).map_err(io::Error::from)
}
