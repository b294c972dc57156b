//! DescribeVolumeStatus, EnableVolumeIO and attributes.

use super::*;
use crate::volume::status::{
    describe_volume_attribute, describe_volume_status, enable_volume_io, modify_volume_attribute,
};

fn status(region: &Region, id: &str) -> api::VolumeStatusItem {
    let input = api::DescribeVolumeStatusRequest { volume_ids: list(&[id]), ..Default::default() };
    region.ok(describe_volume_status, input).volume_statuses.unwrap().remove(0)
}

fn verdict(item: &api::VolumeStatusItem) -> (&str, Vec<(&str, &str)>) {
    let info = item.volume_status.as_ref().unwrap();
    let details = info.details.as_ref().unwrap().iter();
    let details = details.map(|d| (d.name.as_deref().unwrap(), d.status.as_deref().unwrap()));
    (info.status.as_deref().unwrap(), details.collect())
}

fn impair(region: &Region, id: &str, message: Option<&str>) {
    let State::Ready(ready) = region.driver.volume_state(id) else { panic!() };
    let impaired = message.map(str::to_owned);
    region.driver.set_volume(id, State::Ready(base::volume::Ready { impaired, ..ready }));
    disks::reconcile(region, id);
}

#[test]
fn a_broken_volume_is_impaired_until_somebody_takes_note() {
    let region = Region::new();
    let id = create(&region, 8, "gp3");
    assert_eq!(verdict(&status(&region, &id)).0, "insufficient-data");
    disks::obey(&region, &id);
    let fine = ("ok", vec![("io-enabled", "passed"), ("io-performance", "normal")]);
    assert_eq!(verdict(&status(&region, &id)), fine);
    impair(&region, &id, Some("no space"));
    let item = status(&region, &id);
    let broken = ("impaired", vec![("io-enabled", "failed"), ("io-performance", "stalled")]);
    assert_eq!(verdict(&item), broken);
    let event = &item.events.as_ref().unwrap()[0];
    assert_eq!(event.event_type.as_deref(), Some("potential-data-inconsistency"));
    let action = &item.actions.as_ref().unwrap()[0];
    assert_eq!(action.code.as_deref(), Some("enable-volume-io"));
    assert_eq!(action.event_id, event.event_id);
    let found = |name: &str, value: &str| {
        let input = api::DescribeVolumeStatusRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(describe_volume_status, input).volume_statuses.unwrap().len()
    };
    assert_eq!(found("volume-status.status", "impaired"), 1);
    assert_eq!(found("action.code", "enable-volume-io"), 1);
    assert_eq!(found("volume-status.details-status", "failed"), 1);
    let enable = api::EnableVolumeIORequest { volume_id: Some(id.clone()), ..Default::default() };
    region.ok(enable_volume_io, enable);
    let item = status(&region, &id);
    assert_eq!(verdict(&item).0, "warning");
    assert!(item.actions.unwrap().is_empty());
    impair(&region, &id, None);
    assert_eq!(verdict(&status(&region, &id)), fine);
    assert_eq!(found("action.code", "*"), 0);
    let attribute = api::ModifyVolumeAttributeRequest {
        volume_id: Some(id.clone()),
        auto_enable_io: Some(api::AttributeBooleanValue { value: Some(true) }),
        ..Default::default()
    };
    region.ok(modify_volume_attribute, attribute);
    impair(&region, &id, Some("no space"));
    assert_eq!(verdict(&status(&region, &id)).0, "warning");
}

#[test]
fn attributes_are_shown() {
    let region = Region::new();
    let id = available(&region, 8, "gp3");
    let ask = |attribute: Option<&str>| api::DescribeVolumeAttributeRequest {
        volume_id: Some(id.clone()),
        attribute: attribute.map(str::to_owned),
        ..Default::default()
    };
    let auto = region.ok(describe_volume_attribute, ask(Some("autoEnableIO")));
    assert_eq!(auto.auto_enable_io.unwrap().value, Some(false));
    let codes = region.ok(describe_volume_attribute, ask(Some("productCodes")));
    assert_eq!(codes.product_codes.unwrap().len(), 0);
    for (attribute, code) in [(None, "MissingParameter"), (Some("x"), "InvalidParameterValue")] {
        assert!(region.refused(describe_volume_attribute, ask(attribute)).starts_with(code));
    }
    let nothing =
        api::ModifyVolumeAttributeRequest { volume_id: Some(id.clone()), ..Default::default() };
    assert_eq!(
        region.refused(modify_volume_attribute, nothing),
        "InvalidParameterCombination: No attributes specified."
    );
}

#[test]
fn a_filling_volume_shows_its_progress() {
    let region = Region::new();
    keep(&region, snapshot(SNAPSHOT, 10, SnapshotState::Completed));
    let id = ask(
        &region,
        api::CreateVolumeRequest {
            snapshot_id: Some(SNAPSHOT.to_owned()),
            volume_initialization_rate: Some(100),
            ..wish(10, "gp3")
        },
    );
    disks::obey(&region, &id);
    let State::Ready(ready) = region.driver.volume_state(&id) else { panic!() };
    region
        .driver
        .set_volume(&id, State::Ready(base::volume::Ready { filled_percent: 50, ..ready }));
    let item = status(&region, &id);
    let details = item.initialization_status_details.clone().unwrap();
    assert_eq!(details.progress, Some(50));
    assert_eq!(details.initialization_type.as_deref(), Some("provisioned-rate"));
    assert_eq!(details.estimated_time_to_complete_in_seconds, Some(51));
    assert!(verdict(&item).1.contains(&("initialization-state", "initializing")));
    let empty = available(&region, 1, "gp3");
    assert!(status(&region, &empty).initialization_status_details.is_none());
}
