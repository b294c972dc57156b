//! What an account may have in a region.

use crate::vpc;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] = &[operation!(
    op::DescribeAccountAttributes,
    describe_account_attributes,
    Read,
    ["AttributeNames"]
)];

/// The attributes and what each says; documented ones only (EC2 API Reference,
/// "DescribeAccountAttributes").
fn attributes(call: &Call<'_>) -> Vec<(&'static str, String)> {
    // Without a default VPC AWS says "none".
    let default_vpc = vpc::default_vpc(call).map_or_else(|_| "none".to_owned(), |v| v.id.clone());
    vec![
        ("supported-platforms", "VPC".to_owned()),
        ("vpc-max-security-groups-per-interface", "5".to_owned()),
        ("max-elastic-ips", "5".to_owned()),
        ("max-instances", "20".to_owned()),
        ("vpc-max-elastic-ips", "5".to_owned()),
        ("default-vpc", default_vpc),
    ]
}

fn describe_account_attributes(
    call: &mut Call<'_>,
    input: api::DescribeAccountAttributesRequest,
) -> Result<api::DescribeAccountAttributesResult, Error> {
    let all = attributes(call);
    let named = input.attribute_names.unwrap_or_default();
    if let Some(name) = named.iter().find(|name| !all.iter().any(|(known, _)| known == name)) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ( {name} ) for parameter attributeNames is invalid. Unknown attribute."
        )));
    }
    let shown = all
        .into_iter()
        .filter(|(name, _)| named.is_empty() || named.iter().any(|wanted| wanted == name))
        .map(|(name, value)| api::AccountAttribute {
            attribute_name: Some(name.to_owned()),
            attribute_values: Some(vec![api::AccountAttributeValue {
                attribute_value: Some(value),
            }]),
        })
        .collect();
    Ok(api::DescribeAccountAttributesResult { account_attributes: Some(shown) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Region, list};

    #[test]
    fn attributes_are_all_or_those_named() {
        let region = Region::new();
        let ask = |names: &[&str]| api::DescribeAccountAttributesRequest {
            attribute_names: list(names),
            ..Default::default()
        };
        let all = region.ok(describe_account_attributes, ask(&[])).account_attributes.unwrap();
        assert_eq!(all.len(), 6);
        let one = region.ok(describe_account_attributes, ask(&["default-vpc"]));
        let one = one.account_attributes.unwrap().remove(0).attribute_values.unwrap().remove(0);
        assert!(one.attribute_value.unwrap().starts_with("vpc-"));
        assert!(
            region
                .refused(describe_account_attributes, ask(&["colour"]))
                .starts_with("InvalidParameterValue: ")
        );
    }
}
