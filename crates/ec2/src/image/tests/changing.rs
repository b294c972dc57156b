//! What becomes of images: permissions, deprecation, disabling, protection, deregistration.

use super::making::{OTHER, bare, image, made, registration, snapshot, text};
use super::{names, root_snapshot};
use crate::image::ancestry::{describe_image_references, get_image_ancestry};
use crate::image::attribute::{
    cancel_image_launch_permission, describe_image_attribute, modify_image_attribute,
    reset_image_attribute,
};
use crate::image::describe::describe_images;
use crate::image::publish::ami_id;
use crate::image::reconciler::RECONCILER;
use crate::image::register::register_image;
use crate::image::state::*;
use crate::image::{built_in, find, for_tests, sync};
use crate::record::{RecycleBinRule, Tags, key};
use crate::testing::{ACCOUNT, Region, filter, list};
use base::Timestamp;
use model::ec2 as api;

const DAY: i64 = 24 * 3_600_000;

fn attribute(region: &Region, id: &str, name: &str) -> api::ImageAttribute {
    let input = api::DescribeImageAttributeRequest {
        image_id: text(id),
        attribute: text(name),
        ..Default::default()
    };
    region.ok(describe_image_attribute, input)
}

fn share(id: &str, account: &str) -> api::ModifyImageAttributeRequest {
    api::ModifyImageAttributeRequest {
        image_id: text(id),
        launch_permission: Some(api::LaunchPermissionModifications {
            add: Some(vec![api::LaunchPermission { user_id: text(account), ..Default::default() }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn publicly(id: &str) -> api::ModifyImageAttributeRequest {
    api::ModifyImageAttributeRequest {
        image_id: text(id),
        attribute: text("launchPermission"),
        operation_type: text("add"),
        user_groups: list(&["all"]),
        ..Default::default()
    }
}

#[test]
fn who_is_given_a_permission_may_launch() {
    let region = Region::new();
    let id = made(&region, "shared");
    let sees = |account: &str| {
        region.run_as("us-east-1", account, |call| find(call, &id)).map(|image| image.id.clone())
    };
    let not_found = format!("InvalidAMIID.NotFound: The image id '[{id}]' does not exist");
    assert_eq!(sees(OTHER).unwrap_err().to_string(), not_found);
    region.ok(modify_image_attribute, share(&id, OTHER));
    sees(OTHER).unwrap();
    assert!(sees("333333333333").is_err());
    let shown = attribute(&region, &id, "launchPermission").launch_permissions.unwrap();
    assert_eq!(shown[0].user_id.as_deref(), Some(OTHER));
    // They may look, but not change.
    let theirs = region.run_as("us-east-1", OTHER, |call| {
        modify_image_attribute(call, share(&id, "333333333333"))
    });
    assert_eq!(
        theirs.unwrap_err().to_string(),
        format!("AuthFailure: Not authorized for image:{id}")
    );
    let by_self =
        api::DescribeImagesRequest { executable_users: list(&["self"]), ..Default::default() };
    let found = region.run_as("us-east-1", OTHER, |call| describe_images(call, by_self)).unwrap();
    assert_eq!(found.images.unwrap().len(), 1);
    let cancel =
        || api::CancelImageLaunchPermissionRequest { image_id: text(&id), ..Default::default() };
    region
        .run_as("us-east-1", OTHER, |call| cancel_image_launch_permission(call, cancel()))
        .unwrap();
    assert!(sees(OTHER).is_err());
    assert!(region.refused(cancel_image_launch_permission, cancel()).contains("is not shared"));
    region.ok(modify_image_attribute, publicly(&id));
    sees("333333333333").unwrap();
    let reset = api::ResetImageAttributeRequest {
        image_id: text(&id),
        attribute: text("launchPermission"),
        ..Default::default()
    };
    region.ok(reset_image_attribute, reset);
    assert!(sees("333333333333").is_err());
}

#[test]
fn attributes_are_changed_one_at_a_time() {
    let region = Region::new();
    let id = made(&region, "mine");
    let value = |text: &str| Some(api::AttributeValue { value: Some(text.to_owned()) });
    let modify = |with: &dyn Fn(&mut api::ModifyImageAttributeRequest)| {
        let mut input =
            api::ModifyImageAttributeRequest { image_id: text(&id), ..Default::default() };
        with(&mut input);
        region.run(|call| modify_image_attribute(call, input)).map_err(|error| error.to_string())
    };
    modify(&|r| r.description = value("new")).unwrap();
    assert_eq!(attribute(&region, &id, "description").description.unwrap().value, text("new"));
    modify(&|r| {
        r.attribute = text("description");
        r.value = text("newer");
    })
    .unwrap();
    assert_eq!(image(&region, &id).description, "newer");
    modify(&|r| r.imds_support = value("v2.0")).unwrap();
    assert_eq!(attribute(&region, &id, "imdsSupport").imds_support.unwrap().value, text("v2.0"));
    for name in ["kernel", "ramdisk", "bootMode", "tpmSupport", "uefiData", "lastLaunchedTime"] {
        assert_eq!(attribute(&region, &id, name).image_id.as_deref(), Some(id.as_str()));
    }
    let refused = |with: &dyn Fn(&mut api::ModifyImageAttributeRequest), start: &str| {
        let refusal = modify(with).unwrap_err();
        assert!(refusal.starts_with(start), "{refusal}");
    };
    refused(&|_| {}, "InvalidParameterCombination: No attributes specified.");
    refused(
        &|r| {
            r.description = value("a");
            r.imds_support = value("v2.0");
        },
        "InvalidParameterCombination: Fields for multiple attribute types specified",
    );
    refused(&|r| r.imds_support = value("v1.0"), "InvalidParameterValue");
    refused(&|r| r.attribute = text("colour"), "InvalidParameterValue");
    refused(
        &|r| *r = share(&id, "4711"),
        "InvalidAMIAttributeItemValue: Invalid attribute item value \"4711\" for userId item type.",
    );
    refused(
        &|r| {
            *r = publicly(&id);
            r.user_groups = list(&["some"]);
        },
        "InvalidAMIAttributeItemValue: Invalid attribute item value \"some\" for userGroup item \
         type.",
    );
    refused(
        &|r| {
            *r = publicly(&id);
            r.operation_type = None;
        },
        "MissingParameter",
    );
    refused(
        &|r| {
            *r = share(&id, OTHER);
            let add = r.launch_permission.as_mut().unwrap().add.as_mut().unwrap();
            add[0].organization_arn = text("arn:aws:organizations::1:organization/o-1");
        },
        "UnsupportedOperation",
    );
    refused(&|r| r.description = value(&"x".repeat(256)), "InvalidParameterValue");
    let mapping = api::DescribeImageAttributeRequest {
        image_id: text(&id),
        attribute: text("blockDeviceMapping"),
        ..Default::default()
    };
    assert_eq!(
        region.refused(describe_image_attribute, mapping),
        "AuthFailure: Unauthorized attempt to access restricted resource"
    );
}

#[test]
fn an_account_may_keep_its_images_from_becoming_public() {
    let region = Region::new();
    let id = made(&region, "mine");
    let state = || {
        let answer = region.ok(get_image_block_public_access_state, Default::default());
        answer.image_block_public_access_state.unwrap()
    };
    assert_eq!(state(), "unblocked");
    let block = api::EnableImageBlockPublicAccessRequest {
        image_block_public_access_state: text("block-new-sharing"),
        ..Default::default()
    };
    region.ok(enable_image_block_public_access, block);
    assert_eq!(state(), "block-new-sharing");
    assert!(region.refused(modify_image_attribute, publicly(&id)).starts_with(
        "OperationNotPermitted: You can’t publicly share this image because block public \
             access for AMIs is enabled for this account."
    ));
    region.ok(modify_image_attribute, share(&id, OTHER));
    region.ok(disable_image_block_public_access, Default::default());
    assert_eq!(state(), "unblocked");
    region.ok(modify_image_attribute, publicly(&id));
}

#[test]
fn a_disabled_image_is_hidden_and_cannot_be_launched() {
    let region = Region::new();
    let id = made(&region, "mine");
    region.ok(modify_image_attribute, share(&id, OTHER));
    let named = || api::DisableImageRequest { image_id: text(&id), ..Default::default() };
    region.ok(disable_image, named());
    region.ok(disable_image, named());
    let unavailable = format!("InvalidAMIID.Unavailable: The image ID '{id}' is not available");
    assert_eq!(region.run(|call| find(call, &id)).unwrap_err().to_string(), unavailable);
    assert_eq!(region.refused(modify_image_attribute, share(&id, OTHER)), unavailable);
    assert!(image(&region, &id).launch_accounts.is_empty(), "nobody regains access");
    let ask = |disabled_too: bool, state: Option<&str>| api::DescribeImagesRequest {
        owners: list(&["self"]),
        include_disabled: Some(disabled_too),
        filters: state.map(|state| vec![filter("state", &[state])]),
        ..Default::default()
    };
    assert_eq!(names(&region, ask(false, None)), ["gureum-micro-x86_64"]);
    assert_eq!(names(&region, ask(true, Some("disabled"))), ["mine"]);
    assert_eq!(
        region.refused(describe_images, ask(false, Some("disabled"))),
        "InvalidParameter: When filtering by the 'disabled' state, 'IncludeDisabled' must be set \
         to 'true' in the request."
    );
    region.ok(enable_image, api::EnableImageRequest { image_id: text(&id), ..Default::default() });
    region.run(|call| find(call, &id)).unwrap();
}

#[test]
fn a_deprecated_image_is_hidden_from_others() {
    let region = Region::new();
    let id = made(&region, "mine");
    region.ok(modify_image_attribute, publicly(&id));
    let now = region.run(|call| Ok(call.now)).unwrap();
    let deprecate = |at: Timestamp| api::EnableImageDeprecationRequest {
        image_id: text(&id),
        deprecate_at: Some(at),
        ..Default::default()
    };
    for wrong in [now.plus_millis(-1), now.plus_millis(3 * 366 * DAY)] {
        let refusal = region.refused(enable_image_deprecation, deprecate(wrong));
        assert!(refusal.starts_with("InvalidParameterValue"), "{refusal}");
    }
    region.ok(enable_image_deprecation, deprecate(now.plus_millis(3_600_000)));
    let at = image(&region, &id).deprecation_time.unwrap();
    assert_eq!(at.0 % 60_000, 0, "rounded to minutes");
    let found = |account: &str, too: bool| {
        let input = api::DescribeImagesRequest {
            include_deprecated: Some(too),
            filters: Some(vec![filter("name", &["mine"])]),
            ..Default::default()
        };
        let answer = region.run_as("us-east-1", account, |call| describe_images(call, input));
        answer.unwrap().images.unwrap().len()
    };
    assert_eq!((found(OTHER, false), found(ACCOUNT, false)), (1, 1));
    region.pass(3_660_000);
    assert_eq!((found(OTHER, false), found(OTHER, true), found(ACCOUNT, false)), (0, 1, 1));
    region.run(|call| find(call, &id)).unwrap();
    let cancel = api::DisableImageDeprecationRequest { image_id: text(&id), ..Default::default() };
    region.ok(disable_image_deprecation, cancel);
    assert_eq!(found(OTHER, false), 1);
}

fn deregister(id: &str, with_snapshots: bool) -> api::DeregisterImageRequest {
    api::DeregisterImageRequest {
        image_id: text(id),
        delete_associated_snapshots: with_snapshots.then_some(true),
        ..Default::default()
    }
}

#[test]
fn deregistering_keeps_snapshots_unless_told() {
    let region = Region::new();
    let first = made(&region, "first");
    let kept: Vec<String> = image(&region, &first).snapshots().map(str::to_owned).collect();
    // A second image on the root of the first.
    let mut request = registration(&kept[0]);
    request.name = text("second");
    let second = region.ok(register_image, request).image_id.unwrap();
    let answer = region.ok(deregister_image, deregister(&first, true));
    let results = answer.delete_snapshot_results.unwrap();
    let codes: Vec<_> =
        results.iter().map(|result| result.return_code.as_deref().unwrap()).collect();
    assert_eq!(codes, ["skipped", "success"], "the second image stands on its root");
    assert!(snapshot(&region, &kept[0]).is_some() && snapshot(&region, &kept[1]).is_none());
    let gone = format!("InvalidAMIID.NotFound: The image id '[{first}]' does not exist");
    assert_eq!(region.refused(deregister_image, deregister(&first, false)), gone);
    region.ok(deregister_image, deregister(&second, false));
    assert!(snapshot(&region, &kept[0]).unwrap().images.is_empty(), "free to be deleted");
    // The name is free as well.
    let mut request = registration(&kept[0]);
    request.name = text("second");
    region.ok(register_image, request);
}

#[test]
fn a_protected_image_is_not_deregistered_before_its_cooldown_is_over() {
    let region = Region::new();
    let id = made(&region, "mine");
    let shown = || {
        let value = attribute(&region, &id, "deregistrationProtection");
        value.deregistration_protection.unwrap().value.unwrap()
    };
    let protect = |cooldown: bool| api::EnableImageDeregistrationProtectionRequest {
        image_id: text(&id),
        with_cooldown: Some(cooldown),
        ..Default::default()
    };
    let unprotect = || api::DisableImageDeregistrationProtectionRequest {
        image_id: text(&id),
        ..Default::default()
    };
    assert_eq!(shown(), "disabled");
    region.ok(enable_image_deregistration_protection, protect(false));
    assert_eq!(shown(), "enabled-without-cooldown");
    let refused = || {
        let refusal = region.refused(deregister_image, deregister(&id, false));
        assert!(refusal.starts_with("OperationNotPermitted"), "{refusal}");
    };
    refused();
    region.ok(disable_image_deregistration_protection, unprotect());
    assert_eq!(shown(), "disabled");
    region.ok(enable_image_deregistration_protection, protect(true));
    assert_eq!(shown(), "enabled-with-cooldown");
    region.ok(disable_image_deregistration_protection, unprotect());
    region.pass(DAY - 1);
    region.ok(disable_image_deregistration_protection, unprotect());
    refused();
    region.pass(1);
    region.ok(deregister_image, deregister(&id, false));
}

#[test]
fn a_retention_rule_keeps_what_is_deregistered_for_a_while() {
    let region = Region::new();
    let root = bare(&region, "");
    let id = region.ok(register_image, registration(&root)).image_id.unwrap();
    region
        .run(|call| {
            let rule = RecycleBinRule {
                v: 1,
                id: "abcdefghijk".to_owned(),
                resource_type: "EC2_IMAGE".to_owned(),
                description: String::new(),
                retention_days: 2,
                resource_tags: Vec::new(),
                exclude_tags: Vec::new(),
                unlock_delay_days: None,
                unlock_expires: None,
                tags: Tags::new(),
            };
            call.put(&key::of(call.region, key::RECYCLE_BIN_RULE, ACCOUNT, &rule.id), rule);
            Ok(())
        })
        .unwrap();
    region.ok(deregister_image, deregister(&id, false));
    assert!(region.run(|call| find(call, &id)).is_err());
    let listed = || {
        let answer = region.ok(list_images_in_recycle_bin, Default::default());
        answer.images.unwrap().into_iter().map(|image| image.image_id.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(listed(), [id.as_str()]);
    let restore =
        || api::RestoreImageFromRecycleBinRequest { image_id: text(&id), ..Default::default() };
    // Its name was given away meanwhile.
    let other = region.ok(register_image, registration(&root)).image_id.unwrap();
    assert!(
        region
            .refused(restore_image_from_recycle_bin, restore())
            .starts_with("InvalidAMIName.Duplicate")
    );
    region.ok(deregister_image, deregister(&other, false));
    region.ok(restore_image_from_recycle_bin, restore());
    region.run(|call| find(call, &id)).unwrap();
    assert!(snapshot(&region, &root).unwrap().images.contains(&id));
    region.ok(deregister_image, deregister(&id, false));
    region.pass(2 * DAY);
    assert_eq!(listed(), [""; 0]);
    let missing = format!("InvalidAMIID.NotFound: The image id '[{id}]' does not exist");
    assert_eq!(region.refused(restore_image_from_recycle_bin, restore()), missing);
    let at = key::of("us-east-1", key::IMAGE, ACCOUNT, &id);
    region.run(|call| (RECONCILER.run)(call, &at)).unwrap();
    assert!(region.run(|call| Ok(call.exists(&at))).is_ok_and(|exists| !exists));
}

#[test]
fn a_published_image_that_was_deregistered_comes_back_with_its_next_build() {
    let region = Region::new();
    let id = ami_id("us-east-1", &built_in()[0].name);
    region.ok(deregister_image, deregister(&id, false));
    let mut published = for_tests();
    region.run(|call| sync(call, &published)).unwrap();
    assert!(region.run(|call| find(call, &id)).is_err());
    published[0].manifest.created = Timestamp(5);
    region.run(|call| sync(call, &published)).unwrap();
    let back = region.run(|call| find(call, &id)).unwrap();
    assert!(root_snapshot(&region, &back).unwrap().images.contains(&id));
    // One of Amazon's cannot be deregistered by others.
    let amazon = ami_id("us-east-1", &built_in()[2].name);
    assert_eq!(
        region.refused(deregister_image, deregister(&amazon, false)),
        format!("AuthFailure: Not authorized for image:{amazon}")
    );
}

#[test]
fn ancestors_are_told() {
    let region = Region::new();
    let id = made(&region, "child");
    let input = api::GetImageAncestryRequest { image_id: text(&id), ..Default::default() };
    let entries = region.ok(get_image_ancestry, input).image_ancestry_entries.unwrap();
    let ids: Vec<_> = entries.iter().map(|entry| entry.image_id.clone().unwrap()).collect();
    assert_eq!(ids, [id, ami_id("us-east-1", &built_in()[0].name)]);
}

#[test]
fn who_uses_an_image_is_told() {
    let region = Region::new();
    let parent = ami_id("us-east-1", &built_in()[0].name);
    made(&region, "child");
    let ask = |all: bool, of: Option<(&str, &[&str])>| api::DescribeImageReferencesRequest {
        image_ids: list(&[&parent]),
        include_all_resource_types: Some(all),
        resource_types: of.map(|(name, states)| {
            vec![api::ResourceTypeRequest {
                resource_type: text(name),
                resource_type_options: Some(vec![api::ResourceTypeOption {
                    option_name: text("state-name"),
                    option_values: list(states),
                }]),
            }]
        }),
        ..Default::default()
    };
    let found = |input: api::DescribeImageReferencesRequest| {
        region.ok(describe_image_references, input).image_references.unwrap()
    };
    let all = found(ask(true, None));
    assert_eq!((all.len(), all[0].image_id.as_deref()), (1, Some(parent.as_str())));
    let arn = all[0].arn.as_deref().unwrap();
    assert!(arn.starts_with(&format!("arn:aws:ec2:us-east-1:{ACCOUNT}:instance/i-")), "{arn}");
    assert_eq!(found(ask(false, Some(("ec2:Instance", &["running"])))), all);
    assert_eq!(found(ask(false, Some(("ec2:Instance", &["stopped"])))), []);
    assert_eq!(found(ask(false, Some(("ssm:Parameter", &[])))), []);
    let refusal = region.refused(describe_image_references, ask(false, None));
    assert!(refusal.starts_with("MissingParameter"), "{refusal}");
}
