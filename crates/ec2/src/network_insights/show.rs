//! Paths and analyses as the API shows them.

use crate::record::{
    InsightsAnalysis, InsightsExplanation, InsightsFilter, InsightsPacket, InsightsPath,
    InsightsRule, InsightsStep,
};
use crate::tag;
use base::network::{Peer, Protocol};
use model::ec2 as api;

/// `tcp` or `udp`.
pub(super) fn protocol(path: &InsightsPath) -> &'static str {
    if path.udp { "udp" } else { "tcp" }
}

/// `running` or `succeeded`.
pub(super) fn status(analysis: &InsightsAnalysis) -> &'static str {
    if analysis.outcome.is_some() { "succeeded" } else { "running" }
}

/// The ARN of a component, by its id's prefix.
pub(super) fn arn(region: &str, account: &str, id: &str) -> Option<String> {
    let (prefix, _) = id.rsplit_once('-')?;
    let kind = match prefix {
        "acl" => "network-acl",
        "eigw" => "egress-only-internet-gateway",
        "eni" => "network-interface",
        "i" => "instance",
        "igw" => "internet-gateway",
        "nat" => "natgateway",
        "nia" => "network-insights-analysis",
        "nip" => "network-insights-path",
        "pcx" => "vpc-peering-connection",
        "pl" => "prefix-list",
        "rtb" => "route-table",
        "sg" => "security-group",
        "subnet" => "subnet",
        "tgw" => "transit-gateway",
        "tgw-attach" => "transit-gateway-attachment",
        "tgw-rtb" => "transit-gateway-route-table",
        "vpc" => "vpc",
        "vpce" => "vpc-endpoint",
        _ => return None,
    };
    Some(format!("arn:aws:ec2:{region}:{account}:{kind}/{id}"))
}

fn number(port: u16) -> Option<i32> {
    Some(i32::from(port))
}

fn filter(filter: &InsightsFilter) -> api::PathFilter {
    let range = |range: Option<(u16, u16)>| {
        range
            .map(|(from, to)| api::FilterPortRange { from_port: number(from), to_port: number(to) })
    };
    api::PathFilter {
        destination_address: filter.destination_address.map(|address| address.to_string()),
        destination_port_range: range(filter.destination_ports),
        source_address: filter.source_address.map(|address| address.to_string()),
        source_port_range: range(filter.source_ports),
    }
}

pub(super) fn path(region: &str, account: &str, path: &InsightsPath) -> api::NetworkInsightsPath {
    api::NetworkInsightsPath {
        created_date: Some(path.created),
        destination: path.destination.clone(),
        destination_arn: path.destination.as_deref().and_then(|id| arn(region, account, id)),
        destination_ip: path.destination_ip.map(|address| address.to_string()),
        destination_port: path.destination_port.and_then(number),
        filter_at_destination: path.at_destination.as_ref().map(filter),
        filter_at_source: path.at_source.as_ref().map(filter),
        network_insights_path_arn: arn(region, account, &path.id),
        network_insights_path_id: Some(path.id.clone()),
        protocol: Some(protocol(path).to_owned()),
        source: Some(path.source.clone()),
        source_arn: arn(region, account, &path.source),
        source_ip: path.source_ip.map(|address| address.to_string()),
        tags: tag::to_model(&path.tags),
    }
}

pub(super) fn analysis(
    region: &str,
    account: &str,
    analysis: &InsightsAnalysis,
) -> api::NetworkInsightsAnalysis {
    let of = Of { region, account };
    let list = |arns: &Vec<String>| (!arns.is_empty()).then(|| arns.clone());
    let outcome = analysis.outcome.as_ref();
    let steps = |steps: &[InsightsStep]| {
        let numbered = steps.iter().zip(1..).map(|(step, number)| of.component(step, number));
        (!steps.is_empty()).then(|| numbered.collect())
    };
    api::NetworkInsightsAnalysis {
        explanations: outcome
            .filter(|outcome| !outcome.explanations.is_empty())
            .map(|outcome| outcome.explanations.iter().map(|why| of.explanation(why)).collect()),
        filter_in_arns: list(&analysis.filter_in),
        filter_out_arns: list(&analysis.filter_out),
        forward_path_components: outcome.and_then(|outcome| steps(&outcome.forward)),
        network_insights_analysis_arn: arn(region, account, &analysis.id),
        network_insights_analysis_id: Some(analysis.id.clone()),
        network_insights_path_id: Some(analysis.path_id.clone()),
        network_path_found: outcome.map(|outcome| outcome.found),
        return_path_components: outcome.and_then(|outcome| steps(&outcome.back)),
        start_date: Some(analysis.started),
        status: Some(status(analysis).to_owned()),
        tags: tag::to_model(&analysis.tags),
        ..Default::default()
    }
}

