//! Amazon EC2: requests in, records and answers out.
//!
//! A handler writes what is wanted, in one transaction, and returns. It makes no system call and
//! waits for nothing. What moves the records on (pending to running, shutting-down to terminated)
//! are this crate's reconcilers; what makes it real is the node, behind
//! [`base::machine::Driver`].
//!
//! One module a resource. Each has its operation table; [`operations`] joins them.

#![forbid(unsafe_code)]

pub mod image;
pub mod record;
pub mod region;

mod account;
mod instance;
mod instance_reconciler;
mod instance_type;
mod interface;
mod key_pair;
mod launch;
mod machine_plan;
mod network_plan;
mod security_group;
mod subnet;
mod tag;
#[cfg(test)]
mod testing;
mod volume;
mod vpc;

use base::image::Manifest;
use service::{Call, Error, Operation};
use service::filter::Filter;
use service::operation::Service;

/// EC2 as the dispatcher serves it.
pub fn service() -> Service {
    Service {
        model: &model::ec2::SERVICE,
        operations: operations(),
        set_up: Some(set_up),
    }
}

/// What moves EC2's records on.
pub const RECONCILERS: &[service::reconcile::Reconciler] =
    &[network_plan::RECONCILER, instance_reconciler::RECONCILER];

/// What a region needs before its first request: the default VPC, and AMIs of the node's images,
/// whose manifests the daemon keeps under `/node-image/`.
fn set_up(call: &mut Call<'_>) -> Result<(), Error> {
    region::set_up(call)?;
    let manifests: Vec<Manifest> = call
        .scan::<Manifest>("/node-image/")?
        .into_iter()
        .map(|manifest| (*manifest).clone())
        .collect();
    image::sync(call, &manifests)
}

/// The operations of EC2 that are served.
pub fn operations() -> Vec<&'static Operation> {
    let tables: &[&'static [Operation]] = &[
        account::OPERATIONS,
        image::OPERATIONS,
        instance::OPERATIONS,
        instance_type::OPERATIONS,
        interface::OPERATIONS,
        key_pair::OPERATIONS,
        launch::OPERATIONS,
        region::OPERATIONS,
        security_group::OPERATIONS,
        subnet::OPERATIONS,
        tag::OPERATIONS,
        volume::OPERATIONS,
        vpc::OPERATIONS,
    ];
    tables.iter().flat_map(|table| table.iter()).collect()
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
