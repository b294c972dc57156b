//! Reachability Analyzer: paths and analyses.
//!
//! ```text
//!  StartNetworkInsightsAnalysis ──► running ── reconciler ──► succeeded: found, or explained
//! ```
//!
//! An analysis looks at the plan of the moment when it runs, the one that the node's network is made
//! of ([`crate::network_plan`]), and walks packets through it on paper (the `reach` crate). So it
//! says the same on a simulated region. What is not in the plan is told as AWS tells it: a machine
//! that does not run and an interface that is attached to nothing are in no functional state.
//!
//! Not here: sources and destinations that this region does not analyse (peering connections, transit
//! gateways and their attachments, endpoint services), and paths through other accounts.

mod ask;
mod reconciler;
mod show;

pub(crate) use reconciler::RECONCILER;

use crate::lookup::Id;
use crate::record::{InsightsAnalysis, InsightsFilter, InsightsPath, key};
use crate::tag;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::net::Ipv4Addr;
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateNetworkInsightsPath,
        create_path,
        Write,
        [
            "Source",
            "Destination",
            "SourceIp",
            "DestinationIp",
            "Protocol",
            "DestinationPort",
            "FilterAtSource.SourceAddress",
            "FilterAtSource.SourcePortRange.*",
            "FilterAtSource.DestinationAddress",
            "FilterAtSource.DestinationPortRange.*",
            "FilterAtDestination.SourceAddress",
            "FilterAtDestination.SourcePortRange.*",
            "FilterAtDestination.DestinationAddress",
            "FilterAtDestination.DestinationPortRange.*",
            "TagSpecifications.*",
        ]
    ),
    operation!(
        op::DescribeNetworkInsightsPaths,
        describe_paths,
        Read,
        ["NetworkInsightsPathIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(op::DeleteNetworkInsightsPath, delete_path, Write, ["NetworkInsightsPathId"]),
    operation!(
        op::StartNetworkInsightsAnalysis,
        start_analysis,
        Write,
        ["NetworkInsightsPathId", "FilterInArns", "FilterOutArns", "TagSpecifications.*"]
    ),
    operation!(
        op::DescribeNetworkInsightsAnalyses,
        describe_analyses,
        Read,
        [
            "NetworkInsightsAnalysisIds",
            "NetworkInsightsPathId",
            "AnalysisStartTime",
            "AnalysisEndTime",
            "Filters.*",
            "MaxResults",
            "NextToken",
        ]
    ),
    operation!(
        op::DeleteNetworkInsightsAnalysis,
        delete_analysis,
        Write,
        ["NetworkInsightsAnalysisId"]
    ),
];

const PATH: Id = Id {
    prefix: "nip",
    kind: key::INSIGHTS_PATH,
    malformed: "InvalidNetworkInsightsPathId.Malformed",
    missing: "InvalidNetworkInsightsPathId.NotFound",
    noun: "networkInsightsPath ID",
};

const ANALYSIS: Id = Id {
    prefix: "nia",
    kind: key::INSIGHTS_ANALYSIS,
    malformed: "InvalidNetworkInsightsAnalysisId.Malformed",
    missing: "InvalidNetworkInsightsAnalysisId.NotFound",
    noun: "networkInsightsAnalysis ID",
};

/// What can be an end of a path: id prefix, kind of record, refusal of one that is not there.
const ENDS: &[(&str, &str, &str, &str)] = &[
    ("i", key::INSTANCE, "InvalidInstanceID.NotFound", "instance ID"),
    ("eni", key::INTERFACE, "InvalidNetworkInterfaceID.NotFound", "networkInterface ID"),
    ("igw", key::INTERNET_GATEWAY, "InvalidInternetGatewayID.NotFound", "internetGateway ID"),
    ("vpce", key::VPC_ENDPOINT, "InvalidVpcEndpointId.NotFound", "VPC endpoint ID"),
];

/// The id in an ARN of EC2, or the id itself.
fn id_of(text: &str) -> &str {
    match text.strip_prefix("arn:") {
        Some(_) => text.rsplit_once('/').map_or(text, |(_, id)| id),
        None => text,
    }
}

/// Checks that an end of a path is there; its id.
fn end(call: &mut Call<'_>, parameter: &str, text: &str) -> Result<String, Error> {
    let invalid = || {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter {parameter} is invalid. Sources are instances, network \
             interfaces and internet gateways; destinations are these and VPC endpoints."
        ))
    };
    let id = id_of(text);
    if text.starts_with("arn:") {
        let mut parts = text.splitn(6, ':').skip(3);
        let (region, account) = (parts.next(), parts.next());
        if (region, account) != (Some(call.region), Some(call.account())) {
            return Err(invalid());
        }
    }
    let kinds = ENDS.iter().filter(|(prefix, ..)| *prefix != "vpce" || parameter != "Source");
    let mut kinds = kinds.filter(|(prefix, ..)| base::id::is_valid(prefix, id));
    let (_, kind, code, noun) = kinds.next().ok_or_else(invalid)?;
    let at = key::of(call.region, kind, call.account(), id);
    if !call.exists(&at) {
        return Err(Error::client(*code, format!("The {noun} '{id}' does not exist")));
    }
    Ok(id.to_owned())
}