/// Whose components these are.
#[derive(Clone, Copy)]
struct Of<'a> {
    region: &'a str,
    account: &'a str,
}

impl Of<'_> {
    fn named(self, id: &str) -> api::AnalysisComponent {
        api::AnalysisComponent {
            arn: arn(self.region, self.account, id),
            id: Some(id.to_owned()),
            name: None,
        }
    }

    fn maybe(self, id: Option<&String>) -> Option<api::AnalysisComponent> {
        id.map(|id| self.named(id))
    }

    fn component(self, step: &InsightsStep, sequence: i32) -> api::PathComponent {
        let mut shown = api::PathComponent {
            attached_to: self.maybe(step.attached_to.as_ref()),
            component: Some(self.named(&step.id)),
            inbound_header: step.before.map(header),
            outbound_header: step.after.map(header),
            sequence_number: Some(sequence),
            subnet: self.maybe(step.subnet_id.as_ref()),
            vpc: self.maybe(step.vpc_id.as_ref()),
            ..Default::default()
        };
        match &step.applied {
            InsightsRule::None => {}
            InsightsRule::Acl { egress, rule } => shown.acl_rule = Some(acl_rule(*egress, rule)),
            InsightsRule::Groups { .. } => shown.security_group_rule = group_rule(&step.applied),
            InsightsRule::Route { destination, target } => {
                shown.route_table_route = Some(route(&destination.to_string(), target.as_deref()));
            }
            InsightsRule::TransitRoute { gateway_id, route } => {
                shown.transit_gateway = Some(self.named(gateway_id));
                shown.transit_gateway_route_table_route = route.as_ref().map(transit_route);
            }
        }
        shown
    }

    fn explanation(self, why: &InsightsExplanation) -> api::Explanation {
        let step = &why.at;
        let component = Some(self.named(&step.id));
        let packet = step.before;
        let mut shown = api::Explanation {
            attached_to: self.maybe(step.attached_to.as_ref()),
            explanation_code: Some(why.code.clone()),
            subnet: self.maybe(step.subnet_id.as_ref()),
            vpc: self.maybe(step.vpc_id.as_ref()),
            component_account: Some(self.account.to_owned()),
            component_region: Some(self.region.to_owned()),
            ..Default::default()
        };
        let direction = |egress: bool| Some(if egress { "egress" } else { "ingress" }.to_owned());
        match &step.applied {
            InsightsRule::Acl { egress, rule } => {
                shown.acl.clone_from(&component);
                shown.acl_rule = rule.is_some().then(|| acl_rule(*egress, rule));
                shown.direction = direction(*egress);
            }
            InsightsRule::Groups { egress, interface_id, ids, .. } => {
                shown.network_interface = Some(self.named(interface_id));
                shown.security_groups = Some(ids.iter().map(|id| self.named(id)).collect());
                shown.direction = direction(*egress);
                return shown;
            }
            InsightsRule::Route { destination, target } => {
                shown.route_table_route = Some(route(&destination.to_string(), target.as_deref()));
            }
            InsightsRule::TransitRoute { gateway_id, route } => {
                shown.transit_gateway = Some(self.named(gateway_id));
                shown.transit_gateway_route_table_route = route.as_ref().map(transit_route);
            }
            InsightsRule::None => {}
        }
        let prefix = step.id.rsplit_once('-').map_or("", |(prefix, _)| prefix);
        match prefix {
            "eni" => shown.network_interface.clone_from(&component),
            "igw" => shown.internet_gateway.clone_from(&component),
            "nat" => shown.nat_gateway.clone_from(&component),
            "pcx" => shown.vpc_peering_connection.clone_from(&component),
            "rtb" => shown.route_table.clone_from(&component),
            "tgw" => shown.transit_gateway.clone_from(&component),
            "tgw-attach" => shown.transit_gateway_attachment.clone_from(&component),
            "tgw-rtb" => shown.transit_gateway_route_table.clone_from(&component),
            "vpce" => shown.vpc_endpoint.clone_from(&component),
            _ => {}
        }
        if why.code.starts_with("IGW_PRIVATE") || why.code.starts_with("NO_") {
            shown.address = packet.map(|packet| packet.destination.to_string());
        } else if why.code.starts_with("IGW_PUBLIC") || why.code.starts_with("ENI_SOURCE") {
            shown.address = packet.map(|packet| packet.source.to_string());
        }
        shown.component = component;
        shown
    }
}

