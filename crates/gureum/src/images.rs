//! `gureum image`, and how built images become AMIs: every manifest of the images directory is
//! mirrored to a record `/node-image/<key>`, from which EC2's own reconciler makes AMIs.

use crate::Image;
use anyhow::{Context, Result};
use base::image::{Manifest, Published};
use base::volume::Content;
use service::dispatch::Dispatcher;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{Op, Store, Txn};

const PREFIX: &str = "/node-image/";

/// Runs `gureum image …`.
pub(crate) fn run(command: &Image) -> Result<()> {
    let mut progress = |line: &str| println!("{line}");
    match command {
        Image::Build { name, if_missing, data } => {
            let images = data.path().join("images");
            if *if_missing && node::image::load(&images, name).is_ok() {
                println!("{name} is built");
                return Ok(());
            }
            let manifest = node::image::build(name, &images, &mut progress)?;
            println!("built {}: {}", manifest.key, manifest.name);
        }
        Image::Import { file, name, data } => {
            let images = data.path().join("images");
            let stem = || Some(file.file_stem()?.to_string_lossy().into_owned());
            let name = name.clone().or_else(stem).context("the file has no name: give --name")?;
            let options = node::image::ImportOptions { name, ..Default::default() };
            let manifest = node::image::import(file, &images, &options)?;
            println!("imported {}: {}", manifest.key, manifest.name);
        }
        Image::List { data } => {
            for manifest in node::image::list(&data.path().join("images"))? {
                println!("{:<16} {:<48} {}", manifest.key, manifest.name, manifest.description);
            }
        }
    }
    Ok(())
}

/// Mirrors the manifests once.
pub(crate) async fn publish(store: &dyn Store, images: &Path, simulated: bool) -> Result<()> {
    let mut wanted: BTreeMap<String, Manifest> =
        if simulated { ec2::image::built_in() } else { Vec::new() }
            .into_iter()
            .map(|manifest| (format!("{PREFIX}{}", manifest.key), manifest))
            .collect();
    if images.is_dir() {
        for manifest in node::image::list(images)? {
            wanted.insert(format!("{PREFIX}{}", manifest.key), manifest);
        }
    }
    let snapshot = store.snapshot();
    let mut ops = Vec::new();
    for (key, manifest) in &wanted {
        let content = Content { root: "0".repeat(64), size_gib: manifest.size_gib, key: None };
        let published = Published { manifest: manifest.clone(), content };
        let same = match snapshot.get(key) {
            Some(kv) => kv.decode::<Published>().is_ok_and(|known| *known == published),
            None => false,
        };
        if !same {
            ops.push(Op::put(key.clone(), &published)?);
        }
    }
    for known in snapshot.scan(PREFIX) {
        if !wanted.contains_key(known.key()) {
            ops.push(Op::delete(known.key()));
        }
    }
    if !ops.is_empty() {
        store.txn(Txn::write(ops)).await?;
    }
    Ok(())
}

/// Mirrors the manifests whenever the images directory changes; looked at every second.
pub(crate) async fn watch(
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    images: PathBuf,
    simulated: bool,
) {
    let stamp = || {
        let mut stamps = Vec::new();
        for entry in std::fs::read_dir(&images).into_iter().flatten().flatten() {
            let manifest = entry.path().join("manifest.json");
            if let Ok(modified) = manifest.metadata().and_then(|m| m.modified()) {
                stamps.push((manifest, modified));
            }
        }
        stamps.sort();
        stamps
    };
    let mut seen = Vec::new();
    loop {
        let now = stamp();
        if now != seen {
            match publish(store.as_ref(), &images, simulated).await {
                Ok(()) => {
                    seen = now;
                    dispatcher.refresh();
                }
                Err(error) => tracing::warn!("images are not published: {error:#}"),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