fn address(parameter: &str, text: Option<String>) -> Result<Option<Ipv4Addr>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({text}) for parameter {parameter} is invalid. It is not an IPv4 address."
        ))
    })
}

fn port(parameter: &str, number: i32) -> Result<u16, Error> {
    u16::try_from(number).map_err(|_| {
        Error::invalid_parameter_value(format!(
            "Value ({number}) for parameter {parameter} is invalid. Ports are from 0 to 65535."
        ))
    })
}

fn ports(
    parameter: &str,
    range: Option<api::RequestFilterPortRange>,
) -> Result<Option<(u16, u16)>, Error> {
    let Some(range) = range else { return Ok(None) };
    let from = range.from_port.or(range.to_port);
    let to = range.to_port.or(range.from_port);
    let (Some(from), Some(to)) = (from, to) else { return Ok(None) };
    let (from, to) = (port(parameter, from)?, port(parameter, to)?);
    if from > to {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({from}-{to}) for parameter {parameter} is invalid. The first port is above \
             the last one."
        )));
    }
    Ok(Some((from, to)))
}

fn packet_filter(
    name: &str,
    filter: Option<api::PathRequestFilter>,
) -> Result<Option<InsightsFilter>, Error> {
    let Some(filter) = filter else { return Ok(None) };
    let member = |member: &str| format!("{name}.{member}");
    let checked = InsightsFilter {
        source_address: address(&member("SourceAddress"), filter.source_address)?,
        source_ports: ports(&member("SourcePortRange"), filter.source_port_range)?,
        destination_address: address(&member("DestinationAddress"), filter.destination_address)?,
        destination_ports: ports(&member("DestinationPortRange"), filter.destination_port_range)?,
    };
    Ok(Some(checked).filter(|filter| *filter != InsightsFilter::default()))
}

