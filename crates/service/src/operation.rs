//! One item per API operation: everything that dispatch, authorisation, the coverage page and the
//! coverage test need to know of it.

use crate::call::Call;
use crate::error::Error;
use crate::throttle::{self, Rate};
use std::any::Any;
use std::collections::BTreeSet;

/// Whether an operation changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pure function of caller, input and snapshot: its answer may be kept until the state
    /// changes.
    Read,
    /// Reads what is not in the snapshot as well, such as a console file or the time, or keeps
    /// something outside it, such as a block: never kept, and it may wait for a disk. May stage a
    /// transaction.
    Live,
    /// Stages a transaction.
    Write,
}

/// A typed input on its way to its handler.
pub trait Input: wire::Shape + Any {
    /// The input as the shape that a codec fills and a validation reads.
    fn shape_mut(&mut self) -> &mut dyn wire::Shape;
    /// The input as the type that the handler takes.
    fn as_any(&self) -> &dyn Any;
}

impl<T: wire::Shape + Any> Input for T {
    fn shape_mut(&mut self) -> &mut dyn wire::Shape {
        self
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Prepares an account's region; see [`Service::set_up`].
pub type SetUp = fn(&mut Call<'_>) -> Result<(), Error>;

/// A handler behind its types.
pub type Run = fn(&mut Call<'_>, &dyn Any) -> Result<Box<dyn wire::Shape>, Error>;

/// A service as the dispatcher serves it.
#[derive(Debug)]
pub struct Service {
    /// Its model.
    pub model: &'static wire::ServiceModel,
    /// What it serves of the model's operations.
    pub operations: Vec<&'static Operation>,
    /// Prepares an account's region before its first request, such as the default VPC. Stages
    /// nothing when that is done.
    pub set_up: Option<SetUp>,
}

/// An operation that is served.
pub struct Operation {
    /// Its facts in the AWS model.
    pub model: &'static wire::OperationModel,
    /// Whether it changes anything.
    pub kind: Kind,
    /// Its request bucket.
    pub rate: Rate,
    /// Input members that have an effect here, as paths of member names (`Ebs.VolumeSize`), list
    /// indexes dropped. `X.*` stands for everything below X. A request with another member is
    /// refused. DryRun and the idempotency token are always honoured.
    pub honours: &'static [&'static str],
    /// An input with nothing in it, for a codec to fill.
    pub input: fn() -> Box<dyn Input>,
    /// The handler, with its types erased.
    pub run: Run,
}

impl Operation {
    /// The bucket of a request with these members: some describing operations cost more when they
    /// are called without filter and without pages.
    pub fn rate_of(&self, paths: &BTreeSet<String>) -> Rate {
        const BOUNDS: [&str; 3] = ["Filters", "MaxResults", "NextToken"];
        let bounded =
            paths.iter().any(|p| BOUNDS.iter().any(|b| p.starts_with(b)) || p.ends_with("Ids"));
        if !bounded && UNFILTERED_COST_MORE.contains(&self.model.name) {
            return throttle::UNFILTERED;
        }
        self.rate
    }

    /// What a request takes of its second bucket, whose tokens are resources, with the bucket's
    /// rate. `canonical` has a line `path=value` for every value of the input.
    pub fn resources_of(&self, canonical: &str) -> Option<(Rate, f64)> {
        let (_, rate, member) =
            RESOURCE_RATES.iter().find(|(name, ..)| *name == self.model.name)?;
        let values =
            canonical.lines().filter_map(|line| line.strip_prefix(member)?.strip_prefix('='));
        let tokens = match *member {
            "MaxCount" => values.filter_map(|count| count.parse::<f64>().ok()).sum(),
            _ => values.map(|_| 1.0).sum(),
        };
        Some((*rate, tokens))
    }
}

/// EC2 API Reference, "Request throttling", "Resource rate limiting": the operation, its bucket,
/// and the member that says how many resources a request is for.
const RESOURCE_RATES: [(&str, Rate, &str); 4] = [
    ("RunInstances", Rate::new(1_000.0, 2.0), "MaxCount"),
    ("StartInstances", Rate::new(1_000.0, 2.0), "InstanceIds"),
    ("StopInstances", Rate::new(1_000.0, 20.0), "InstanceIds"),
    ("TerminateInstances", Rate::new(1_000.0, 20.0), "InstanceIds"),
];

/// EC2 API Reference, "Request throttling": unfiltered and unpaginated non-mutating actions.
const UNFILTERED_COST_MORE: [&str; 7] = [
    "DescribeInstances",
    "DescribeInstanceStatus",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeSnapshots",
    "DescribeSpotInstanceRequests",
    "DescribeVolumes",
];

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("name", &self.model.name).finish_non_exhaustive()
    }
}

/// An item of an operation table: the model's operation, the handler
/// (`fn(&mut Call<'_>, Input) -> Result<Output, Error>`), its kind, and what it honours.
///
/// ```ignore
/// operation!(ec2::op::DescribeVpcs, describe_vpcs, Read, ["Filters", "VpcIds", "MaxResults"])
/// operation!(ec2::op::RunInstances, run_instances, Write, [..], Rate::new(5.0, 2.0))
/// ```
#[macro_export]
macro_rules! operation {
    ($op:ty, $handler:path, $kind:ident, [$($honours:literal),* $(,)?]) => {
        $crate::operation!($op, $handler, $kind, [$($honours),*],
            match $crate::Kind::$kind {
                $crate::Kind::Write => $crate::throttle::MUTATING,
                _ => $crate::throttle::NON_MUTATING,
            })
    };
    ($op:ty, $handler:path, $kind:ident, [$($honours:literal),* $(,)?], $rate:expr) => {
        $crate::Operation {
            model: <$op as ::wire::Operation>::MODEL,
            kind: $crate::Kind::$kind,
            rate: $rate,
            honours: &[$($honours),*],
            input: || Box::new(<<$op as ::wire::Operation>::Input as Default>::default()),
            run: |call, input| {
                let input: &<$op as ::wire::Operation>::Input =
                    input.downcast_ref().ok_or_else(|| {
                        $crate::Error::internal("an operation got another operation's input")
                    })?;
                let output: <$op as ::wire::Operation>::Output = $handler(call, input.clone())?;
                Ok(Box::new(output))
            },
        }
    };
}
