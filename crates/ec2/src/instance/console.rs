//! GetConsoleOutput: the most recent 64 KiB of the guest's serial console, base64.

use super::peek_one;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::ec2 as api;
use service::{Call, Error};

/// The console is read when asked for, so the answer is the latest with and without `Latest`.
pub(super) fn get_console_output(
    call: &mut Call<'_>,
    input: api::GetConsoleOutputRequest,
) -> Result<api::GetConsoleOutputResult, Error> {
    let instance = peek_one(call, input.instance_id)?;
    let console = call.environment.driver.console(&instance.id).map_err(Error::internal)?;
    let (output, timestamp) = match console {
        Some(console) => (Some(STANDARD.encode(&console.bytes)), console.modified),
        None => (None, instance.launched),
    };
    Ok(api::GetConsoleOutputResult {
        instance_id: Some(instance.id.clone()),
        output,
        timestamp: Some(timestamp),
    })
}
