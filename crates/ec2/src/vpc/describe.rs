//! DescribeVpcs.

use super::{ID, block};
use crate::record::Vpc;
use crate::tag;
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::rc::Rc;
use std::sync::Arc;

/// What a filter looks at.
struct View {
    account: Rc<str>,
    vpc: Arc<Vpc>,
}

fn cidr<'a>(view: &'a View) -> Values<'a> {
    vec![view.vpc.cidr.to_string().into()]
}

fn is_default<'a>(view: &'a View) -> Values<'a> {
    vec![view.vpc.is_default.to_string().into()]
}

/// A value for each IPv6 block.
fn each_ipv6<'a>(view: &'a View, value: &'static str) -> Values<'a> {
    view.vpc.ipv6_cidrs.iter().map(|_| value.into()).collect()
}

const FILTERS: &[Field<View>] = &[
    ("cidr", cidr),
    // Names that older clients use.
    ("cidr-block", cidr),
    ("cidrBlock", cidr),
    ("cidr-block-association.association-id", |view| {
        let secondary = view.vpc.secondary_cidrs.iter().map(|block| block.id.as_str());
        std::iter::once(view.vpc.cidr_association_id.as_str())
            .chain(secondary)
            .map(Into::into)
            .collect()
    }),
    ("cidr-block-association.cidr-block", |view| {
        view.vpc.cidrs().map(|cidr| cidr.to_string().into()).collect()
    }),
    ("cidr-block-association.state", |_| vec!["associated".into()]),
    ("dhcp-options-id", |view| vec![view.vpc.dhcp_options_id.as_str().into()]),
    ("dhcpOptionsId", |view| vec![view.vpc.dhcp_options_id.as_str().into()]),
    ("ipv6-cidr-block-association.association-id", |view| {
        view.vpc.ipv6_cidrs.iter().map(|block| block.id.as_str().into()).collect()
    }),
    ("ipv6-cidr-block-association.ipv6-cidr-block", |view| {
        view.vpc.ipv6_cidrs.iter().map(|block| block.cidr.to_string().into()).collect()
    }),
    ("ipv6-cidr-block-association.ipv6-pool", |view| each_ipv6(view, block::IPV6_POOL)),
    ("ipv6-cidr-block-association.state", |view| each_ipv6(view, "associated")),
    ("is-default", is_default),
    ("isDefault", is_default),
    ("owner-id", |view| vec![view.account.as_ref().into()]),
    ("state", |_| vec!["available".into()]),
    ("vpc-id", |view| vec![view.vpc.id.as_str().into()]),
];

pub(super) fn describe_vpcs(
    call: &mut Call<'_>,
    input: api::DescribeVpcsRequest,
) -> Result<api::DescribeVpcsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let account: Rc<str> = call.account().into();
    let views: Vec<View> = ID
        .described::<Vpc>(call, input.vpc_ids)?
        .into_iter()
        .map(|vpc| View { account: Rc::clone(&account), vpc })
        .filter(|view| filters.accept(view, &view.vpc.tags))
        .collect();
    let page =
        page(views, |view| &view.vpc.id, input.max_results, input.next_token.as_deref(), 5..=1000)?;
    Ok(api::DescribeVpcsResult {
        next_token: page.next_token,
        vpcs: Some(page.items.iter().map(|view| to_model(call, &view.vpc)).collect()),
    })
}

pub(super) fn to_model(call: &Call<'_>, vpc: &Vpc) -> api::Vpc {
    let ipv6: Vec<_> =
        vpc.ipv6_cidrs.iter().map(|given| block::ipv6_to_model(call.region, given)).collect();
    let primary = block::to_model(&vpc.cidr_association_id, vpc.cidr);
    let secondary = vpc.secondary_cidrs.iter().map(|given| block::to_model(&given.id, given.cidr));
    api::Vpc {
        block_public_access_states: Some(api::BlockPublicAccessStates {
            internet_gateway_block_mode: Some("off".to_owned()),
        }),
        cidr_block: Some(vpc.cidr.to_string()),
        cidr_block_association_set: Some(std::iter::once(primary).chain(secondary).collect()),
        dhcp_options_id: Some(vpc.dhcp_options_id.clone()),
        instance_tenancy: Some("default".to_owned()),
        ipv6_cidr_block_association_set: (!ipv6.is_empty()).then_some(ipv6),
        is_default: Some(vpc.is_default),
        owner_id: Some(call.account().to_owned()),
        state: Some("available".to_owned()),
        tags: tag::to_model(&vpc.tags),
        vpc_id: Some(vpc.id.clone()),
        ..Default::default()
    }
}
