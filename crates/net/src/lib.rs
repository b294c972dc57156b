//! The data plane of a node: a [`base::network::Plan`] goes in, kernel state comes out.

mod error;

use base::Ipv4Cidr;
use base::network::Plan;
pub use error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where and under which names the network lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses that the host routes to the instances that own them.
    pub public_pool: Ipv4Cidr,
    /// What namespaces, links and tables are called: 1 to 6 lower-case letters and digits.
    pub name_prefix: String,
    /// Resolvers that answer what is not ours.
    pub upstream_dns: Vec<SocketAddr>,
    /// Directory for what must be undone by [`Network::destroy_all`].
    pub state_dir: PathBuf,
}

impl Config {
    /// The defaults: pool 203.0.113.0/24, prefix `gureum`, the resolvers of `/etc/resolv.conf`.
    pub fn new(state_dir: PathBuf) -> Config {
        Config {
            public_pool: Ipv4Cidr::containing(Ipv4Addr::new(203, 0, 113, 0), 24),
            name_prefix: "gureum".into(),
            upstream_dns: Vec::new(),
            state_dir,
        }
    }
}

/// Whose packets come from an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `eni-…`.
    pub interface_id: String,
    /// `i-…`.
    pub instance_id: String,
}

/// The node's network; a cheap handle.
#[derive(Clone, Debug)]
pub struct Network;

impl Network {
    /// Checks privileges and tools and starts the threads that answer DHCP and DNS.
    pub fn start(config: Config) -> Result<Network, Error> {
        let _ = config;
        Err(Error::Config("the network is being built".into()))
    }

    /// Makes the kernel what `plan` says. Blocking; idempotent; adopts what another process left.
    pub fn apply(&self, plan: &Plan) -> Result<(), Error> {
        let _ = plan;
        Err(Error::Config("the network is being built".into()))
    }

    /// A tap for QEMU: `-netdev tap,fd=N,vhost=off`.
    pub fn open_tap(&self, _vpc_id: &str, interface_id: &str) -> Result<OwnedFd, Error> {
        Err(Error::NotInPlan(interface_id.into()))
    }

    /// A listener on 169.254.169.254:80 inside the VPC.
    pub fn listen_metadata(&self, vpc_id: &str) -> Result<TcpListener, Error> {
        Err(Error::NotInPlan(vpc_id.into()))
    }

    /// The interface that owns a private address in a VPC.
    pub fn interface_of(&self, _vpc_id: &str, _source: Ipv4Addr) -> Option<Owner> {
        None
    }

    /// Whether the guest answers ARP; takes at most 2 s.
    pub fn reachable(&self, interface_id: &str) -> Result<bool, Error> {
        Err(Error::NotInPlan(interface_id.into()))
    }

    /// Removes everything that has the prefix; needs no running daemon.
    pub fn destroy_all(config: Config) -> Result<(), Error> {
        let _ = config;
        Err(Error::Config("the network is being built".into()))
    }
}
