//! DNS (RFC 1035): the names that a VPC knows by itself.
//!
//! Pure: a query and a [`Zone`] in, a [`Verdict`] out. What is ours is answered here, with
//! certainty; what is not is for [`crate::resolver`] to pass on, byte for byte.
//!
//! | name | answer |
//! | --- | --- |
//! | `ip-172-31-5-7.ec2.internal`, and what else the plan calls an interface | private address |
//! | names of [`base::network::Dns::records`]; `*.x` stands for every name below `x` | addresses |
//! | `ec2-203-0-113-7.compute-1.amazonaws.com` of this VPC, or of a peered one that allows it | private address |
//! | the same of another VPC, or where public addresses have no names | public address |
//! | either form of nobody | no such name |
//! | `7.5.31.172.in-addr.arpa`, `….ip6.arpa` | host name |
//!
//! A VPC without DNS support answers nothing at all.

use base::network::{Peering, Vpc};
use base::{Ipv4Cidr, Ipv6Cidr};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long an answer may be kept, seconds; as EC2 says.
const TTL: u32 = 60;
/// Largest answer by UDP to who does not say more (RFC 1035), bytes.
const DATAGRAM: usize = 512;
/// Largest answer by UDP to who does (RFC 6891), bytes.
const LARGE_DATAGRAM: u16 = 4096;

const HEADER: usize = 12;
const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const ANY: u16 = 255;
const IN: u16 = 1;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// The names of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    vpc: String,
    support: bool,
    /// `ec2.internal` or `<region>.compute.internal`.
    domain: String,
    cidrs: Vec<Ipv4Cidr>,
    ipv6_cidrs: Vec<Ipv6Cidr>,
    pool: Ipv4Cidr,
    names: HashMap<String, Vec<IpAddr>>,
    hosts: HashMap<IpAddr, String>,
    /// Public to private.
    public: HashMap<Ipv4Addr, Ipv4Addr>,
}

/// What all VPCs together know of public names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Every public address, with its region.
    public: HashMap<Ipv4Addr, String>,
    /// By the VPC that asks: public to private addresses of its peers that allow it.
    peered: HashMap<String, HashMap<Ipv4Addr, Ipv4Addr>>,
}

impl Elsewhere {
    /// Of all VPCs and the active peering connections between them.
    pub fn new<'a>(
        vpcs: impl IntoIterator<Item = &'a Vpc> + Clone,
        peerings: &[Peering],
    ) -> Elsewhere {
        let mut elsewhere = Elsewhere::default();
        for vpc in vpcs.clone() {
            let addresses = public_to_private(vpc).map(|(public, _)| (public, vpc.region.clone()));
            elsewhere.public.extend(addresses);
        }
        for peering in peerings {
            let [one, other] = &peering.sides;
            for (side, asker) in [(one, other), (other, one)] {
                let found = vpcs.clone().into_iter().find(|vpc| vpc.id == side.vpc_id);
                let Some(vpc) = found.filter(|vpc| side.resolved_by_other && vpc.dns.hostnames)
                else {
                    continue;
                };
                let known = elsewhere.peered.entry(asker.vpc_id.clone()).or_default();
                known.extend(public_to_private(vpc));
            }
        }
        elsewhere
    }
}

fn public_to_private(vpc: &Vpc) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
    let addresses = vpc.interfaces.iter().flat_map(|interface| interface.addresses());
    addresses.filter_map(|address| Some((address.public_ip?, address.private_ip)))
}

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send this back; [`fitting`] for UDP.
    Answer(Vec<u8>),
    /// Ask somebody else.
    Forward,
    /// Say nothing: it is not a query, or there is no resolver.
    Ignore,
}

/// The domain of private names in a region (VPC User Guide, "DNS attributes").
pub fn private_domain(region: &str) -> String {
    match region {
        "us-east-1" => "ec2.internal".into(),
        region => format!("{region}.compute.internal"),
    }
}

fn public_domain(region: &str) -> String {
    match region {
        "us-east-1" => "compute-1.amazonaws.com".into(),
        region => format!("{region}.compute.amazonaws.com"),
    }
}

