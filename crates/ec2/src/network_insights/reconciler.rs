//! Runs analyses that are asked for.

use super::{PATH, ask};
use crate::network_plan;
use crate::record::{InsightsAnalysis, InsightsOutcome, InsightsPath, key};
use service::reconcile::Reconciler;
use service::{Call, Error};

/// The reconciler of analyses.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "network-insights", for_network: false, work_key, run };

fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    (kind == key::INSIGHTS_ANALYSIS).then(|| record_key.to_owned())
}

fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((region, _, account, _)) = key::parts(work_key) else { return Ok(()) };
    let Some(analysis) = call.get::<InsightsAnalysis>(work_key)? else { return Ok(()) };
    if analysis.outcome.is_some() {
        return Ok(());
    }
    let path = key::of(region, PATH.kind, account, &analysis.path_id);
    let outcome = match call.peek::<InsightsPath>(&path)? {
        Some(path) => {
            let (regions, plan) = network_plan::drawn(call)?;
            let records = regions.iter().find(|records| records.region == region);
            records
                .map(|records| ask::Analyzer { records, plan: &plan, path: &path }.run(&analysis))
        }
        None => None,
    };
    let mut next = InsightsAnalysis::clone(&analysis);
    next.outcome = Some(outcome.unwrap_or_else(InsightsOutcome::default));
    call.put(work_key, next);
    Ok(())
}
