//! The services that endpoints lead to: those that this region serves, and the two of gateway
//! endpoints.

use crate::record::Tags;
use crate::region;
use model::ec2 as api;
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error};

/// A service on offer.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// `com.amazonaws.us-east-1.ec2`.
    pub(super) name: String,
    /// `ec2`.
    pub(super) word: &'static str,
    /// By routes; else by interfaces.
    pub(super) gateway: bool,
    /// The name under which clients know it.
    pub(super) private_name: String,
    /// `vpce-svc-…`.
    pub(super) id: String,
}

impl Offer {
    /// `Gateway` or `Interface`.
    pub(super) fn kind(&self) -> &'static str {
        if self.gateway { "Gateway" } else { "Interface" }
    }
}

/// Service words; gateways first.
const GATEWAYS: [&str; 2] = ["dynamodb", "s3"];
const INTERFACES: [&str; 5] = ["dlm", "ebs", "ec2", "rbin", "sts"];

/// What a region offers, in the order of the names.
pub(super) fn offers(region: &str) -> impl Iterator<Item = Offer> + '_ {
    let words = GATEWAYS.iter().map(|word| (*word, true));
    let words = words.chain(INTERFACES.iter().map(|word| (*word, false)));
    words.map(move |(word, gateway)| {
        let name = format!("com.amazonaws.{region}.{word}");
        // FNV-1a: the same id for the same name, always.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Offer {
            private_name: format!("{word}.{region}.amazonaws.com"),
            id: format!("vpce-svc-{hash:017x}"),
            name,
            word,
            gateway,
        }
    })
}

/// The service with this name.
///
/// # Errors
/// `InvalidServiceName`.
pub(super) fn named(region: &str, name: &str) -> Result<Offer, Error> {
    offers(region).find(|offer| offer.name == name).ok_or_else(|| {
        Error::client(
            "InvalidServiceName",
            format!("The Vpc Endpoint Service '{name}' does not exist"),
        )
    })
}

const FILTERS: &[Field<(Offer, String)>] = &[
    ("owner", |_| vec!["amazon".into()]),
    ("service-name", |(offer, _)| vec![offer.name.as_str().into()]),
    ("service-region", |(_, region)| vec![region.as_str().into()]),
    ("service-type", |(offer, _)| vec![offer.kind().into()]),
    ("supported-ip-address-types", |_| vec!["ipv4".into()]),
];

pub(super) fn describe_vpc_endpoint_services(
    call: &mut Call<'_>,
    input: api::DescribeVpcEndpointServicesRequest,
) -> Result<api::DescribeVpcEndpointServicesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let names = input.service_names.unwrap_or_default();
    for name in &names {
        named(call.region, name)?;
    }
    let regions = input.service_regions.unwrap_or_default();
    if let Some(other) = regions.iter().find(|name| name.as_str() != call.region) {
        return Err(Error::unsupported(format!(
            "Services of region {other} are not offered here."
        )));
    }
    let region = call.region.to_owned();
    let mut found: Vec<(Offer, String)> = offers(call.region)
        .filter(|offer| names.is_empty() || names.contains(&offer.name))
        .map(|offer| (offer, region.clone()))
        .filter(|offer| filters.accept(offer, &Tags::new()))
        .collect();
    found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let page = page(
        found,
        |(offer, _)| &offer.name,
        input.max_results,
        input.next_token.as_deref(),
        1..=1000,
    )?;
    let zones = region::zones(call.region);
    let details = page.items.iter().map(|(offer, region)| api::ServiceDetail {
        acceptance_required: Some(false),
        availability_zones: Some(zones.iter().map(|zone| zone.name.clone()).collect()),
        availability_zone_ids: Some(zones.iter().map(|zone| zone.id.clone()).collect()),
        base_endpoint_dns_names: Some(vec![if offer.gateway {
            offer.private_name.clone()
        } else {
            format!("{}.{region}.vpce.amazonaws.com", offer.word)
        }]),
        manages_vpc_endpoints: Some(false),
        owner: Some("amazon".to_owned()),
        private_dns_name: (!offer.gateway).then(|| offer.private_name.clone()),
        private_dns_name_verification_state: (!offer.gateway).then(|| "verified".to_owned()),
        private_dns_names: (!offer.gateway).then(|| {
            vec![api::PrivateDnsDetails { private_dns_name: Some(offer.private_name.clone()) }]
        }),
        service_id: Some(offer.id.clone()),
        service_name: Some(offer.name.clone()),
        service_region: Some(region.clone()),
        service_type: Some(vec![api::ServiceTypeDetail {
            service_type: Some(offer.kind().to_owned()),
        }]),
        supported_ip_address_types: Some(vec!["ipv4".to_owned()]),
        vpc_endpoint_policy_supported: Some(true),
        ..Default::default()
    });
    Ok(api::DescribeVpcEndpointServicesResult {
        service_details: Some(details.collect()),
        service_names: Some(page.items.iter().map(|(offer, _)| offer.name.clone()).collect()),
        next_token: page.next_token,
    })
}