fn create_path(
    call: &mut Call<'_>,
    input: api::CreateNetworkInsightsPathRequest,
) -> Result<api::CreateNetworkInsightsPathResult, Error> {
    let tags = tag::from_specifications(
        input.tag_specifications.as_deref(),
        "network-insights-path",
        &["network-insights-path"],
    )?;
    let source_ip = address("SourceIp", input.source_ip)?;
    let destination_ip = address("DestinationIp", input.destination_ip)?;
    let at_source = packet_filter("FilterAtSource", input.filter_at_source)?;
    let at_destination = packet_filter("FilterAtDestination", input.filter_at_destination)?;
    let destination_port =
        input.destination_port.map(|number| port("DestinationPort", number)).transpose()?;
    if at_source.is_some() && (source_ip.is_some() || destination_port.is_some()) {
        return Err(Error::invalid_parameter_combination(
            "The parameter FilterAtSource cannot be used with the parameters SourceIp and \
             DestinationPort",
        ));
    }
    if at_destination.is_some() && destination_ip.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter FilterAtDestination cannot be used with the parameter DestinationIp",
        ));
    }
    let source = end(call, "Source", input.source.as_deref().unwrap_or_default())?;
    let destination = match input.destination.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Some(end(call, "Destination", text)?),
        None => None,
    };
    let called = destination_ip
        .or_else(|| at_destination.as_ref()?.destination_address)
        .or_else(|| at_source.as_ref()?.destination_address);
    if destination.is_none() && called.is_none() {
        return Err(Error::client(
            "MissingParameter",
            "The request must contain the parameter Destination or DestinationIp",
        ));
    }
    if destination.as_ref() == Some(&source) {
        return Err(Error::invalid_parameter_value(
            "The source and the destination of a path must be different resources",
        ));
    }
    let id = call.new_id(PATH.prefix);
    let record = InsightsPath {
        v: 1,
        source,
        destination,
        source_ip,
        destination_ip,
        udp: input.protocol.as_deref() == Some("udp"),
        destination_port,
        at_source,
        at_destination,
        created: call.now,
        tags,
        id,
    };
    let at = PATH.key(call, &record.id);
    let record = call.put(&at, record);
    Ok(api::CreateNetworkInsightsPathResult {
        network_insights_path: Some(show::path(call.region, call.account(), &record)),
    })
}

fn text(value: Option<impl ToString>) -> Vec<std::borrow::Cow<'static, str>> {
    value.into_iter().map(|value| value.to_string().into()).collect()
}

fn range(value: Option<(u16, u16)>) -> Vec<std::borrow::Cow<'static, str>> {
    text(value.map(|(from, to)| format!("{from}-{to}")))
}

const PATH_FILTERS: &[Field<InsightsPath>] = &[
    ("destination", |p| text(p.destination.as_deref())),
    ("filter-at-source.source-address", |p| {
        text(p.at_source.as_ref().and_then(|f| f.source_address))
    }),
    ("filter-at-source.source-port-range", |p| {
        range(p.at_source.as_ref().and_then(|f| f.source_ports))
    }),
    ("filter-at-source.destination-address", |p| {
        text(p.at_source.as_ref().and_then(|f| f.destination_address))
    }),
    ("filter-at-source.destination-port-range", |p| {
        range(p.at_source.as_ref().and_then(|f| f.destination_ports))
    }),
    ("filter-at-destination.source-address", |p| {
        text(p.at_destination.as_ref().and_then(|f| f.source_address))
    }),
    ("filter-at-destination.source-port-range", |p| {
        range(p.at_destination.as_ref().and_then(|f| f.source_ports))
    }),
    ("filter-at-destination.destination-address", |p| {
        text(p.at_destination.as_ref().and_then(|f| f.destination_address))
    }),
    ("filter-at-destination.destination-port-range", |p| {
        range(p.at_destination.as_ref().and_then(|f| f.destination_ports))
    }),
    ("protocol", |p| vec![show::protocol(p).into()]),
    ("source", |p| vec![p.source.as_str().into()]),
];

fn describe_paths(
    call: &mut Call<'_>,
    input: api::DescribeNetworkInsightsPathsRequest,
) -> Result<api::DescribeNetworkInsightsPathsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), PATH_FILTERS)?;
    let mut found = PATH.described::<InsightsPath>(call, input.network_insights_path_ids)?;
    found.retain(|path| filters.accept(path, &path.tags));
    let next = input.next_token.as_deref();
    let page = page(found, |path| &path.id, input.max_results, next, 1..=100)?;
    let shown = page.items.iter().map(|path| show::path(call.region, call.account(), path));
    Ok(api::DescribeNetworkInsightsPathsResult {
        network_insights_paths: Some(shown.collect()),
        next_token: page.next_token,
    })
}

