//! How services reach each other: through the operation table, as a service principal, as in AWS.
//!
//! [`Call::invoke`] runs an operation of another service inside the call that asks for it, and so
//! in the same transaction: both happen or none does. The input is checked as a request's is (what
//! the model demands, what the operation honours), and the answer crosses in encoded form, so two
//! services share nothing but the model.
//!
//! An invoked handler sees what the call has staged so far through [`Call::get`] and
//! [`Call::exists`], and later calls see what it staged. [`Call::scan`] and [`Call::peek`] show the
//! snapshot alone: who makes something and then describes it in one transaction does not find it.
//!
//! Deliberately not here: throttling, which protects the region from its callers; client tokens,
//! since a transaction happens once; waiting for a record ([`Call::answer_when`]), since nothing is
//! committed yet; and a service's set-up of a region, which its first request does.

use crate::call::Call;
use crate::dispatch::dry_run;
use crate::error::Error;
use crate::identity::Identity;
use crate::inspect::{first_unhonoured, inspect};
use crate::operation::{Operation, Service};
use std::collections::HashMap;
use std::sync::OnceLock;
use wire::client::{Failure, Reply};
use wire::{OperationModel, Protocol, ServiceModel};

/// The form in which an answer crosses: it has every member, and no XML to parse.
const CROSSING: Protocol = Protocol::RpcV2Cbor;

/// All operations of all services. Empty until the dispatcher is made.
#[derive(Debug, Default)]
pub struct Table(OnceLock<HashMap<Key, Entry>>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    service: &'static ServiceModel,
    operation: &'static Operation,
}

/// An operation is known by its description, which is a static: names are not unique over services.
type Key = usize;

fn key(model: &'static OperationModel) -> Key {
    std::ptr::from_ref(model).addr()
}

impl Table {
    /// Fills the table, once: later calls change nothing.
    pub fn fill(&self, services: &[Service]) {
        let entries = services.iter().flat_map(|service| {
            service.operations.iter().map(|operation| {
                (key(operation.model), Entry { service: service.model, operation })
            })
        });
        let _ = self.0.set(entries.collect());
    }

    fn find(&self, model: &'static OperationModel) -> Result<Entry, Error> {
        self.0.get().and_then(|table| table.get(&key(model))).copied().ok_or_else(|| {
            Error::unsupported(format!("The operation {} is not built in gureum yet.", model.name))
        })
    }
}

