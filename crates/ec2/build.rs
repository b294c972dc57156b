//! Turns data/instance-types.json.gz into what `instance_type` embeds: the descriptions as one text,
//! and a sorted index with the facts that a launch asks for. So a lookup costs no memory and no
//! decompression: the text is a part of the binary that is paged in where it is read.

use serde_json::Value;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source =
        PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../data/instance-types.json.gz");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(&source)?).read_to_string(&mut text)?;
    let Value::Array(mut types) = serde_json::from_str(&text)? else {
        return Err("instance-types.json.gz is not a list".into());
    };
    types.sort_by(|a, b| a["InstanceType"].as_str().cmp(&b["InstanceType"].as_str()));

    let mut descriptions = String::new();
    let mut index = String::from("static INDEX: &[Entry] = &[\n");
    for facts in &types {
        let description = facts.to_string();
        let at = descriptions.len();
        descriptions.push_str(&description);
        let number = |pointer: &str| facts.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let flag = |pointer: &str| facts.pointer(pointer) == Some(&Value::Bool(true));
        let text = |pointer: &str| facts.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let list = |pointer: &str| {
            let items = facts.pointer(pointer).and_then(Value::as_array);
            let items: Vec<&str> = items.into_iter().flatten().filter_map(Value::as_str).collect();
            format!("&{items:?}")
        };
        writeln!(
            index,
            "Entry {{ at: {at}, length: {}, facts: Facts {{ name: {:?}, vcpus: {}, cores: {}, \
             threads_per_core: {}, memory_mib: {}, burstable: {}, bare_metal: {}, \
             architectures: {}, ebs_optimized: {:?}, nitro: {}, max_volumes: {}, \
             local_disks: {}, local_disk_gb: {}, local_nvme: {}, max_interfaces: {}, \
             ipv4_addresses: {}, ipv6_addresses: {} }} }},",
            description.len(),
            text("/InstanceType"),
            number("/VCpuInfo/DefaultVCpus"),
            number("/VCpuInfo/DefaultCores"),
            number("/VCpuInfo/DefaultThreadsPerCore"),
            number("/MemoryInfo/SizeInMiB"),
            flag("/BurstablePerformanceSupported"),
            flag("/BareMetal"),
            list("/ProcessorInfo/SupportedArchitectures"),
            text("/EbsInfo/EbsOptimizedSupport"),
            text("/Hypervisor") != "xen",
            number("/EbsInfo/MaximumEbsAttachments"),
            number("/InstanceStorageInfo/Disks/0/Count"),
            number("/InstanceStorageInfo/Disks/0/SizeInGB"),
            text("/InstanceStorageInfo/NvmeSupport") == "required",
            number("/NetworkInfo/NetworkCards/0/MaximumNetworkInterfaces"),
            number("/NetworkInfo/Ipv4AddressesPerInterface"),
            number("/NetworkInfo/Ipv6AddressesPerInterface"),
        )?;
    }
    index.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("instance_types.json"), descriptions)?;
    fs::write(out.join("instance_types.rs"), index)?;
    Ok(())
}