fn delete_path(
    call: &mut Call<'_>,
    input: api::DeleteNetworkInsightsPathRequest,
) -> Result<api::DeleteNetworkInsightsPathResult, Error> {
    let id = input.network_insights_path_id.unwrap_or_default();
    PATH.find::<InsightsPath>(call, &id)?;
    let all = ANALYSIS.key(call, "");
    let analyses = call.get_all::<InsightsAnalysis>(&all)?;
    if analyses.iter().any(|analysis| analysis.path_id == id) {
        return Err(Error::client(
            "AnalysisExistsForNetworkInsightsPath",
            format!("Deletion is not allowed. Analyses exist for the path '{id}'"),
        ));
    }
    let at = PATH.key(call, &id);
    call.delete(&at);
    Ok(api::DeleteNetworkInsightsPathResult { network_insights_path_id: Some(id) })
}

fn start_analysis(
    call: &mut Call<'_>,
    input: api::StartNetworkInsightsAnalysisRequest,
) -> Result<api::StartNetworkInsightsAnalysisResult, Error> {
    let tags = tag::from_specifications(
        input.tag_specifications.as_deref(),
        "network-insights-analysis",
        &["network-insights-analysis"],
    )?;
    let arns = |parameter: &str, arns: Option<Vec<String>>| {
        let arns = arns.unwrap_or_default();
        match arns.iter().find(|arn| !arn.starts_with("arn:")) {
            None => Ok(arns),
            Some(other) => Err(Error::invalid_parameter_value(format!(
                "Value ({other}) for parameter {parameter} is invalid. It is not an ARN."
            ))),
        }
    };
    let filter_in = arns("FilterInArns", input.filter_in_arns)?;
    let filter_out = arns("FilterOutArns", input.filter_out_arns)?;
    let path_id = input.network_insights_path_id.unwrap_or_default();
    PATH.find::<InsightsPath>(call, &path_id)?;
    let record = InsightsAnalysis {
        v: 1,
        id: call.new_id(ANALYSIS.prefix),
        path_id,
        filter_in,
        filter_out,
        started: call.now,
        outcome: None,
        tags,
    };
    let at = ANALYSIS.key(call, &record.id);
    let record = call.put(&at, record);
    Ok(api::StartNetworkInsightsAnalysisResult {
        network_insights_analysis: Some(show::analysis(call.region, call.account(), &record)),
    })
}

const ANALYSIS_FILTERS: &[Field<InsightsAnalysis>] = &[
    ("path-found", |a| text(a.outcome.as_ref().map(|outcome| outcome.found))),
    ("status", |a| vec![show::status(a).into()]),
];

fn describe_analyses(
    call: &mut Call<'_>,
    input: api::DescribeNetworkInsightsAnalysesRequest,
) -> Result<api::DescribeNetworkInsightsAnalysesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), ANALYSIS_FILTERS)?;
    let ids = input.network_insights_analysis_ids;
    let mut found: Vec<Arc<InsightsAnalysis>> = ANALYSIS.described(call, ids)?;
    if let Some(path_id) = input.network_insights_path_id {
        PATH.find::<InsightsPath>(call, &path_id)?;
        found.retain(|analysis| analysis.path_id == path_id);
    }
    let (from, to) = (input.analysis_start_time, input.analysis_end_time);
    found.retain(|analysis| {
        from.is_none_or(|from| analysis.started >= from)
            && to.is_none_or(|to| analysis.started <= to)
            && filters.accept(analysis, &analysis.tags)
    });
    let next = input.next_token.as_deref();
    let page = page(found, |analysis| &analysis.id, input.max_results, next, 1..=100)?;
    let shown = page.items.iter().map(|a| show::analysis(call.region, call.account(), a));
    Ok(api::DescribeNetworkInsightsAnalysesResult {
        network_insights_analyses: Some(shown.collect()),
        next_token: page.next_token,
    })
}

fn delete_analysis(
    call: &mut Call<'_>,
    input: api::DeleteNetworkInsightsAnalysisRequest,
) -> Result<api::DeleteNetworkInsightsAnalysisResult, Error> {
    let id = input.network_insights_analysis_id.unwrap_or_default();
    ANALYSIS.find::<InsightsAnalysis>(call, &id)?;
    let at = ANALYSIS.key(call, &id);
    call.delete(&at);
    Ok(api::DeleteNetworkInsightsAnalysisResult { network_insights_analysis_id: Some(id) })
}

#[cfg(test)]
mod tests;
