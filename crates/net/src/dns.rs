//! DNS (RFC 1035): the names that a VPC knows by itself.
//!
//! Pure: a query and a [`Zone`] in, a [`Verdict`] out. What is ours is answered here, with
//! certainty; what is not is for [`crate::resolver`] to pass on, byte for byte.
//!
//! | name | answer |
//! | --- | --- |
//! | `ip-172-31-5-7.ec2.internal`, and what else the plan calls an interface | private address |
//! | `ec2-203-0-113-7.compute-1.amazonaws.com` of this VPC | private address |
//! | the same of another VPC | public address |
//! | either form of nobody | no such name |
//! | `7.5.31.172.in-addr.arpa` | host name |

use base::Ipv4Cidr;
use base::network::Vpc;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// How long an answer may be kept, seconds; as EC2 says.
const TTL: u32 = 60;

const HEADER: usize = 12;
const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const ANY: u16 = 255;
const IN: u16 = 1;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// The names of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// `ec2.internal` or `<region>.compute.internal`.
    domain: String,
    /// `compute-1.amazonaws.com` or `<region>.compute.amazonaws.com`.
    public_domain: String,
    cidrs: Vec<Ipv4Cidr>,
    pool: Ipv4Cidr,
    names: HashMap<String, Ipv4Addr>,
    hosts: HashMap<Ipv4Addr, String>,
    /// Public to private.
    public: HashMap<Ipv4Addr, Ipv4Addr>,
}

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send this back.
    Answer(Vec<u8>),
    /// Ask somebody else.
    Forward,
    /// Not a query: say nothing.
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
        let hosts: HashMap<Ipv4Addr, String> = vpc
            .interfaces
            .iter()
            .map(|interface| (interface.private_ip, interface.hostname.to_ascii_lowercase()))
            .collect();
        Zone {
            domain: private_domain(&vpc.region),
            public_domain: public_domain(&vpc.region),
            cidrs: vpc.cidrs.clone(),
            pool,
            names: hosts.iter().map(|(address, name)| (name.clone(), *address)).collect(),
            hosts,
            public: vpc
                .interfaces
                .iter()
                .filter_map(|interface| Some((interface.public_ip?, interface.private_ip)))
                .collect(),
        }
    }

    /// Judges a query; `elsewhere` are the public addresses of all VPCs.
    pub fn judge(&self, packet: &[u8], elsewhere: &BTreeSet<Ipv4Addr>) -> Verdict {
        let Some(query) = parse(packet) else { return Verdict::Ignore };
        if query.class != IN {
            return Verdict::Forward;
        }
        match self.find(&query.name, elsewhere) {
            None => Verdict::Forward,
            Some(found) => Verdict::Answer(self.write(packet, &query, found)),
        }
    }

    /// `None` is not ours; `Some(None)` is ours and does not exist.
    fn find(&self, name: &str, elsewhere: &BTreeSet<Ipv4Addr>) -> Option<Option<Record>> {
        if let Some(address) = self.names.get(name) {
            return Some(Some(Record::Address(*address)));
        }
        if name == self.domain {
            return Some(Some(Record::Apex));
        }
        if under(name, &self.domain).is_some() {
            return Some(None);
        }
        if let Some(address) = under(name, "in-addr.arpa").and_then(reversed) {
            if self.cidrs.iter().any(|cidr| cidr.contains(address)) {
                return Some(self.hosts.get(&address).cloned().map(Record::Name));
            }
            if self.pool.contains(address) {
                let owned = elsewhere.contains(&address);
                return Some(owned.then(|| {
                    Record::Name(format!("{}.{}", dashed("ec2", address), self.public_domain))
                }));
            }
            return None;
        }
        let address = under(name, &self.public_domain).and_then(undashed)?;
        if !self.pool.contains(address) {
            return None;
        }
        let inside = self.public.get(&address).copied();
        let found = inside.or_else(|| elsewhere.get(&address).copied());
        Some(found.map(Record::Address))
    }

    fn write(&self, packet: &[u8], query: &Query, found: Option<Record>) -> Vec<u8> {
        let code = if found.is_some() { NO_ERROR } else { NO_SUCH_NAME };
        let record = found.and_then(|record| record.data(query.kind));
        let (answers, authorities) = if record.is_some() { (1, 0) } else { (0, 1) };
        let mut bytes = response(packet, query, code, true, answers, authorities);
        match record {
            Some((kind, data)) => {
                // The name is that of the question.
                bytes.extend([0xc0, 12]);
                resource(&mut bytes, kind, &data);
            }
            None => {
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
        }
        bytes
    }
}

enum Record {
    Address(Ipv4Addr),
    Name(String),
    /// The zone itself, which has no address.
    Apex,
}

impl Record {
    /// Type and data, if the record answers a question of this type.
    fn data(&self, asked: u16) -> Option<(u16, Vec<u8>)> {
        match self {
            Record::Address(address) if matches!(asked, A | ANY) => {
                Some((A, address.octets().to_vec()))
            }
            Record::Name(text) if matches!(asked, PTR | ANY) => {
                let mut data = Vec::new();
                name(&mut data, text);
                Some((PTR, data))
            }
            _ => None,
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

fn undashed(label: &str) -> Option<Ipv4Addr> {
    label.strip_prefix("ec2-")?.replace('-', ".").parse().ok()
}

fn reversed(labels: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = labels.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    /// Lower case, without the last dot.
    name: String,
    kind: u16,
    class: u16,
    /// Where the question ends.
    end: usize,
}

/// The question of a standard query with one question.
fn parse(packet: &[u8]) -> Option<Query> {
    let flags = u16_at(packet, 2)?;
    // A query (bit 15 is zero) of opcode 0.
    if flags & 0xf800 != 0 || u16_at(packet, 4)? != 1 {
        return None;
    }
    question(packet)
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
    let query =
        Query { name, kind: u16_at(packet, at)?, class: u16_at(packet, at + 2)?, end: at + 4 };
    Some(query)
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

fn name(bytes: &mut Vec<u8>, text: &str) {
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
    use base::network::{Holder, Interface, Subnet};
    use proptest::prelude::*;

    fn zone() -> Zone {
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
        let vpc = Vpc {
            id: "vpc-1".into(),
            region: "us-east-1".into(),
            cidrs: vec!["172.31.0.0/16".parse().unwrap()],
            subnets: vec![Subnet::new("subnet-1", "172.31.0.0/20".parse().unwrap())],
            interfaces: vec![interface(7, Some(7)), interface(8, None)],
            groups: Vec::new(),
            ..Vpc::default()
        };
        Zone::new(&vpc, "203.0.113.0/24".parse().unwrap())
    }

    fn elsewhere() -> BTreeSet<Ipv4Addr> {
        [7, 9].into_iter().map(|number| Ipv4Addr::new(203, 0, 113, number)).collect()
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
        let (code, answers, _) = told("ip-172-31-5-7.ec2.internal", 28).unwrap();
        assert_eq!((code, answers), (0, 0), "there is no IPv6");
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
            "8.8.8.8.in-addr.arpa",
            "31.172.in-addr.arpa",
            "",
        ] {
            assert_eq!(told(theirs, A), None, "{theirs}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let mut wanted = Vec::new();
        name(&mut wanted, "ip-172-31-5-8.ec2.internal");
        assert_eq!(told("8.5.31.172.in-addr.arpa", PTR), Some((0, 1, wanted)));
        let mut wanted = Vec::new();
        name(&mut wanted, "ec2-203-0-113-7.compute-1.amazonaws.com");
        assert_eq!(told("7.113.0.203.in-addr.arpa", PTR), Some((0, 1, wanted)));
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
