//! STS: GetCallerIdentity.

use model::sts::{GetCallerIdentityRequest, GetCallerIdentityResponse, op};
use service::{Call, Error, Operation, operation};

/// The operations of STS that are served.
pub const OPERATIONS: &[Operation] =
    &[operation!(op::GetCallerIdentity, get_caller_identity, Read, [])];

fn get_caller_identity(
    call: &mut Call<'_>,
    _: GetCallerIdentityRequest,
) -> Result<GetCallerIdentityResponse, Error> {
    Ok(GetCallerIdentityResponse {
        user_id: Some(call.identity.user_id.clone()),
        account: Some(call.identity.account_id.clone()),
        arn: Some(call.identity.arn.clone()),
    })
}
