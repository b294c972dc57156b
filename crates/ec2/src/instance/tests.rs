//! Handlers of instances on a region in memory.

use super::*;
use crate::testing::Region;

pub(crate) use super::lifecycle::{
    reboot_instances as reboot, start_instances as start, stop_instances as stop,
    terminate_instances as terminate,
};

/// A launch request for one instance of the first image.
pub(crate) fn request(region: &Region) -> api::RunInstancesRequest {
    let images = crate::image::publish(&crate::image::built_in(), region.name, "");
    api::RunInstancesRequest {
        image_id: Some(images[0].id.clone()),
        instance_type: Some("t3.micro".to_owned()),
        min_count: Some(1),
        max_count: Some(1),
        ..Default::default()
    }
}
