//! The daemon: keeps the desired state, and the host in line with it.
//!
//! The datapath lives in the kernel; the daemon may be killed, restarted and
//! replaced while packets flow. So it ends without taking anything down, and
//! starts by looking at what is there.

mod alone;
mod apply;
mod attachment;
mod bound;
pub mod change;
mod claim;
pub mod config;
pub mod direct;
mod ended;
pub mod engine;
pub mod environment;
mod guards;
mod hold;
pub(crate) mod host;
mod hosts;
mod leftovers;
mod members;
mod memory;
mod notify;
pub mod owner;
pub mod passed;
mod port_owner;
mod sandboxes;
mod together;
mod watch;

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures_util::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    accelerate::Accelerator,
    api::{listen::Socket, server},
    bpf::{self, Datapath, direct_cgroup},
    docker,
    netlink::{Change, Netlink},
    netns::Namespace,
    resolver::Resolver,
    store::Store,
};

use apply::Target;
use config::Options;
use direct::DirectPorts;
use engine::Engine;
use hold::Holds;
use owner::{Owner, Settings};

/// Changes of the network come in bursts; this long after the last of one, but
/// not longer than [`LONGEST_BURST`] after the first, they are looked at.
const QUIET: Duration = Duration::from_millis(50);
const LONGEST_BURST: Duration = Duration::from_millis(500);

/// How often what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to end.
pub fn run(options: Options) -> Result<()> {
    environment::check_privileges()?;
    // Before anything is made, so that a refusal leaves nothing.
    environment::check_cgroup(options.cgroup.as_deref())?;
    // Before anything is opened, so that the numbers are those that were passed.
    let passed = passed::docker()?;
    hold::raise_limit();
    runtime()?.block_on(async {
        // First of all, so that a second daemon changes nothing.
        let socket = Socket::bind(&options.run_dir)?;
        let _bpffs = environment::claim_bpffs(&options.bpffs)?;
        alone::claim()?;
        let docker = match (&options.docker_plugin, passed) {
            (Some(_), Some(listener)) => Some(
                Socket::passed(listener).context("cannot listen at the socket that was passed")?,
            ),
            (Some(path), None) => Some(Socket::bind_at(path.clone(), "--docker-plugin")?),
            (None, Some(_)) => {
                tracing::warn!(
                    "the service manager passed a socket for Docker, but this daemon is no driver: \
                     say so by --docker-plugin, or take the socket back with `netdp install \
                     docker --remove`"
                );
                None
            }
            (None, None) => None,
        };
        let owner = open(&options).await?;
        let netlink = Netlink::open()?;
        // Before the first look, so that nothing falls between.
        let changes = netlink.watch().await?;
        owner.start().await?;
        Accelerator::resume(&owner);
        let keeper = tokio::spawn(keep(Arc::clone(&owner), netlink, changes));
        let names = Arc::clone(&owner);
        let resolver = tokio::spawn(async move {
            names.resolver().keep(|| names.look_again()).await;
        });
        let filters = direct::listen(&options.run_dir)?;
        let site = owner.lock().await.direct().site().clone();
        // One for all: a later one would not hear of an earlier signal.
        let end = until_told_to_end()?.shared();
        let supervisors = tokio::spawn(direct::supervise(filters, site, end.clone()));
        let files = Arc::clone(&owner);
        let hosts = tokio::spawn(async move { files.hosts().keep().await });

        tracing::info!("listening at {}", socket.path().display());
        let driver = match docker {
            Some(socket) => {
                tracing::info!("Docker's driver is at {}", socket.path().display());
                let (owner, run_dir) = (Arc::clone(&owner), options.run_dir.clone());
                let served = docker::serve(socket, owner, run_dir, end.clone());
                Some(tokio::spawn(served))
            }
            None => None,
        };
        memory::give_back();
        notify::ready();
        let served = server::serve(socket, Arc::clone(&owner), end).await;
        if let Some(driver) = driver {
            driver.await?.context("cannot serve Docker's driver")?;
        }
        supervisors.await?;
        keeper.abort();
        resolver.abort();
        hosts.abort();
        // A change that is being made is finished first.
        owner.leave().await;
        tracing::info!("ending; networks stay as they are");
        served.context("cannot serve")
    })
}

