//! What a launch may ask for, and what it gets when it asks for nothing.

use crate::instance::{MetadataWish, change_metadata_options};
use crate::instance_type::Facts;
use crate::record::{Image, MetadataOptions, Tags};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use model::ec2 as api;
use service::Error;

/// Longest user data, before base64 (EC2 User Guide, "Instance user data").
const MAX_USER_DATA: usize = 16_384;

/// Refuses values of which this region does only AWS's default.
pub(super) fn refuse_what_is_not_here(input: &api::RunInstancesRequest) -> Result<(), Error> {
    let mut refused: Option<String> = None;
    let mut only = |name: &str, value: Option<&str>, done: &[&str]| {
        if let Some(value) = value
            && !done.contains(&value)
        {
            refused = Some(format!("{name}={value} is not built in gureum yet."));
        }
    };
    let text = |value: Option<bool>| value.map(|value| if value { "true" } else { "false" });
    let reservation = input.capacity_reservation_specification.as_ref();
    only(
        "CapacityReservationSpecification.CapacityReservationPreference",
        reservation.and_then(|r| r.capacity_reservation_preference.as_deref()),
        &["open", "none"],
    );
    let placement = input.placement.as_ref();
    only("Placement.Tenancy", placement.and_then(|p| p.tenancy.as_deref()), &["default"]);
    only("Placement.GroupName", placement.and_then(|p| p.group_name.as_deref()), &[""]);
    only(
        "EnclaveOptions.Enabled",
        text(input.enclave_options.as_ref().and_then(|o| o.enabled)),
        &["false"],
    );
    only(
        "HibernationOptions.Configured",
        text(input.hibernation_options.as_ref().and_then(|o| o.configured)),
        &["false"],
    );
    only(
        "MaintenanceOptions.AutoRecovery",
        input.maintenance_options.as_ref().and_then(|o| o.auto_recovery.as_deref()),
        &["default"],
    );
    only(
        "NetworkPerformanceOptions.BandwidthWeighting",
        input.network_performance_options.as_ref().and_then(|o| o.bandwidth_weighting.as_deref()),
        &["default"],
    );
    for given in input.network_interfaces.iter().flatten() {
        let kind = given.interface_type.as_deref();
        only("NetworkInterface.InterfaceType", kind, &["interface"]);
    }
    refused.map_or(Ok(()), |message| Err(Error::unsupported(message)))
}

/// Refuses a machine type whose processors cannot run the image.
pub(crate) fn check_architecture(facts: &Facts, architecture: &str) -> Result<(), Error> {
    if facts.architectures.contains(&architecture) {
        return Ok(());
    }
    let of_type = facts.architectures.join(",");
    Err(Error::invalid_parameter_value(format!(
        "The architecture '{of_type}' of the specified instance type does not match the \
         architecture '{architecture}' of the specified AMI. Specify an instance type and an AMI \
         that have matching architectures, and try again. You can use 'describe-instance-types' \
         or 'describe-images' to discover the architecture of the instance type or AMI."
    )))
}

/// EbsOptimized on a type that cannot do it.
pub(crate) fn not_ebs_optimized() -> Error {
    Error::client(
        "Unsupported",
        "EBS-optimized instances are not supported for your requested configuration. Please check \
         the documentation for supported configurations.",
    )
}

pub(super) fn check_type_options(
    input: &api::RunInstancesRequest,
    facts: &Facts,
) -> Result<(), Error> {
    if input.ebs_optimized == Some(true) && facts.ebs_optimized == "unsupported" {
        return Err(not_ebs_optimized());
    }
    if facts.bare_metal {
        return Err(Error::client(
            "Unsupported",
            format!(
                "The instance type '{}' is a whole machine, which this region cannot give away.",
                facts.name
            ),
        ));
    }
    let Some(cpu) = &input.cpu_options else { return Ok(()) };
    let (cores, threads) = (facts.cores, facts.threads_per_core);
    let is =
        |wish: Option<i32>, has: u32| wish.is_none_or(|wish| i64::from(wish) == i64::from(has));
    if is(cpu.core_count, cores) && is(cpu.threads_per_core, threads) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "CpuOptions other than the default of {} ({cores} cores with {threads} threads) are not \
         built in gureum yet.",
        facts.name
    )))
}