fn header(packet: InsightsPacket) -> api::AnalysisPacketHeader {
    let range = |port: u16| Some(vec![api::PortRange { from: number(port), to: number(port) }]);
    api::AnalysisPacketHeader {
        destination_addresses: Some(vec![format!("{}/{}", packet.destination, 32)]),
        destination_port_ranges: packet.ports.and_then(|(_, port)| range(port)),
        protocol: Some(packet.protocol.to_string()),
        source_addresses: Some(vec![format!("{}/{}", packet.source, 32)]),
        source_port_ranges: packet.ports.and_then(|(port, _)| range(port)),
    }
}

/// The protocol's name, and the ports.
fn speaks(protocol: Protocol) -> (String, Option<api::PortRange>) {
    let range = |from, to| Some(api::PortRange { from: number(from), to: number(to) });
    match protocol {
        Protocol::All => ("all".to_owned(), None),
        Protocol::Tcp { from, to } => ("tcp".to_owned(), range(from, to)),
        Protocol::Udp { from, to } => ("udp".to_owned(), range(from, to)),
        Protocol::Icmp { .. } => ("icmp".to_owned(), None),
        Protocol::Icmpv6 { .. } => ("icmpv6".to_owned(), None),
        Protocol::Number(number) => (number.to_string(), None),
    }
}

fn acl_rule(egress: bool, rule: &Option<base::network::AclRule>) -> api::AnalysisAclRule {
    let Some(rule) = rule else {
        return api::AnalysisAclRule {
            egress: Some(egress),
            protocol: Some("all".to_owned()),
            rule_action: Some("deny".to_owned()),
            rule_number: Some(32_767),
            ..Default::default()
        };
    };
    let (protocol, port_range) = speaks(rule.protocol);
    api::AnalysisAclRule {
        cidr: Some(rule.cidr.to_string()),
        egress: Some(egress),
        port_range,
        protocol: Some(protocol),
        rule_action: Some(if rule.allow { "allow" } else { "deny" }.to_owned()),
        rule_number: Some(i32::from(rule.number)),
    }
}

fn group_rule(applied: &InsightsRule) -> Option<api::AnalysisSecurityGroupRule> {
    let InsightsRule::Groups { egress, rule: Some(rule), .. } = applied else { return None };
    let (protocol, port_range) = speaks(rule.protocol);
    let mut shown = api::AnalysisSecurityGroupRule {
        direction: Some(if *egress { "egress" } else { "ingress" }.to_owned()),
        port_range,
        protocol: Some(protocol),
        ..Default::default()
    };
    match &rule.peer {
        Peer::Cidr(cidr) => shown.cidr = Some(cidr.to_string()),
        Peer::Group(id) => shown.security_group_id = Some(id.clone()),
        Peer::PrefixList(id) => shown.prefix_list_id = Some(id.clone()),
    }
    Some(shown)
}

fn route(destination: &str, target: Option<&str>) -> api::AnalysisRouteTableRoute {
    let mut shown = api::AnalysisRouteTableRoute {
        destination_cidr: Some(destination.to_owned()),
        origin: Some("createroute".to_owned()),
        state: Some(if target.is_some() { "active" } else { "blackhole" }.to_owned()),
        ..Default::default()
    };
    let Some(target) = target else { return shown };
    let id = Some(target.to_owned());
    match target.split_once('-').map_or(target, |(prefix, _)| prefix) {
        "eni" => shown.network_interface_id = id,
        "nat" => shown.nat_gateway_id = id,
        "eigw" => shown.egress_only_internet_gateway_id = id,
        "pcx" => shown.vpc_peering_connection_id = id,
        "tgw" => shown.transit_gateway_id = id,
        "local" => {
            shown.origin = Some("createroutetable".to_owned());
            shown.gateway_id = id;
        }
        _ => shown.gateway_id = id,
    }
    shown
}

fn transit_route(
    (destination, attachment): &(base::Cidr, Option<String>),
) -> api::TransitGatewayRouteTableRoute {
    api::TransitGatewayRouteTableRoute {
        attachment_id: attachment.clone(),
        destination_cidr: Some(destination.to_string()),
        state: Some(if attachment.is_some() { "active" } else { "blackhole" }.to_owned()),
        ..Default::default()
    }
}
