//! One line of a flow log (VPC User Guide, "Flow log records").
//!
//! Pure. A field that this node cannot know is `-`, as it is on EC2 where a field does not apply.

use base::Timestamp;
use base::network::{Flow, FlowLog, Interface, Plan, Route, Target, Vpc};
use std::net::IpAddr;

/// The fields of the default format, version 2.
const DEFAULT: [&str; 14] = [
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
];

/// The fields of later versions.
const LATER: [(u8, &[&str]); 8] = [
    (3, &["vpc-id", "subnet-id", "instance-id", "tcp-flags", "type", "pkt-srcaddr", "pkt-dstaddr"]),
    (4, &["region", "az-id", "sublocation-type", "sublocation-id"]),
    (5, &["pkt-src-aws-service", "pkt-dst-aws-service", "flow-direction", "traffic-path"]),
    (6, &["resource-type", "tgw-id", "tgw-attachment-id"]),
    (
        7,
        &[
            "ecs-cluster-arn",
            "ecs-cluster-name",
            "ecs-container-instance-arn",
            "ecs-container-instance-id",
            "ecs-container-id",
            "ecs-second-container-id",
            "ecs-service-name",
            "ecs-task-definition-arn",
            "ecs-task-arn",
            "ecs-task-id",
        ],
    ),
    (8, &["reject-reason"]),
    (9, &["resource-id"]),
    (10, &["encryption-status"]),
];

/// What a line is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// Packets that were seen.
    Flow(&'a Flow),
    /// No packet in an interval.
    Silence(Timestamp, Timestamp),
    /// Some flows of an interval could not be counted.
    Skipped(Timestamp, Timestamp),
}

/// Where an interface is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    plan: &'a Plan,
    vpc: &'a Vpc,
    interface: &'a Interface,
}

impl<'a> Place<'a> {
    pub(super) fn find(plan: &'a Plan, interface_id: &str) -> Option<Self> {
        plan.vpcs.iter().find_map(|vpc| {
            let interface = vpc.interfaces.iter().find(|i| i.id == interface_id)?;
            Some(Place { plan, vpc, interface })
        })
    }

    pub(super) fn vpc_id(&self) -> &'a str {
        &self.vpc.id
    }

    /// By what a packet to `destination` leaves (VPC User Guide, "traffic-path").
    fn path(&self, destination: IpAddr) -> Option<&'static str> {
        let v4 = |cidr: &base::Ipv4Cidr| matches!(destination, IpAddr::V4(a) if cidr.contains(a));
        let v6 = |cidr: &base::Ipv6Cidr| matches!(destination, IpAddr::V6(a) if cidr.contains(a));
        let subnet = self.vpc.subnets.iter().find(|s| s.id == self.interface.subnet_id)?;
        let table = self.vpc.route_tables.iter().find(|table| table.id == subnet.route_table);
        let routes = table.map(|table| table.routes.as_slice()).unwrap_or_default();
        let matching = routes.iter().filter(|route| route.destination.contains(destination));
        let best = matching.max_by_key(|route| route.destination.length());
        let local = self.vpc.cidrs.iter().any(v4) || self.vpc.ipv6_cidrs.iter().any(v6);
        match best.map(|Route { target, .. }| target) {
            Some(Target::InternetGateway | Target::EgressOnlyInternetGateway) if !local => {
                Some("8")
            }
            Some(Target::GatewayEndpoint(_)) => Some("7"),
            Some(Target::Peering(id)) => Some(if self.crosses_regions(id) { "5" } else { "4" }),
            Some(Target::Interface(_)) => Some("1"),
            _ if local => Some("1"),
            _ => None,
        }
    }

    fn crosses_regions(&self, peering: &str) -> bool {
        let peering = self.plan.peerings.iter().find(|known| known.id == peering);
        let ids = peering.iter().flat_map(|peering| &peering.sides).map(|side| &side.vpc_id);
        let mut regions = ids.filter_map(|id| self.plan.vpcs.iter().find(|vpc| vpc.id == *id));
        regions.any(|vpc| vpc.region != self.vpc.region)
    }
}

/// A line without its end.
pub(super) fn line(
    log: &FlowLog,
    interface_id: &str,
    place: Option<Place<'_>>,
    subject: Subject<'_>,
) -> String {
    let text = |name: &str| field(log, interface_id, place, subject, name);
    let fields: Vec<Option<String>> = if log.fields.is_empty() {
        DEFAULT.iter().map(|name| text(name)).collect()
    } else {
        log.fields.iter().map(|name| text(name)).collect()
    };
    let fields: Vec<String> =
        fields.into_iter().map(|field| field.unwrap_or_else(|| "-".to_owned())).collect();
    fields.join(" ")
}

/// The version of a format is that of its newest field.
fn version(log: &FlowLog) -> u8 {
    let of = |name: &String| {
        let later = LATER.iter().find(|(_, names)| names.contains(&name.as_str()));
        later.map_or(2, |(version, _)| *version)
    };
    log.fields.iter().map(of).max().unwrap_or(2)
}

