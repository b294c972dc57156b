use super::*;
use crate::record::InternetGateway;
use crate::testing::{Region, list};

fn gateway(region: &Region) -> String {
    let prefix = key::of(region.name, key::INTERNET_GATEWAY, crate::testing::ACCOUNT, "");
    region.run(|call| Ok(call.scan::<InternetGateway>(&prefix)?[0].id.clone())).unwrap()
}

fn path(region: &Region, input: api::CreateNetworkInsightsPathRequest) -> String {
    let made = region.ok(create_path, input).network_insights_path.unwrap();
    made.network_insights_path_id.unwrap()
}

fn to_nobody(region: &Region) -> api::CreateNetworkInsightsPathRequest {
    api::CreateNetworkInsightsPathRequest {
        source: Some(gateway(region)),
        destination_ip: Some("203.0.113.77".to_owned()),
        protocol: Some("tcp".to_owned()),
        ..Default::default()
    }
}

#[test]
fn an_analysis_runs_and_says_why_not() {
    let region = Region::new();
    let path_id = path(&region, to_nobody(&region));
    let start = api::StartNetworkInsightsAnalysisRequest {
        network_insights_path_id: Some(path_id.clone()),
        ..Default::default()
    };
    let started = region.ok(start_analysis, start).network_insights_analysis.unwrap();
    assert_eq!(started.status.as_deref(), Some("running"));
    assert_eq!(started.network_path_found, None);
    let id = started.network_insights_analysis_id.unwrap();
    let at = key::of(region.name, key::INSIGHTS_ANALYSIS, crate::testing::ACCOUNT, &id);
    let work = (RECONCILER.work_key)(&at).unwrap();
    // The second run finds nothing to do.
    for _ in 0..2 {
        region.run(|call| (RECONCILER.run)(call, &work)).unwrap();
    }
    let input = api::DescribeNetworkInsightsAnalysesRequest {
        network_insights_analysis_ids: list(&[&id]),
        ..Default::default()
    };
    let found = region.ok(describe_analyses, input).network_insights_analyses.unwrap().remove(0);
    assert_eq!(found.status.as_deref(), Some("succeeded"));
    assert_eq!(found.network_path_found, Some(false));
    let why = found.explanations.unwrap().remove(0);
    assert_eq!(why.explanation_code.as_deref(), Some("IGW_PRIVATE_IP_ASSOCIATION_FOR_INGRESS"));
    assert_eq!(why.internet_gateway.unwrap().id, Some(gateway(&region)));
    let delete = api::DeleteNetworkInsightsPathRequest {
        network_insights_path_id: Some(path_id),
        ..Default::default()
    };
    let refusal = region.refused(delete_path, delete);
    assert!(refusal.starts_with("AnalysisExistsForNetworkInsightsPath: "), "{refusal}");
}

#[test]
fn ends_are_ids_or_arns_of_this_region() {
    let region = Region::new();
    let gateway = gateway(&region);
    let arn = show::arn(region.name, crate::testing::ACCOUNT, &gateway).unwrap();
    let by_arn =
        api::CreateNetworkInsightsPathRequest { source: Some(arn.clone()), ..to_nobody(&region) };
    let made = region.ok(create_path, by_arn).network_insights_path.unwrap();
    assert_eq!((made.source, made.source_arn), (Some(gateway), Some(arn.clone())));
    let elsewhere = api::CreateNetworkInsightsPathRequest {
        source: Some(arn.replace("us-east-1", "eu-west-1")),
        ..to_nobody(&region)
    };
    let refusal = region.refused(create_path, elsewhere);
    assert!(refusal.starts_with("InvalidParameterValue: "), "{refusal}");
}