impl Zone {
    /// The names of the interfaces of `vpc`; `pool` holds every public address that can be ours.
    pub fn new(vpc: &Vpc, pool: Ipv4Cidr) -> Zone {
        let domain = private_domain(&vpc.region);
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        let mut hosts = HashMap::new();
        for interface in &vpc.interfaces {
            for address in interface.addresses() {
                let address = address.private_ip;
                let by_address = format!("{}.{domain}", dashed("ip", address));
                hosts.insert(IpAddr::V4(address), by_address.clone());
                names.insert(by_address, vec![address.into()]);
            }
        }
        for interface in vpc.interfaces.iter().filter(|i| !i.hostname.is_empty()) {
            let name = interface.hostname.to_ascii_lowercase();
            names.insert(name.clone(), vec![interface.private_ip.into()]);
            hosts.insert(interface.private_ip.into(), name);
        }
        for (name, addresses) in &vpc.dns.records {
            for address in addresses {
                // The first name of an address is the one that it is called back by.
                if !name.starts_with('*') {
                    hosts.entry(*address).or_insert_with(|| name.clone());
                }
                let known = names.entry(name.clone()).or_default();
                if !known.contains(address) {
                    known.push(*address);
                }
            }
        }
        Zone {
            vpc: vpc.id.clone(),
            support: vpc.dns.support,
            domain,
            cidrs: vpc.cidrs.clone(),
            ipv6_cidrs: vpc.ipv6_cidrs.clone(),
            pool,
            names,
            hosts,
            public: if vpc.dns.hostnames {
                public_to_private(vpc).collect()
            } else {
                HashMap::new()
            },
        }
    }

    /// Judges a query; `elsewhere` is what all VPCs know.
    pub fn judge(&self, packet: &[u8], elsewhere: &Elsewhere) -> Verdict {
        let Some(query) = parse(packet).filter(|_| self.support) else { return Verdict::Ignore };
        if query.class != IN {
            return Verdict::Forward;
        }
        match self.find(&query.name, elsewhere) {
            None => Verdict::Forward,
            Some(found) => Verdict::Answer(self.write(packet, &query, found)),
        }
    }

    /// `None` is not ours; `Some(None)` is ours and does not exist.
    fn find(&self, name: &str, elsewhere: &Elsewhere) -> Option<Option<Record>> {
        if let Some(addresses) = self.names.get(name).or_else(|| self.wildcard(name)) {
            return Some(Some(Record::Addresses(addresses.clone())));
        }
        if name == self.domain {
            return Some(Some(Record::Apex));
        }
        if under(name, &self.domain).is_some() {
            return Some(None);
        }
        if let Some(address) = under(name, "in-addr.arpa").and_then(reversed) {
            return self.host(address, elsewhere);
        }
        if let Some(address) = under(name, "ip6.arpa").and_then(reversed_nibbles) {
            let ours = self.ipv6_cidrs.iter().any(|cidr| cidr.contains(address));
            return ours.then(|| self.hosts.get(&address.into()).cloned().map(Record::Name));
        }
        let (region, address) = public_name(name)?;
        if !self.pool.contains(address) {
            return None;
        }
        let owner = elsewhere.public.get(&address).filter(|owner| *owner == region);
        let peered = || elsewhere.peered.get(&self.vpc)?.get(&address).copied();
        let inside = self.public.get(&address).copied().or_else(peered);
        Some(owner.map(|_| Record::Addresses(vec![inside.unwrap_or(address).into()])))
    }