fn field(
    log: &FlowLog,
    interface_id: &str,
    place: Option<Place<'_>>,
    subject: Subject<'_>,
    name: &str,
) -> Option<String> {
    let (start, end, status) = match subject {
        Subject::Flow(flow) => (flow.start, flow.end, "OK"),
        Subject::Silence(start, end) => (start, end, "NODATA"),
        Subject::Skipped(start, end) => (start, end, "SKIPDATA"),
    };
    match name {
        "version" => return Some(version(log).to_string()),
        "account-id" => return Some(log.account.clone()),
        "interface-id" => return Some(interface_id.to_owned()),
        "start" => return Some(seconds(start)),
        "end" => return Some(seconds(end)),
        "log-status" => return Some(status.to_owned()),
        "region" => return Some(log.region.clone()),
        "vpc-id" => return place.map(|place| place.vpc.id.clone()),
        "subnet-id" => return place.map(|place| place.interface.subnet_id.clone()),
        "instance-id" => return place?.interface.instance_id().map(str::to_owned),
        _ => {}
    }
    let Subject::Flow(flow) = subject else { return None };
    Some(match name {
        "srcaddr" | "pkt-srcaddr" => flow.source.to_string(),
        "dstaddr" | "pkt-dstaddr" => flow.destination.to_string(),
        "srcport" => flow.source_port.to_string(),
        "dstport" => flow.destination_port.to_string(),
        "protocol" => flow.protocol.to_string(),
        "packets" => flow.packets.to_string(),
        "bytes" => flow.bytes.to_string(),
        "action" => if flow.accepted { "ACCEPT" } else { "REJECT" }.to_owned(),
        "type" => if flow.source.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        "flow-direction" => if flow.egress { "egress" } else { "ingress" }.to_owned(),
        "traffic-path" if flow.egress => place?.path(flow.destination)?.to_owned(),
        _ => return None,
    })
}

fn seconds(time: Timestamp) -> String {
    time.0.div_euclid(1000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::network::{Peering, PeeringSide, RouteTable, Subnet};

    fn log(fields: &[&str]) -> FlowLog {
        FlowLog {
            id: "fl-1".to_owned(),
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            interfaces: vec!["eni-1".to_owned()],
            accepted: true,
            rejected: true,
            interval: 60,
            fields: fields.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn flow(destination: &str) -> Flow {
        Flow {
            interface_id: "eni-1".to_owned(),
            egress: true,
            source: "10.0.0.5".parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40_000,
            destination_port: 443,
            protocol: 6,
            packets: 20,
            bytes: 4249,
            start: Timestamp(1_418_530_010_999),
            end: Timestamp(1_418_530_070_000),
            accepted: true,
        }
    }

    #[test]
    fn the_default_format() {
        let flow = flow("10.0.0.6");
        assert_eq!(
            line(&log(&[]), "eni-1", None, Subject::Flow(&flow)),
            "2 123456789012 eni-1 10.0.0.5 10.0.0.6 40000 443 6 20 4249 1418530010 1418530070 \
             ACCEPT OK"
        );
        let silence = Subject::Silence(flow.start, flow.end);
        let nothing = line(&log(&DEFAULT), "eni-1", None, silence);
        assert_eq!(nothing, "2 123456789012 eni-1 - - - - - - - 1418530010 1418530070 - NODATA");
        let skipped = Subject::Skipped(flow.start, flow.end);
        assert!(line(&log(&[]), "eni-1", None, skipped).ends_with("- SKIPDATA"));
    }

    #[test]
    fn custom_fields() {
        let mut subnet = Subnet::new("subnet-1", "10.0.0.0/24".parse().unwrap());
        subnet.route_table = "rtb-1".to_owned();
        let route = |destination: &str, target| Route {
            destination: base::Cidr::parse_lenient(destination).unwrap(),
            target,
        };
        let routes = vec![
            route("0.0.0.0/0", Target::InternetGateway),
            route("10.1.0.0/16", Target::Peering("pcx-1".to_owned())),
            route("192.0.2.0/24", Target::Interface("eni-2".to_owned())),
            route("198.51.100.0/24", Target::GatewayEndpoint("vpce-1".to_owned())),
            route("10.9.0.0/16", Target::Blackhole),
        ];
        let interface = super::super::tests::interface("eni-1", "10.0.0.5");
        let vpc = Vpc {
            id: "vpc-1".to_owned(),
            region: "us-east-1".to_owned(),
            cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            subnets: vec![subnet],
            route_tables: vec![RouteTable { id: "rtb-1".to_owned(), routes }],
            interfaces: vec![interface],
            ..Vpc::default()
        };
        let other =
            Vpc { id: "vpc-2".to_owned(), region: "eu-west-1".to_owned(), ..Vpc::default() };
        let side = |id: &str| PeeringSide { vpc_id: id.to_owned(), resolved_by_other: false };
        let sides = [side("vpc-1"), side("vpc-2")];
        let plan = Plan {
            vpcs: vec![vpc, other],
            peerings: vec![Peering { id: "pcx-1".to_owned(), sides }],
            ..Plan::default()
        };
        let fields = [
            "version",
            "vpc-id",
            "subnet-id",
            "instance-id",
            "type",
            "region",
            "az-id",
            "nonsense",
        ];
        let text = |fields: &[&str], destination: &str| {
            let place = Place::find(&plan, "eni-1");
            line(&log(fields), "eni-1", place, Subject::Flow(&flow(destination)))
        };
        assert_eq!(text(&fields, "10.0.0.6"), "4 vpc-1 subnet-1 i-1 IPv4 us-east-1 - -");
        let path = |to: &str| text(&["version", "flow-direction", "traffic-path"], to);
        for (to, number) in [
            ("10.0.7.7", "1"),
            ("8.8.8.8", "8"),
            ("10.1.0.1", "5"),
            ("192.0.2.1", "1"),
            ("198.51.100.1", "7"),
            ("10.9.0.1", "-"),
        ] {
            assert_eq!(path(to), format!("5 egress {number}"), "{to}");
        }
    }
}
