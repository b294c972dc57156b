//! Why a packet gets no further, in the words of Reachability Analyzer.

/// An explanation code (Reachability Analyzer guide, "Explanation codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The component does not work: it is not running, or not there.
    BadState,
    /// The route leads to what is no more.
    BadStateRoute,
    /// No rule of the interface's groups applies.
    EniSgRulesMismatch,
    /// The interface checks addresses, and this one is not its own.
    EniSourceDestCheckRestriction,
    /// A gateway lets nobody out who is not of its VPC.
    GatewayRejectsSpoofedTraffic,
    /// From outside, to an address that no interface has.
    IgwPrivateIpAssociationForIngress,
    /// To the outside, from an address that has no public one.
    IgwPublicIpAssociationForEgress,
    /// Nobody has the destination, or it leads round in a circle.
    NoPossibleDestination,
    /// The route table knows no way.
    NoRouteToDestination,
    /// A peering connection carries only packets between the blocks of its two VPCs.
    PcxRequiresAddressInVpcCidr,
    /// The component does not carry this protocol.
    ProtocolRestriction,
    /// The subnet's network ACL denies it.
    SubnetAclRestriction,
    /// The attachment has no route table.
    TgwAttachMissingTgwRtbAssociation,
    /// The transit gateway's route is a blackhole.
    TgwRtbBadStateRoute,
    /// The transit gateway's route table knows no way.
    TgwRtbNoRouteToTgwAttachment,
    /// A gateway endpoint speaks TCP and ICMP echo only.
    VpceGatewayProtocolRestriction,
}

impl Code {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Code::BadState => "BAD_STATE",
            Code::BadStateRoute => "BAD_STATE_ROUTE",
            Code::EniSgRulesMismatch => "ENI_SG_RULES_MISMATCH",
            Code::EniSourceDestCheckRestriction => "ENI_SOURCE_DEST_CHECK_RESTRICTION",
            Code::GatewayRejectsSpoofedTraffic => "GATEWAY_REJECTS_SPOOFED_TRAFFIC",
            Code::IgwPrivateIpAssociationForIngress => "IGW_PRIVATE_IP_ASSOCIATION_FOR_INGRESS",
            Code::IgwPublicIpAssociationForEgress => "IGW_PUBLIC_IP_ASSOCIATION_FOR_EGRESS",
            Code::NoPossibleDestination => "NO_POSSIBLE_DESTINATION",
            Code::NoRouteToDestination => "NO_ROUTE_TO_DESTINATION",
            Code::PcxRequiresAddressInVpcCidr => "PCX_REQUIRES_ADDRESS_IN_VPC_CIDR",
            Code::ProtocolRestriction => "PROTOCOL_RESTRICTION",
            Code::SubnetAclRestriction => "SUBNET_ACL_RESTRICTION",
            Code::TgwAttachMissingTgwRtbAssociation => "TGW_ATTACH_MISSING_TGW_RTB_ASSOCIATION",
            Code::TgwRtbBadStateRoute => "TGW_RTB_BAD_STATE_ROUTE",
            Code::TgwRtbNoRouteToTgwAttachment => "TGW_RTB_NO_ROUTE_TO_TGW_ATTACHMENT",
            Code::VpceGatewayProtocolRestriction => "VPCE_GATEWAY_PROTOCOL_RESTRICTION",
        }
    }
}
