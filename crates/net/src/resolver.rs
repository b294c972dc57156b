//! Passing questions on to the host's resolvers.
//!
//! A question leaves from a socket of its own with an identifier of its own, both random, so that
//! nobody outside can answer in the resolver's place; the answer comes back byte for byte.

use crate::dns;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one resolver may think. Guests give up after 5 s and ask again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the guest asked; we ask the same way, so that a truncated answer means the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The answer of the first resolver that answers; "I could not find out" if none does.
pub(crate) async fn ask(
    query: &[u8],
    transport: Transport,
    resolvers: &[SocketAddr],
) -> Option<Vec<u8>> {
    for resolver in resolvers {
        let answer = match transport {
            Transport::Udp => timeout(PATIENCE, by_udp(query, *resolver)).await,
            Transport::Tcp => timeout(PATIENCE, by_tcp(query, *resolver)).await,
        };
        match answer {
            Ok(Ok(mut answer)) => {
                answer[..2].copy_from_slice(&query[..2]);
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver cannot be asked"),
            Err(_) => tracing::debug!(%resolver, "a resolver does not answer"),
        }
    }
    dns::failure(query)
}

fn renamed(query: &[u8]) -> (Vec<u8>, u16) {
    let id = fastrand::u16(..);
    let mut bytes = query.to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    (bytes, id)
}

async fn by_udp(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let (bytes, id) = renamed(query);
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if dns::answers(&buffer[..length], query, id) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let (bytes, id) = renamed(query);
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, &bytes).await?;
    let answer = read_message(&mut stream).await?;
    if !dns::answers(&answer, query, id) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "answered something else"));
    }
    Ok(answer)
}

/// Reads a message with its length in front.
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes a message with its length in front.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a message over 64 KiB"))?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