/// Takes out of the kernel all that a daemon with these options made.
pub fn clean_up(options: &Options) -> Result<()> {
    environment::check_privileges()?;
    // Before anything is made, so that a refusal leaves nothing.
    environment::check_cgroup(options.cgroup.as_deref())?;
    runtime()?.block_on(async {
        // Refused while a daemon runs.
        let _socket = Socket::bind(&options.run_dir)?;
        let _bpffs = environment::claim_bpffs(&options.bpffs)?;
        alone::claim()?;
        let owner = open(options).await?;
        owner.forget_accelerations().await?;
        owner.remove_everything().await?;
        owner.lock().await.direct().withdraw();
        Datapath::unload(&options.bpffs)?;
        // Supervisors of programs that still run keep it.
        if let Some(cgroup) = &owner.settings().datapath.cgroup {
            let _ = fs::remove_dir(direct_cgroup(cgroup));
        }
        Ok(())
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

async fn open(options: &Options) -> Result<Arc<Owner>> {
    let cgroup = environment::cgroup(options.cgroup.as_deref(), &options.run_dir)?;
    environment::ensure_folder(&options.state_dir)?;
    let log_dir = options.state_dir.join("logs");
    environment::ensure_folder(&log_dir)?;
    environment::note_bpffs(&options.state_dir, &options.bpffs)?;
    let (store, damage) = Store::open(&options.state_dir)?;
    if let Some(damage) = &damage {
        let restored = match &damage.restored_from {
            Some(copy) => format!("restored from {}", copy.display()),
            None => "nothing could be restored".to_owned(),
        };
        tracing::error!("the store was damaged: {}; {restored}", damage.why);
    }
    let state = store.load()?;
    guards::check(&state, &cgroup, &options.bpffs)?;
    let direct = DirectPorts::new(&options.run_dir, &cgroup, &options.bpffs);
    direct.announce().context("cannot write the run folder")?;

    let datapath_options = bpf::Options {
        bpffs: options.bpffs.clone(),
        cgroup: Some(cgroup),
        netns_cookie: Namespace::current()?.cookie()?,
        max_flows: options.max_flows,
        config: options.datapath,
        mechanism: None,
        netkit: bpf::has_netkit(),
    };
    let datapath = Datapath::open(&datapath_options)?;
    let resolver = Resolver::new(datapath.loopback()?, options.upstreams.clone());
    let target = Target {
        netlink: Netlink::open()?,
        datapath,
        holds: Holds::default(),
    };
    let engine = Engine::new(target, options.uplinks.clone(), options.xdp)?;
    let settings = Settings {
        log_dir,
        bpffs: options.bpffs.clone(),
        pools: options.pools.clone(),
        network_options: options.network_options.clone(),
        datapath: datapath_options,
    };
    Ok(Owner::new(
        state, store, engine, settings, damage, resolver, direct,
    ))
}

/// Follows what others change on the host, and tries again what failed.
async fn keep(owner: Arc<Owner>, netlink: Netlink, mut changes: mpsc::Receiver<Change>) {
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(_) => settle(&mut changes).await,
                None => changes = watch_again(&netlink).await,
            },
            () = owner.dirty() => {}
            () = until_unsettled(&owner) => {}
        }
        if let Err(error) = owner.repair().await {
            tracing::error!("{error}");
        }
    }
}

/// Waits until it is time to try again, and there is something to try.
async fn until_unsettled(owner: &Owner) {
    loop {
        sleep(RETRY).await;
        if owner.lock().await.is_unsettled() {
            return;
        }
    }
}

/// Waits for the end of a burst of changes.
async fn settle(changes: &mut mpsc::Receiver<Change>) {
    let latest = Instant::now() + LONGEST_BURST;
    loop {
        let quiet = latest.min(Instant::now() + QUIET);
        match timeout_at(quiet, changes.recv()).await {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

async fn watch_again(netlink: &Netlink) -> mpsc::Receiver<Change> {
    loop {
        match netlink.watch().await {
            Ok(changes) => return changes,
            Err(error) => tracing::error!("{error}"),
        }
        sleep(RETRY).await;
    }
}

fn until_told_to_end() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
