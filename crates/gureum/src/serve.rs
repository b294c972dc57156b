//! `gureum serve`: opens the store, chooses the driver, joins the services, listens.

use crate::{Accelerator, Auth, Driver, Serve, Switch, blob_store, credentials, images};
use anyhow::{Context, Result, bail};
use base::key::Keys;
use base::{Clock, Timestamp};
use service::call::{Call, Environment};
use service::dispatch::{Authentication, Dispatcher};
use service::identity::Identity;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;

/// How long a start waits for images that are new.
const IMAGES_PATIENCE: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT. Machines go on running after that.
pub(crate) fn run(options: &Serve) -> Result<()> {
    if options.auth == Auth::Open && !options.listen.ip().is_loopback() {
        bail!(
            "--auth open verifies nothing, so it listens on loopback only, not on {}",
            options.listen
        );
    }
    let data = options.data.path();
    std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
    // The processes that serve disks work in it, and outlive this one: to them it is not relative.
    let data = data.canonicalize()?;
    // Before anything is started: a second daemon on this port must change nothing.
    let listener = listen(options.listen).with_context(|| {
        format!("cannot listen on {} (is another region running? choose --listen)", options.listen)
    })?;
    listener.set_nonblocking(true)?;
    let store = store::redb(&data.join("region.redb"))
        .with_context(|| format!("cannot open the store in {}", data.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options, &data, listener, store))
}