    fn wildcard(&self, name: &str) -> Option<&Vec<IpAddr>> {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(addresses) = self.names.get(&format!("*.{parent}")) {
                return Some(addresses);
            }
            rest = parent;
        }
        None
    }

    fn host(&self, address: Ipv4Addr, elsewhere: &Elsewhere) -> Option<Option<Record>> {
        let known = self.hosts.get(&address.into()).cloned().map(Record::Name);
        if self.cidrs.iter().any(|cidr| cidr.contains(address)) {
            return Some(known);
        }
        if !self.pool.contains(address) {
            return None;
        }
        // A name that somebody gave the address (ModifyAddressAttribute) comes first.
        Some(known.or_else(|| {
            let region = elsewhere.public.get(&address)?;
            Some(Record::Name(format!("{}.{}", dashed("ec2", address), public_domain(region))))
        }))
    }

    fn write(&self, packet: &[u8], query: &Query, found: Option<Record>) -> Vec<u8> {
        let code = if found.is_some() { NO_ERROR } else { NO_SUCH_NAME };
        let records = found.map(|record| record.data(query.kind)).unwrap_or_default();
        let count = u16::try_from(records.len()).unwrap_or(0);
        let mut bytes = response(packet, query, code, true, count, u16::from(count == 0));
        for (kind, data) in &records {
            // The name is that of the question.
            bytes.extend([0xc0, 12]);
            resource(&mut bytes, *kind, data);
        }
        if count == 0 {
            // How long "no" may be kept (RFC 2308).
            name(&mut bytes, &self.domain);
            let mut data = Vec::new();
            name(&mut data, &format!("ns0.{}", self.domain));
            name(&mut data, &format!("hostmaster.{}", self.domain));
            for number in [1, 3600, 3600, 7200, TTL] {
                data.extend(number.to_be_bytes());
            }
            resource(&mut bytes, SOA, &data);
        }
        if let Some(extension) = query.extension {
            bytes[11] = 1;
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(LARGE_DATAGRAM.to_be_bytes());
            // No extended code, version 0, the wish for signatures repeated (RFC 3225), no options.
            bytes.extend([0, 0, if extension.signatures { 0x80 } else { 0 }, 0, 0, 0]);
        }
        bytes
    }
}

enum Record {
    Addresses(Vec<IpAddr>),
    Name(String),
    /// The zone itself, which has no address.
    Apex,
}

impl Record {
    /// Types and data of those that answer a question of this type.
    fn data(&self, asked: u16) -> Vec<(u16, Vec<u8>)> {
        match self {
            Record::Addresses(addresses) => addresses
                .iter()
                .map(|address| match address {
                    IpAddr::V4(address) => (A, address.octets().to_vec()),
                    IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
                })
                .filter(|(kind, _)| asked == *kind || asked == ANY)
                .collect(),
            Record::Name(text) if matches!(asked, PTR | ANY) => {
                let mut data = Vec::new();
                name(&mut data, text);
                vec![(PTR, data)]
            }
            _ => Vec::new(),
        }
    }
}

fn under<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    name.strip_suffix(zone)?.strip_suffix('.')
}

fn dashed(kind: &str, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{kind}-{a}-{b}-{c}-{d}")
}

/// Region and address of `ec2-…`.
fn public_name(name: &str) -> Option<(&str, Ipv4Addr)> {
    let (label, domain) = name.split_once('.')?;
    let address = label.strip_prefix("ec2-")?.replace('-', ".").parse().ok()?;
    if domain == "compute-1.amazonaws.com" {
        return Some(("us-east-1", address));
    }
    let region = under(domain, "compute.amazonaws.com")?;
    (!region.contains('.')).then_some((region, address))
}

fn reversed(labels: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = labels.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

fn reversed_nibbles(labels: &str) -> Option<Ipv6Addr> {
    let mut bits = 0_u128;
    let mut count = 0;
    for label in labels.split('.') {
        let digit = char::from(*label.as_bytes().first()?).to_digit(16)?;
        if label.len() != 1 || count == 32 {
            return None;
        }
        bits |= u128::from(digit) << (4 * count);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(bits))
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    /// Lower case, without the last dot.
    name: String,
    kind: u16,
    class: u16,
    /// Where the question ends.
    end: usize,
    extension: Option<Extension>,
}

/// What a client says of itself (EDNS, RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extension {
    /// The largest UDP answer that it takes, bytes.
    size: u16,
    signatures: bool,
}

