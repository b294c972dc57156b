//! Which interfaces a flow log is about.

use super::{Present, Records};
use base::network::FlowLog;

/// The flow logs of a region that have something to see.
pub(super) fn logs(records: &Records, present: &Present<'_>) -> Vec<FlowLog> {
    let logs = records.flow_logs.iter().map(|(account, log)| {
        let seen = present.iter().flat_map(|(vpc_id, interfaces)| {
            interfaces.iter().filter(move |interface| {
                [*vpc_id, &interface.subnet_id, &interface.id].contains(&log.resource_id.as_str())
            })
        });
        FlowLog {
            id: log.id.clone(),
            account: account.clone(),
            region: records.region.clone(),
            interfaces: seen.map(|interface| interface.id.clone()).collect(),
            accepted: log.traffic_type != "REJECT",
            rejected: log.traffic_type != "ACCEPT",
            interval: log.interval,
            fields: fields(&log.format),
        }
    });
    logs.filter(|log| !log.interfaces.is_empty()).collect()
}

/// `${version} ${account-id}` → `version`, `account-id`.
fn fields(format: &str) -> Vec<String> {
    let words = format.split_whitespace();
    let names = words.filter_map(|word| word.strip_prefix("${")?.strip_suffix('}'));
    names.map(str::to_owned).collect()
}
