//! Amazon EC2: requests in, records and answers out.
//!
//! A handler writes what is wanted, in one transaction, and returns. It makes no system call and
//! waits for nothing. What moves the records on (pending to running, shutting-down to terminated)
//! are this crate's reconcilers; what makes it real is the node, behind
//! [`base::machine::Driver`].
//!
//! One module a resource. Each has its operation table; [`operations`] joins them.

#![forbid(unsafe_code)]

pub mod content;
pub mod ebs_direct;
pub mod image;
pub mod record;
pub mod recycle_bin;
pub mod region;

mod account;
mod dhcp_options;
mod elastic_address;
mod encryption;
mod flow_log;
mod instance;
mod instance_reconciler;
mod instance_type;
mod interface;
mod internet_gateway;
mod kept;
mod key_pair;
mod launch;
mod lookup;
mod machine_plan;
mod nat_gateway;
mod network_acl;
mod network_insights;
mod network_plan;
mod prefix_list;
mod route_table;
mod security_group;
mod snapshot;
mod snapshot_reconciler;
mod subnet;
mod tag;
#[cfg(test)]
mod testing;
mod transit_gateway;
mod volume;
mod volume_reconciler;
mod vpc;
mod vpc_endpoint;
mod vpc_peering;

pub use content::contents;

use base::image::Published;
use service::filter::Filter;
use service::operation::Service;
use service::{Call, Error, Operation};

/// EC2 as the dispatcher serves it.
pub fn service() -> Service {
    Service { model: &model::ec2::SERVICE, operations: operations(), set_up: Some(set_up) }
}

/// What moves EC2's records on.
pub const RECONCILERS: &[service::reconcile::Reconciler] = &[
    network_plan::RECONCILER,
    instance_reconciler::RECONCILER,
    volume_reconciler::RECONCILER,
    snapshot_reconciler::RECONCILER,
    image::reconciler::RECONCILER,
    transit_gateway::reconciler::RECONCILER,
    vpc_endpoint::RECONCILER,
    vpc_peering::RECONCILER,
    network_insights::RECONCILER,
    nat_gateway::reconciler::RECONCILER,
];

/// What a region needs before its first request: the default VPC, and AMIs of the node's images,
/// which the daemon keeps under `/node-image/`.
fn set_up(call: &mut Call<'_>) -> Result<(), Error> {
    region::set_up(call)?;
    let images: Vec<Published> = call
        .scan::<Published>("/node-image/")?
        .into_iter()
        .map(|published| (*published).clone())
        .collect();
    image::sync(call, &images)
}

/// The operations of EC2 that are served.
pub fn operations() -> Vec<&'static Operation> {
    let tables: &[&'static [Operation]] = &[
        account::OPERATIONS,
        dhcp_options::OPERATIONS,
        elastic_address::OPERATIONS,
        encryption::OPERATIONS,
        flow_log::OPERATIONS,
        instance::OPERATIONS,
        instance_type::OPERATIONS,
        interface::OPERATIONS,
        internet_gateway::OPERATIONS,
        key_pair::OPERATIONS,
        launch::OPERATIONS,
        nat_gateway::OPERATIONS,
        prefix_list::OPERATIONS,
        network_acl::OPERATIONS,
        network_insights::OPERATIONS,
        region::OPERATIONS,
        route_table::OPERATIONS,
        security_group::OPERATIONS,
        subnet::OPERATIONS,
        tag::OPERATIONS,
        volume::OPERATIONS,
        vpc::OPERATIONS,
        vpc_endpoint::OPERATIONS,
        vpc_peering::OPERATIONS,
    ];
    let tables = tables.iter().chain(image::OPERATIONS).chain(snapshot::OPERATIONS);
    let tables = tables.chain(&transit_gateway::OPERATIONS);
    tables.flat_map(|table| table.iter()).collect()
}

/// The filters of a request in the form that the filter tables take.
pub(crate) fn filters(requested: Option<Vec<model::ec2::Filter>>) -> Vec<Filter> {
    requested
        .unwrap_or_default()
        .into_iter()
        .map(|filter| Filter {
            name: filter.name.unwrap_or_default(),
            values: filter.values.unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::operations;
    use std::collections::BTreeSet;
    use wire::{Kind, Member, Type};

    /// The members of a structure, or of the structures in a list.
    fn members(of: &'static Type) -> &'static [Member] {
        match &of.kind {
            Kind::Structure(members) => members,
            Kind::List(item) => members(item.target),
            _ => &[],
        }
    }

    /// Why a path of `honours` means nothing; `None` when it means something.
    fn mistake(input: &'static Type, path: &str) -> Option<String> {
        let mut here = input;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            if name == "*" {
                let nothing = members(here).is_empty() || names.peek().is_some();
                return nothing.then(|| format!("{path}: there is nothing for the star"));
            }
            let Some(member) = members(here).iter().find(|member| member.name == name) else {
                return Some(format!("{path}: {} has no member {name}", here.name));
            };
            here = member.target;
        }
        (!members(here).is_empty()).then(|| format!("{path}: stops above its leaves"))
    }

    #[test]
    fn operations_honour_members_that_they_have() {
        let mut names = BTreeSet::new();
        for operation in operations() {
            let name = operation.model.name;
            assert!(names.insert(name), "{name} is served twice");
            let input = operation.model.input.expect("every EC2 operation has an input").target;
            let mistakes: Vec<String> =
                operation.honours.iter().filter_map(|path| mistake(input, path)).collect();
            assert_eq!(mistakes, [""; 0], "{name}");
        }
    }
}
