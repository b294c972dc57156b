//! Which interfaces a flow log is about.

use super::{Present, Records};
use base::network::FlowLog;
use std::collections::HashMap;

/// The flow logs of a region that have something to see.
pub(super) fn logs(records: &Records, present: &Present<'_>) -> Vec<FlowLog> {
    let mut by_resource: HashMap<&str, Vec<&str>> = HashMap::new();
    for (vpc_id, interfaces) in present.iter().filter(|_| !records.flow_logs.is_empty()) {
        for interface in interfaces {
            for resource in [vpc_id, interface.subnet_id.as_str(), interface.id.as_str()] {
                by_resource.entry(resource).or_default().push(&interface.id);
            }
        }
    }
    let logs = records.flow_logs.iter().map(|(account, log)| {
        let seen = by_resource.get(log.resource_id.as_str()).into_iter().flatten();
        FlowLog {
            id: log.id.clone(),
            account: account.clone(),
            region: records.region.clone(),
            interfaces: seen.map(|id| (*id).to_owned()).collect(),
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