/// Decodes user data, which travels as base64.
pub(crate) fn decode_user_data(text: &str) -> Result<Option<Vec<u8>>, Error> {
    // Clients send what `base64` printed: with line ends, and perhaps without padding.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = LENIENT
        .decode(&compact)
        .map_err(|_| Error::invalid_parameter_value("Invalid BASE64 encoding of user data."))?;
    check_user_data(Some(bytes))
}

/// Checks the length of user data; empty data is none.
pub(crate) fn check_user_data(bytes: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    if bytes.len() > MAX_USER_DATA {
        return Err(Error::invalid_parameter_value(format!(
            "User data is limited to {MAX_USER_DATA} bytes"
        )));
    }
    Ok(Some(bytes))
}

/// InstanceInitiatedShutdownBehavior: whether a guest that shuts down is terminated.
pub(crate) fn terminates_on_shutdown(behavior: Option<&str>) -> Result<bool, Error> {
    match behavior {
        None | Some("stop") => Ok(false),
        Some("terminate") => Ok(true),
        Some(other) => Err(Error::invalid_parameter_value(format!(
            "Value ({other}) for parameter instanceInitiatedShutdownBehavior is invalid. Expected \
             stop or terminate."
        ))),
    }
}

pub(super) fn metadata_options(
    input: &api::RunInstancesRequest,
    image: &Image,
    tags: &Tags,
) -> Result<MetadataOptions, Error> {
    // EC2 User Guide, "Instance metadata options": an AMI with ImdsSupport v2.0 sets both.
    let mut options = MetadataOptions {
        tokens_required: image.imds_v2,
        hop_limit: if image.imds_v2 { 2 } else { 1 },
        enabled: true,
        tags: false,
    };
    if let Some(given) = &input.metadata_options {
        let wish = MetadataWish {
            endpoint: given.http_endpoint.as_deref(),
            ipv6: given.http_protocol_ipv6.as_deref(),
            hop_limit: given.http_put_response_hop_limit,
            tokens: given.http_tokens.as_deref(),
            tags: given.instance_metadata_tags.as_deref(),
        };
        change_metadata_options(&mut options, &wish, tags)?;
    }
    Ok(options)
}

/// CPU credits of an instance of a type that asked for `wish`, which was checked.
pub(crate) fn cpu_credits(facts: &Facts, wish: Option<String>) -> Option<String> {
    let default = if facts.name.starts_with("t2.") { "standard" } else { "unlimited" };
    facts.burstable.then(|| wish.unwrap_or_else(|| default.to_owned()))
}

/// Checks a credit option.
pub(crate) fn check_cpu_credits(wish: Option<&str>) -> Result<&str, Error> {
    match wish {
        Some(credits @ ("standard" | "unlimited")) => Ok(credits),
        other => Err(Error::invalid_parameter_value(format!(
            "Value ({}) for parameter cpuCredits is invalid. Expected standard or unlimited.",
            other.unwrap_or_default()
        ))),
    }
}

pub(super) fn wanted_credits(
    input: &api::RunInstancesRequest,
    facts: &Facts,
) -> Result<Option<String>, Error> {
    let Some(given) = &input.credit_specification else { return Ok(cpu_credits(facts, None)) };
    let credits = check_cpu_credits(given.cpu_credits.as_deref())?;
    if !facts.burstable {
        return Err(Error::invalid_parameter_combination(format!(
            "The parameter creditSpecification cannot be used with the instance type {}: only \
             burstable performance instances have CPU credits.",
            facts.name
        )));
    }
    Ok(cpu_credits(facts, Some(credits.to_owned())))
}