/// The question of a standard query with one question.
fn parse(packet: &[u8]) -> Option<Query> {
    let flags = u16_at(packet, 2)?;
    // A query (bit 15 is zero) of opcode 0.
    if flags & 0xf800 != 0 || u16_at(packet, 4)? != 1 {
        return None;
    }
    let mut query = question(packet)?;
    query.extension = extension(packet, query.end);
    Some(query)
}

/// Found if it is the first of the additional records, where everybody puts it.
fn extension(packet: &[u8], at: usize) -> Option<Extension> {
    let (answers, authorities) = (u16_at(packet, 6)?, u16_at(packet, 8)?);
    let alone = answers == 0 && authorities == 0 && u16_at(packet, 10)? > 0;
    if !alone || *packet.get(at)? != 0 || u16_at(packet, at + 1)? != OPT {
        return None;
    }
    let size = u16_at(packet, at + 3)?;
    Some(Extension { size, signatures: packet.get(at + 7)? & 0x80 != 0 })
}

/// An answer to `query` as UDP can carry it: one that is too long for the client says so, and the
/// client asks again by TCP.
pub fn fitting(query: &[u8], mut answer: Vec<u8>) -> Vec<u8> {
    let Some(parsed) = parse(query) else { return answer };
    let limit = parsed.extension.map_or(DATAGRAM, |extension| {
        usize::from(extension.size.min(LARGE_DATAGRAM)).max(DATAGRAM)
    });
    if answer.len() > limit {
        answer.truncate(parsed.end);
        answer[2] |= 2;
        answer[6..HEADER].fill(0);
    }
    answer
}

/// The first question, in a query or in a response.
fn question(packet: &[u8]) -> Option<Query> {
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Nothing stands before the question that a pointer could point to.
        if length > 63 || at + length - HEADER > 254 {
            return None;
        }
        let label = packet.get(at..at + length)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            match byte {
                // A dot inside of a label is no separator: keep such names from looking like ours.
                b'.' | b'\\' => name.push('\\'),
                0x21..=0x7e => name.push(char::from(byte.to_ascii_lowercase())),
                _ => name.push('?'),
            }
        }
    }
    let (kind, class) = (u16_at(packet, at)?, u16_at(packet, at + 2)?);
    Some(Query { name, kind, class, end: at + 4, extension: None })
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

