//! The cloud's own services inside a VPC: what listens on the addresses of its endpoints.
//!
//! An interface endpoint has its interfaces' addresses, a gateway endpoint those that routes lead
//! to; both are the node's, inside the VPC's namespace. Here the listeners follow the plan; who
//! answers on them is for the region to say, since a node knows no services.
//!
//! ```text
//!  plan ─► listener (waits) ── region says who serves ──► served ── address leaves the plan ──► closed
//! ```
//!
//! Not here: TLS. Port 443 of an endpoint is closed, and clients are to use `http://`.

use base::network::{Holder, Plan};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::task::AbortHandle;

/// The port of services, without TLS.
const PORT: u16 = 80;

/// Starts a server on a listener; it ends when it is aborted.
type Serve = dyn Fn(TcpListener) -> std::io::Result<AbortHandle> + Send;

/// The endpoints of a node; a cheap handle.
#[derive(Clone, Default)]
pub struct Endpoints {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").finish_non_exhaustive()
    }
}

/// A VPC and an address in it.
type Place = (String, IpAddr);

#[derive(Default)]
struct State {
    serve: Option<Box<Serve>>,
    open: BTreeMap<Place, Open>,
}

enum Open {
    /// Callers wait until somebody serves.
    Waiting(TcpListener),
    Served(AbortHandle),
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Open::Served(server) = self {
            server.abort();
        }
    }
}

impl Endpoints {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Has `serve` answer on every listener, those that are there and those to come.
    ///
    /// # Errors
    /// What `serve` says of the listeners that are there.
    pub fn serve(
        &self,
        serve: impl Fn(TcpListener) -> std::io::Result<AbortHandle> + Send + 'static,
    ) -> std::io::Result<()> {
        let mut state = self.locked();
        for open in state.open.values_mut() {
            if let Open::Waiting(listener) = open {
                let server = serve(listener.try_clone()?)?;
                *open = Open::Served(server);
            }
        }
        state.serve = Some(Box::new(serve));
        Ok(())
    }

    /// Opens and closes listeners, so that they are those of `plan`.
    pub(crate) fn follow(
        &self,
        plan: &Plan,
        listen: impl Fn(&str, IpAddr, u16) -> Result<TcpListener, String>,
    ) -> Result<(), String> {
        let wanted = places(plan);
        let mut state = self.locked();
        let State { serve, open } = &mut *state;
        open.retain(|place, open| {
            let ended = matches!(open, Open::Served(server) if server.is_finished());
            wanted.contains(place) && !ended
        });
        let mut result = Ok(());
        for place in wanted {
            if open.contains_key(&place) {
                continue;
            }
            let (vpc, address) = &place;
            let opened = listen(vpc, *address, PORT).and_then(|listener| match serve {
                None => Ok(Open::Waiting(listener)),
                Some(serve) => serve(listener).map(Open::Served).map_err(|error| error.to_string()),
            });
            match opened {
                Ok(opened) => drop(open.insert(place, opened)),
                Err(error) => {
                    result = Err(format!("no service on {address} in {vpc}: {error}"));
                }
            }
        }
        result
    }
}

/// Where the services are in every VPC.
fn places(plan: &Plan) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for vpc in &plan.vpcs {
        for interface in &vpc.interfaces {
            if matches!(interface.holder, Holder::Endpoint(_)) && interface.node.is_none() {
                places.extend(
                    interface.addresses().map(|own| (vpc.id.clone(), own.private_ip.into())),
                );
                places.extend(interface.ipv6.iter().map(|own| (vpc.id.clone(), (*own).into())));
            }
        }
        let gateways = vpc.gateway_endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        places.extend(gateways.map(|address| (vpc.id.clone(), IpAddr::V4(*address))));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::network::{GatewayEndpoint, Interface, Vpc};
    use std::cell::RefCell;
    use std::io::Read as _;
    use std::net::TcpStream;

    fn plan(interfaces: &[(&str, bool)], gateways: &[&str]) -> Plan {
        let interfaces = interfaces.iter().map(|(address, endpoint)| {
            let id = "vpce-1".to_owned();
            Interface {
                id: format!("eni-{address}"),
                holder: if *endpoint { Holder::Endpoint(id) } else { Holder::Machine(id) },
                ..crate::flow_log::tests::interface("eni-1", address)
            }
        });
        let addresses = gateways.iter().map(|text| text.parse().unwrap()).collect();
        let vpc = Vpc {
            id: "vpc-1".to_owned(),
            interfaces: interfaces.collect(),
            gateway_endpoints: vec![GatewayEndpoint { id: "vpce-2".to_owned(), addresses }],
            ..Vpc::default()
        };
        Plan { vpcs: vec![vpc], ..Plan::default() }
    }

    /// What the listener is asked for, and a way to call it.
    fn listen(
        asked: &RefCell<Vec<(String, std::net::SocketAddr)>>,
    ) -> impl Fn(&str, IpAddr, u16) -> Result<TcpListener, String> {
        move |_, address, port| {
            assert_eq!(port, PORT);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            asked.borrow_mut().push((address.to_string(), listener.local_addr().unwrap()));
            Ok(listener)
        }
    }

    fn greet(listener: TcpListener) -> std::io::Result<AbortHandle> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let server = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await;
            }
        };
        Ok(tokio::spawn(server).abort_handle())
    }

    fn hello(address: std::net::SocketAddr) -> bool {
        let mut text = String::new();
        let read = TcpStream::connect(address).and_then(|mut s| s.read_to_string(&mut text));
        read.is_ok() && text == "hello"
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn listeners_follow_the_plan() {
        let endpoints = Endpoints::default();
        let asked = RefCell::default();
        let first = plan(&[("10.0.0.5", true), ("10.0.0.6", false)], &["203.0.113.1"]);
        endpoints.follow(&first, listen(&asked)).unwrap();
        let places: Vec<String> = asked.borrow().iter().map(|(place, _)| place.clone()).collect();
        assert_eq!(places, ["10.0.0.5", "203.0.113.1"]);
        endpoints.serve(greet).unwrap();
        let old = asked.borrow()[0].1;
        assert!(hello(old) && hello(asked.borrow()[1].1));
        let second = plan(&[("10.0.0.7", true)], &["203.0.113.1"]);
        endpoints.follow(&second, listen(&asked)).unwrap();
        assert_eq!(asked.borrow().len(), 3);
        assert!(hello(asked.borrow()[2].1) && hello(asked.borrow()[1].1));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while hello(old) {
            assert!(std::time::Instant::now() < deadline, "it is still served");
        }
        // Who cannot listen says so, and the others go on.
        let third = plan(&[("10.0.0.7", true), ("10.0.0.8", true)], &["203.0.113.1"]);
        let error = endpoints.follow(&third, |_, _, _| Err("no".to_owned())).unwrap_err();
        assert!(error.contains("10.0.0.8"), "{error}");
        assert!(hello(asked.borrow()[2].1));
    }
}