/// Listens, waiting a moment for a daemon that was killed: a child that it was about to start holds
/// the port until it executes its program.
fn listen(address: std::net::SocketAddr) -> std::io::Result<std::net::TcpListener> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    loop {
        match std::net::TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

async fn serve(
    options: &Serve,
    data: &Path,
    listener: std::net::TcpListener,
    store: Arc<dyn Store>,
) -> Result<()> {
    let clock = region_clock(store.as_ref(), options.time_scale).await?;
    let keys: Arc<dyn Keys> = Arc::new(kms::KeyStore::open(data.join("kms"))?);
    let wanted = options.blob_store.as_deref();
    let (blob_config, blobs) = blob_store::open(data, wanted, &store.snapshot(), &keys)?;
    let uploads = data.join("uploads");
    let direct = Arc::new(block::Direct::open(blobs.clone(), Arc::clone(&keys), &uploads)?);
    let endpoints = node::endpoint::Endpoints::default();
    let blob_store = (blob_config, &blobs);
    let driver = driver(options, data, &clock, blob_store, &keys, &direct, &endpoints)?;
    let simulated = driver.name() == "sim";
    let environment = Arc::new(Environment {
        account_id: options.account_id.clone(),
        public_pool: options.public_pool,
        driver,
        clock,
        keys,
        blocks: Arc::clone(&direct) as Arc<dyn base::volume::Blocks>,
        services: service::invoke::Table::default(),
    });
    root_key(&environment, store.as_ref(), data).await?;
    let publisher = images::Publisher {
        store: Arc::clone(&store),
        blobs: blobs.clone(),
        images: data.join("images"),
        simulated,
    };
    publisher.begin().await?;
    let authentication = match options.auth {
        Auth::Sigv4 => Authentication::Sigv4(iam::access_key::lookup),
        Auth::Open => Authentication::Open,
    };
    let dispatcher = Arc::new(Dispatcher::new(
        crate::coverage::services(),
        Arc::clone(&environment),
        Arc::clone(&store),
        authentication,
        options.throttle == Switch::On,
    ));
    service::reconcile::start(
        ec2::RECONCILERS.iter().chain(dlm::RECONCILERS),
        Arc::clone(&environment),
        Arc::clone(&store),
    );
    // Small images are there when the region answers; it does not wait long for large ones.
    let published = publisher.watch(Arc::clone(&dispatcher));
    let _ = tokio::time::timeout(IMAGES_PATIENCE, published).await;
    tokio::spawn(hourly(Arc::clone(&dispatcher)));
    tokio::spawn(crate::garbage::sweep(Arc::clone(&store), blobs, direct, uploads));
    // Before the first request is answered: who sees an answer may stop the daemon at once.
    let shutdown = shutdown_signal()?;
    std::fs::write(data.join("gureum.pid"), format!("{}\n", std::process::id()))?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    println!(
        "gureum {}: http://{address} (driver {}, account {})",
        env!("CARGO_PKG_VERSION"),
        environment.driver.name(),
        environment.account_id
    );
    let inside = Arc::clone(&dispatcher);
    endpoints.serve(move |listener| {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let server = service::http::serve(listener, Arc::clone(&inside));
        Ok(tokio::spawn(server).abort_handle())
    })?;
    tokio::select! {
        () = service::http::serve(listener, dispatcher) => {}
        () = shutdown => {}
    }
    let _ = std::fs::remove_file(data.join("gureum.pid"));
    Ok(())
}

/// Catches SIGTERM and SIGINT from now on; the future ends when one has come.
fn shutdown_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn hourly(dispatcher: Arc<Dispatcher>) {
    loop {
        if let Err(error) = dispatcher.forget_tokens().await {
            tracing::warn!(%error, "expired client tokens stay for another hour");
        }
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
}

/// The region's clock. Its origin is kept, so that it never goes back: a new scale continues from
/// the region's time, not from the wall's.
async fn region_clock(store: &dyn Store, scale: u32) -> Result<Clock> {
    const KEY: &str = "/region-clock";
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Origin {
        v: u16,
        /// Region time minus wall time when this run of the clock began.
        wall: Timestamp,
        region: Timestamp,
        scale: u32,
    }
    let known = store.snapshot().get(KEY).map(|kv| kv.decode::<Origin>()).transpose()?;
    let wall = Timestamp::wall();
    let region = match &known {
        Some(origin) => {
            let elapsed = wall.millis_since(origin.wall).max(0);
            origin.region.plus_millis(elapsed.saturating_mul(i64::from(origin.scale)))
        }
        None => wall,
    };
    let unchanged = known.as_ref().is_some_and(|origin| origin.scale == scale);
    if !unchanged && (scale != 1 || region > wall) {
        let origin = Origin { v: 1, wall, region, scale };
        store.txn(store::Txn::write(vec![store::Op::put(KEY, &origin)?])).await?;
        return Ok(Clock::Scaled { wall, region, scale });
    }
    Ok(match known {
        Some(origin) if unchanged => {
            Clock::Scaled { wall: origin.wall, region: origin.region, scale }
        }
        _ => Clock::wall(),
    })
}

fn driver(
    options: &Serve,
    data: &Path,
    clock: &Clock,
    (blob_config, blobs): (block::Config, &block::Blobs),
    keys: &Arc<dyn Keys>,
    direct: &Arc<block::Direct>,
    endpoints: &node::endpoint::Endpoints,
) -> Result<Arc<dyn base::machine::Driver>> {
    let simulated = || -> Result<Arc<dyn base::machine::Driver>> {
        let launch = Duration::from_millis(options.sim_launch_time);
        let cut = node::sim::cut_into(blobs.clone(), Arc::clone(keys));
        let tasks = |announce| {
            let (blobs, keys, direct) = (blobs.clone(), Arc::clone(keys), Arc::clone(direct));
            let runtime = tokio::runtime::Handle::current();
            node::volume::Tasks::new(data, blobs, keys, direct, runtime, announce)
        };
        let driver = node::sim::Driver::new(clock.clone(), launch, cut).with_tasks(tasks)?;
        Ok(Arc::new(driver))
    };
    let real = || -> Result<Arc<dyn base::machine::Driver>> {
        // QEMU runs unprivileged and reaches its files through this directory.
        let mode = std::fs::metadata(data)?.permissions().mode();
        std::fs::set_permissions(data, std::fs::Permissions::from_mode(mode | 0o011))?;
        let mut network = net::Config::new(data.join("net"));
        network.public_pool = options.public_pool;
        network.name_prefix.clone_from(&options.network.network_prefix);
        let config = node::qemu::Config {
            data_dir: data.to_path_buf(),
            images_dir: data.join("images"),
            vm_memory_max: options.vm_memory_max,
            accelerator: match options.accelerator {
                Accelerator::Auto => node::qemu::Accelerator::Auto,
                Accelerator::Kvm => node::qemu::Accelerator::Kvm,
                Accelerator::Tcg => node::qemu::Accelerator::Tcg,
            },
            clock: clock.clone(),
            network,
            endpoints: endpoints.clone(),
            volumes: node::volume::Config {
                data_dir: data.to_path_buf(),
                blobs: blobs.clone(),
                blob_config,
                direct: Arc::clone(direct),
                keys: Arc::clone(keys),
                storage: std::env::current_exe()?,
                throttled: options.volume_throttle == Switch::On,
                fill_after: node::volume::FILL_AFTER,
            },
        };
        Ok(node::qemu::Driver::start(config)?)
    };
    match options.driver {
        Driver::Sim => simulated(),
        Driver::Qemu => real().context("the qemu driver cannot start (gureum doctor says more)"),
        Driver::Auto => match real() {
            Ok(driver) => Ok(driver),
            Err(error) => {
                tracing::warn!("instances are simulated, since {error:#}");
                simulated()
            }
        },
    }
}

/// Makes the root's access key at the first start.
async fn root_key(environment: &Environment, store: &dyn Store, data: &Path) -> Result<()> {
    let account = environment.account_id.as_str();
    let key = match iam::access_key::root(&store.snapshot(), account)? {
        Some(key) => key,
        None => {
            let (id, secret) = credentials::generate()?;
            let identity = Identity::root(account);
            let mut call =
                Call::new(environment, store.snapshot(), "aws-global", &identity, "start");
            let key = iam::access_key::create_root(&mut call, &id, &secret);
            store.txn(call.into_parts()?.0).await?;
            key
        }
    };
    credentials::write(data, &key)
}