fn response(
    packet: &[u8],
    query: &Query,
    code: u8,
    ours: bool,
    answers: u16,
    authorities: u16,
) -> Vec<u8> {
    let recursion = packet[2] & 1;
    let authority = if ours { 4 } else { 0 };
    let mut bytes = vec![packet[0], packet[1], 0x80 | authority | recursion, 0x80 | code, 0, 1];
    bytes.extend(answers.to_be_bytes());
    bytes.extend(authorities.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(&packet[HEADER..query.end]);
    bytes
}

/// Writes a name; empty and overlong labels are left out.
pub(crate) fn name(bytes: &mut Vec<u8>, text: &str) {
    for label in text.split('.').filter(|label| (1..=63).contains(&label.len())) {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}

fn resource(bytes: &mut Vec<u8>, kind: u16, data: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend(IN.to_be_bytes());
    bytes.extend(TTL.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(data);
}

/// "I could not find out", for a query that was to be forwarded.
pub fn failure(packet: &[u8]) -> Option<Vec<u8>> {
    let query = parse(packet)?;
    Some(response(packet, &query, SERVER_FAILURE, false, 0, 0))
}

/// Whether `packet` answers `query`, which was sent with the identifier `id`.
pub fn answers(packet: &[u8], query: &[u8], id: u16) -> bool {
    u16_at(packet, 0) == Some(id)
        && packet.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && question(packet).is_some()
        && question(packet) == question(query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::network::{Address, Dns, Holder, Interface, PeeringSide, Subnet};
    use proptest::prelude::*;

    const PUBLIC_18: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 18);

    fn vpc() -> Vpc {
        let interface = |number: u8, public: Option<u8>| Interface {
            id: format!("eni-{number}"),
            holder: Holder::Machine("i-1".into()),
            secondary: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            node: None,
            subnet_id: "subnet-1".into(),
            mac: format!("0a:00:00:00:00:{number:02x}"),
            private_ip: Ipv4Addr::new(172, 31, 5, number),
            public_ip: public.map(|number| Ipv4Addr::new(203, 0, 113, number)),
            hostname: format!("ip-172-31-5-{number}.ec2.internal"),
            groups: Vec::new(),
            source_dest_check: true,
        };
        let mut second = interface(8, None);
        second.secondary =
            vec![Address { private_ip: Ipv4Addr::new(172, 31, 5, 18), public_ip: Some(PUBLIC_18) }];
        let records = [
            ("i-8.ec2.internal", vec!["172.31.5.8", "fd00::8"]),
            ("ec2.us-east-1.amazonaws.com", vec!["172.31.5.40", "172.31.21.40"]),
            ("*.s3.us-east-1.amazonaws.com", vec!["203.0.113.1"]),
        ];
        let records = records.into_iter().map(|(name, addresses)| {
            (name.to_owned(), addresses.iter().map(|text| text.parse().unwrap()).collect())
        });
        Vpc {
            id: "vpc-1".into(),
            region: "us-east-1".into(),
            cidrs: vec!["172.31.0.0/16".parse().unwrap()],
            ipv6_cidrs: vec!["fd00::/56".parse().unwrap()],
            subnets: vec![Subnet::new("subnet-1", "172.31.0.0/20".parse().unwrap())],
            interfaces: vec![interface(7, Some(7)), second],
            groups: Vec::new(),
            dns: Dns { records: records.collect(), ..Dns::default() },
            ..Vpc::default()
        }
    }

    fn peer(id: &str, region: &str, number: u8) -> Vpc {
        let mut vpc = vpc();
        vpc.id = id.into();
        vpc.region = region.into();
        vpc.interfaces.truncate(1);
        vpc.interfaces[0].private_ip = Ipv4Addr::new(10, 0, 0, number);
        vpc.interfaces[0].public_ip = Some(Ipv4Addr::new(203, 0, 113, number));
        vpc
    }

    fn zone_of(vpc: &Vpc) -> Zone {
        Zone::new(vpc, "203.0.113.0/24".parse().unwrap())
    }

    fn zone() -> Zone {
        zone_of(&vpc())
    }

    /// Peers 10 and 11 in other regions, of which 10 lets its names resolve; 9 is no peer.
    fn elsewhere() -> Elsewhere {
        let vpcs = [
            vpc(),
            peer("vpc-9", "us-east-1", 9),
            peer("vpc-10", "eu-west-1", 10),
            peer("vpc-11", "eu-west-1", 11),
        ];
        let side =
            |id: &str, resolved_by_other| PeeringSide { vpc_id: id.into(), resolved_by_other };
        let peering = |one, other| Peering { id: "pcx-1".into(), sides: [one, other] };
        let peerings = [
            peering(side("vpc-1", true), side("vpc-10", true)),
            peering(side("vpc-11", false), side("vpc-1", false)),
        ];
        Elsewhere::new(&vpcs, &peerings)
    }

    fn ask(text: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        name(&mut bytes, text);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(IN.to_be_bytes());
        bytes
    }

    /// Code, number of answers, data of the answer.
    fn told(text: &str, kind: u16) -> Option<(u8, u8, Vec<u8>)> {
        let query = ask(text, kind);
        match zone().judge(&query, &elsewhere()) {
            Verdict::Answer(bytes) => {
                assert!(answers(&bytes, &query, 0xabcd));
                Some((bytes[3] & 15, bytes[7], bytes[query.len()..].get(12..)?.to_vec()))
            }
            Verdict::Forward => None,
            Verdict::Ignore => panic!("{text} was ignored"),
        }
    }

    #[test]
    fn names_of_the_vpc() {
        let private = Some((0, 1, vec![172, 31, 5, 7]));
        assert_eq!(told("ip-172-31-5-7.ec2.internal", A), private);
        assert_eq!(told("IP-172-31-5-7.EC2.internal", A), private);
        assert_eq!(told("ip-172-31-5-7.ec2.internal", ANY), private);
        assert_eq!(told("ec2-203-0-113-7.compute-1.amazonaws.com", A), private);
        let public = Some((0, 1, vec![203, 0, 113, 9]));
        assert_eq!(told("ec2-203-0-113-9.compute-1.amazonaws.com", A), public);
        let (code, answers, _) = told("ip-172-31-5-7.ec2.internal", AAAA).unwrap();
        assert_eq!((code, answers), (0, 0), "there is no IPv6");
        let second = Some((0, 1, vec![172, 31, 5, 18]));
        assert_eq!(told("ip-172-31-5-18.ec2.internal", A), second);
        assert_eq!(told("ec2-203-0-113-18.compute-1.amazonaws.com", A), second);
        assert_eq!(told("i-8.ec2.internal", A), Some((0, 1, vec![172, 31, 5, 8])));
        let six = "fd00::8".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        assert_eq!(told("i-8.ec2.internal", AAAA), Some((0, 1, six)));
        assert_eq!(told("i-8.ec2.internal", ANY).unwrap().1, 2);
        assert_eq!(told("ec2.us-east-1.amazonaws.com", A).unwrap().1, 2);
        let gateway = Some((0, 1, vec![203, 0, 113, 1]));
        assert_eq!(told("bucket.s3.us-east-1.amazonaws.com", A), gateway);
        for nobody in [
            "ip-172-31-5-99.ec2.internal",
            "x.ip-172-31-5-7.ec2.internal",
            "ec2-203-0-113-99.compute-1.amazonaws.com",
            "99.5.31.172.in-addr.arpa",
            "99.113.0.203.in-addr.arpa",
        ] {
            let (code, answers, _) = told(nobody, A).unwrap();
            assert_eq!((code, answers), (3, 0), "{nobody}");
        }
        for theirs in [
            "example.com",
            "s3.amazonaws.com",
            "ec2-8-8-8-8.compute-1.amazonaws.com",
            "x.ec2.us-east-1.amazonaws.com",
            "8.8.8.8.in-addr.arpa",
            "31.172.in-addr.arpa",
            "",
        ] {
            assert_eq!(told(theirs, A), None, "{theirs}");
        }
    }

    #[test]
    fn public_names_of_peers() {
        let address = |name: &str| told(name, A).map(|(code, _, data)| (code, data));
        let name = |number: u8| format!("ec2-203-0-113-{number}.eu-west-1.compute.amazonaws.com");
        assert_eq!(address(&name(10)), Some((0, vec![10, 0, 0, 10])));
        assert_eq!(address(&name(11)), Some((0, vec![203, 0, 113, 11])), "it does not allow it");
        assert_eq!(address(&name(9)).unwrap().0, NO_SUCH_NAME, "it is in another region");
        let query = ask("ec2-203-0-113-7.compute-1.amazonaws.com", A);
        let told_in = |vpc: &Vpc| match zone_of(vpc).judge(&query, &elsewhere()) {
            Verdict::Answer(answer) => answer[answer.len() - 4..].to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told_in(&peer("vpc-10", "eu-west-1", 10)), [172, 31, 5, 7]);
        assert_eq!(told_in(&peer("vpc-9", "us-east-1", 9)), [203, 0, 113, 7]);
        let mut nameless = vpc();
        nameless.dns.hostnames = false;
        assert_eq!(told_in(&nameless), [203, 0, 113, 7]);
        nameless.dns.support = false;
        assert_eq!(zone_of(&nameless).judge(&query, &elsewhere()), Verdict::Ignore);
    }

    #[test]
    fn extensions_are_answered_and_long_answers_are_cut() {
        let mut many = vpc();
        let addresses = (0..100).map(|number| IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)));
        many.dns.records.insert("many.ec2.internal".into(), addresses.collect());
        let answered = |query: &[u8]| match zone_of(&many).judge(query, &elsewhere()) {
            Verdict::Answer(answer) => (fitting(query, answer.clone()), answer),
            other => panic!("{other:?}"),
        };
        let plain = ask("many.ec2.internal", A);
        let (fitted, whole) = answered(&plain);
        assert_eq!(whole.len(), plain.len() + 1600);
        assert_eq!((fitted.len(), fitted[2] & 2, fitted[7]), (plain.len(), 2, 0));
        let mut extended = plain.clone();
        extended[11] = 1;
        extended.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
        let (fitted, whole) = answered(&extended);
        assert!(whole.ends_with(&[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0]) && whole[11] == 1);
        assert_eq!((fitted.len(), fitted[2] & 2), (plain.len(), 2), "1,232 bytes are too few");
        let size = extended.len() - 8;
        extended[size] = 16;
        let (fitted, whole) = answered(&extended);
        assert_eq!(fitted, whole);
    }

    #[test]
    fn addresses_have_names() {
        let mut wanted = Vec::new();
        name(&mut wanted, "ip-172-31-5-8.ec2.internal");
        assert_eq!(told("8.5.31.172.in-addr.arpa", PTR), Some((0, 1, wanted)));
        let mut wanted = Vec::new();
        name(&mut wanted, "ec2-203-0-113-7.compute-1.amazonaws.com");
        assert_eq!(told("7.113.0.203.in-addr.arpa", PTR), Some((0, 1, wanted)));
        let mut wanted = Vec::new();
        name(&mut wanted, "ec2-203-0-113-10.eu-west-1.compute.amazonaws.com");
        assert_eq!(told("10.113.0.203.in-addr.arpa", PTR), Some((0, 1, wanted)));
        let mut wanted = Vec::new();
        name(&mut wanted, "i-8.ec2.internal");
        let nibbles = format!("8.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(told(&nibbles, PTR), Some((0, 1, wanted)));
        let nobody = nibbles.replacen('8', "9", 1);
        assert_eq!(told(&nobody, PTR).unwrap().0, NO_SUCH_NAME);
        assert_eq!(told(&nobody.replace("d.f", "e.f"), PTR), None);
    }

    #[test]
    fn what_is_no_query_is_ignored() {
        let ignored = |bytes: &[u8]| zone().judge(bytes, &elsewhere()) == Verdict::Ignore;
        let good = ask("ip-172-31-5-7.ec2.internal", A);
        for length in 0..good.len() {
            assert!(ignored(&good[..length]), "{length}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(ignored(&with(2, 0x80)), "a response");
        assert!(ignored(&with(2, 0x28)), "an update");
        assert!(ignored(&with(5, 2)), "two questions");
        assert!(ignored(&with(12, 0xc0)), "a pointer");
        // A dot inside of a label does not make it ours.
        let mut odd = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 26];
        odd.extend(b"ip-172-31-5-7.ec2.internal");
        odd.extend([0, 0, 1, 0, 1]);
        assert_eq!(zone().judge(&odd, &elsewhere()), Verdict::Forward);
    }

    #[test]
    fn only_the_right_answer_is_taken() {
        let query = ask("example.com", A);
        let mut answer = failure(&query).unwrap();
        assert!(answers(&answer, &query, 0xabcd));
        assert!(!answers(&answer, &query, 1));
        assert!(!answers(&answer, &ask("example.org", A), 0xabcd));
        assert!(!answers(&answer, &ask("example.com", 28), 0xabcd));
        answer[2] &= 0x7f;
        assert!(!answers(&answer, &query, 0xabcd));
    }

    #[test]
    fn corpus() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dns");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let _ = zone().judge(&bytes, &elsewhere());
            let _ = answers(&bytes, &bytes, 0);
            count += 1;
        }
        assert!(count >= 5, "{directory} is empty");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = zone().judge(&bytes, &elsewhere());
            let _ = failure(&bytes);
            let _ = fitting(&bytes, bytes.clone());
            let _ = answers(&bytes, &bytes, 0);
        }

        #[test]
        fn damaged_queries_never_panic(text in "[a-z0-9.-]{0,80}", at: usize, byte: u8) {
            let mut bytes = ask(&text, A);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = zone().judge(&bytes, &elsewhere());
            let _ = failure(&bytes);
        }
    }
}