impl Call<'_> {
    /// Runs `Op` for the service `principal` (such as `dlm`), in this call's account and region.
    ///
    /// # Errors
    /// The operation's own; nothing of it is staged then, unless it refused partly. Those of the
    /// dispatcher for an operation or a parameter that is not built.
    pub fn invoke<Op: wire::Operation>(
        &mut self,
        principal: &str,
        input: Op::Input,
    ) -> Result<Op::Output, Error> {
        self.invoke_in::<Op>(principal, self.region, input)
    }

    /// [`Call::invoke`] in another region: regions of a cloud share a store and its transactions.
    ///
    /// # Errors
    /// As [`Call::invoke`].
    pub fn invoke_in<Op: wire::Operation>(
        &mut self,
        principal: &str,
        region: &str,
        input: Op::Input,
    ) -> Result<Op::Output, Error> {
        let Entry { service, operation } = self.environment.services.find(Op::MODEL)?;
        let protocol = service.protocols.first().copied().unwrap_or(CROSSING);
        wire::validate::validate(protocol, &input)?;
        let name = operation.model.name;
        let inspection = inspect(&input, operation.model.idempotency_token);
        if inspection.token.is_some() {
            return Err(Error::unsupported(format!(
                "A client token means nothing when a service calls {name}."
            )));
        }
        if let Some(path) = first_unhonoured(&inspection.paths, operation.honours) {
            return Err(Error::unsupported(format!(
                "The parameter {path} of {name} is not built in gureum yet."
            )));
        }
        let identity = Identity::service(principal, self.account());
        let answer = self.nested(&identity, region, |call| {
            let output = (operation.run)(call, &input)?;
            if inspection.dry_run {
                return Err(dry_run());
            }
            Ok(wire::server::encode(service, CROSSING, operation.model, output.as_ref(), 0))
        })?;
        let mut output = Op::Output::default();
        let reply = Reply { status: answer.status, headers: &[], body: &answer.body("") };
        match wire::client::response(CROSSING, operation.model, reply, &mut output) {
            Ok(()) => Ok(output),
            Err(Failure::Api(error)) => Err(error.into()),
            Err(Failure::Decode(error)) => {
                Err(Error::internal(format!("answer of {name}: {error}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Environment;
    use crate::operation;
    use base::{Clock, Timestamp};
    use model::dlm::op;
    use model::dlm::{
        CreateLifecyclePolicyRequest, CreateLifecyclePolicyResponse, DeleteLifecyclePolicyRequest,
        DeleteLifecyclePolicyResponse, GetLifecyclePolicyRequest, GetLifecyclePolicyResponse,
        LifecyclePolicy, TagResourceRequest, TagResourceResponse,
    };
    use std::sync::Arc;
    use std::sync::atomic::AtomicI64;

    fn create(
        call: &mut Call<'_>,
        input: CreateLifecyclePolicyRequest,
    ) -> Result<CreateLifecyclePolicyResponse, Error> {
        let id = input.description.unwrap_or_default();
        call.put(&format!("/{}/p/{id}", call.region), call.identity.arn.clone());
        if id == "bad" {
            return Err(Error::client("Refused", "after staging"));
        }
        if id == "half" {
            call.refuse_partly(Error::client("Partly", "and staged"));
        }
        Ok(CreateLifecyclePolicyResponse { policy_id: Some(id) })
    }

    fn read(
        call: &mut Call<'_>,
        input: GetLifecyclePolicyRequest,
    ) -> Result<GetLifecyclePolicyResponse, Error> {
        let id = input.policy_id.unwrap_or_default();
        let found = call.get::<String>(&format!("/{}/p/{id}", call.region))?;
        let found = found.ok_or_else(|| Error::client("NotFound", id.clone()))?;
        Ok(GetLifecyclePolicyResponse {
            policy: Some(LifecyclePolicy {
                policy_id: Some(id),
                description: Some((*found).clone()),
                date_created: Some(call.now),
                tags: Some([("k".to_owned(), "v".to_owned())].into()),
                ..LifecyclePolicy::default()
            }),
        })
    }

    fn remove(
        call: &mut Call<'_>,
        input: DeleteLifecyclePolicyRequest,
    ) -> Result<DeleteLifecyclePolicyResponse, Error> {
        call.get_all::<String>(&format!("/{}/p/", call.region))?;
        call.delete(&format!("/{}/p/{}", call.region, input.policy_id.unwrap_or_default()));
        Ok(DeleteLifecyclePolicyResponse {})
    }

    static OPERATIONS: &[Operation] = &[
        operation!(
            op::CreateLifecyclePolicy,
            create,
            Write,
            ["Description", "ExecutionRoleArn", "State"]
        ),
        operation!(op::GetLifecyclePolicy, read, Read, ["PolicyId"]),
        operation!(op::DeleteLifecyclePolicy, remove, Write, ["PolicyId"]),
    ];

    fn region<R>(work: impl FnOnce(&mut Call<'_>) -> R) -> (R, Vec<String>) {
        let (result, txn) = committed(work);
        (result, txn.success.iter().map(|op| format!("{op:?}")).collect())
    }

    fn committed<R>(work: impl FnOnce(&mut Call<'_>) -> R) -> (R, store::Txn) {
        let environment = Environment {
            account_id: "123456789012".to_owned(),
            public_pool: "203.0.113.0/24".parse().unwrap(),
            driver: Arc::new(crate::nothing::Nothing),
            clock: Clock::Manual(Arc::new(AtomicI64::new(1_795_255_223_045))),
            keys: Arc::new(crate::nothing::Nothing),
            blocks: Arc::new(crate::nothing::Nothing),
            services: Table::default(),
        };
        environment.services.fill(&[Service {
            model: &model::dlm::SERVICE,
            operations: OPERATIONS.iter().collect(),
            set_up: None,
        }]);
        let identity = Identity::root("123456789012");
        let snapshot = store::memory().snapshot();
        let mut call = Call::new(&environment, snapshot, "us-east-1", &identity, "r");
        let result = work(&mut call);
        let (txn, _) = call.into_parts().unwrap();
        (result, txn)
    }

    fn named(id: &str) -> CreateLifecyclePolicyRequest {
        CreateLifecyclePolicyRequest {
            description: Some(id.to_owned()),
            execution_role_arn: Some("arn:aws:iam::123456789012:role/dlm".to_owned()),
            state: Some("ENABLED".to_owned()),
            ..CreateLifecyclePolicyRequest::default()
        }
    }

    #[test]
    fn one_transaction_sees_what_it_staged() {
        let ((), staged) = region(|call| {
            let made = call.invoke::<op::CreateLifecyclePolicy>("ec2", named("one")).unwrap();
            assert_eq!(made.policy_id.as_deref(), Some("one"));
            let asked = GetLifecyclePolicyRequest { policy_id: Some("one".to_owned()) };
            let policy = call.invoke::<op::GetLifecyclePolicy>("ec2", asked).unwrap().policy;
            let policy = policy.unwrap();
            assert_eq!(policy.description.as_deref(), Some("ec2.amazonaws.com"));
            assert_eq!(policy.date_created, Some(Timestamp(1_795_255_223_045)));
            assert_eq!(policy.tags.unwrap()["k"], "v");
            assert!(!call.identity.is_service());
        });
        assert_eq!(staged.len(), 1);
        let ((), staged) = region(|call| {
            call.invoke::<op::CreateLifecyclePolicy>("ec2", named("one")).unwrap();
            let gone = DeleteLifecyclePolicyRequest { policy_id: Some("one".to_owned()) };
            call.invoke::<op::DeleteLifecyclePolicy>("ec2", gone).unwrap();
            let asked = GetLifecyclePolicyRequest { policy_id: Some("one".to_owned()) };
            let refused = call.invoke::<op::GetLifecyclePolicy>("ec2", asked).unwrap_err();
            assert_eq!(refused.to_string(), "NotFound: one");
        });
        assert!(staged[0].contains("Delete"), "{staged:?}");
    }

    #[test]
    fn the_commit_depends_on_what_the_other_service_saw() {
        let ((), txn) = committed(|call| {
            let gone = DeleteLifecyclePolicyRequest { policy_id: Some("one".to_owned()) };
            call.invoke::<op::DeleteLifecyclePolicy>("ec2", gone).unwrap();
        });
        let range = store::Compare::NothingNewer { prefix: "/us-east-1/p/".to_owned(), than: 0 };
        assert!(txn.compares.contains(&range), "{:?}", txn.compares);
    }

    #[test]
    fn another_region_is_another_key() {
        let ((), staged) = region(|call| {
            let made =
                call.invoke_in::<op::CreateLifecyclePolicy>("dlm", "eu-west-1", named("one"));
            made.unwrap();
            assert_eq!(call.region, "us-east-1");
        });
        assert!(staged[0].contains("/eu-west-1/p/one"), "{staged:?}");
    }

    #[test]
    fn a_refusal_stages_nothing_unless_it_is_partial() {
        let ((), staged) = region(|call| {
            call.put("/before", 1_u8);
            let refused =
                call.invoke::<op::CreateLifecyclePolicy>("dlm", named("bad")).unwrap_err();
            assert_eq!(refused.code, "Refused");
        });
        assert_eq!(staged.len(), 1, "{staged:?}");
        let ((), staged) = region(|call| {
            let refused =
                call.invoke::<op::CreateLifecyclePolicy>("dlm", named("half")).unwrap_err();
            assert_eq!(refused.code, "Partly");
            assert!(call.partial_refusal().is_none(), "it is told by the error alone");
        });
        assert_eq!(staged.len(), 1, "{staged:?}");
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        region(|call| {
            let tagged = TagResourceRequest {
                resource_arn: Some("arn:aws:dlm:us-east-1:123456789012:policy/p".to_owned()),
                tags: Some([("k".to_owned(), "v".to_owned())].into()),
            };
            let refused: Result<TagResourceResponse, _> =
                call.invoke::<op::TagResource>("ec2", tagged);
            let refused = refused.unwrap_err();
            assert_eq!(refused.code, "UnsupportedOperation");
            assert!(refused.message.contains("TagResource"), "{refused}");

            let mut more = named("one");
            more.copy_tags = Some(true);
            let refused = call.invoke::<op::CreateLifecyclePolicy>("ec2", more).unwrap_err();
            assert!(refused.message.contains("CopyTags"), "{refused}");

            let mut less = named("one");
            less.state = Some("MAYBE".to_owned());
            let refused = call.invoke::<op::CreateLifecyclePolicy>("ec2", less).unwrap_err();
            assert!(refused.message.contains("ENABLED"), "{refused}");
            assert!(call.is_read_only());
        });
    }
}
