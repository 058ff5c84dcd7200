//! Brings the host to where the state wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

use crate::{
    bpf::{BpfError, DriverProgram, Xdp, clock},
    model::State,
    netlink::{FollowedLinks, NetlinkError},
    plan::{self, ALIAS, Clock, Conflict, Desired, Facts, Observed, Plan},
};

use super::{
    apply::{ApplyError, Target},
    host::Host,
    members::{self, Cookies},
};

#[derive(Debug, Error)]
pub enum EngineError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(
        "its frames have no Ethernet header, as those of tun, WireGuard and PPP, and netdp reads \
         and writes one: name another interface by --uplink, such as a tap or a VXLAN through \
         the same tunnel"
    )]
    NoEthernet,
    #[error("{0}")]
    NoSockmap(String),
}

/// What the kernel announces of links leaves little out: that is looked at, too,
/// but no more often than this.
const LINKS_LISTED: Duration = Duration::from_secs(10);

/// What to do when an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    /// Stop, for the request to be undone. What failed already before the
    /// request is none of its business.
    Stops,
    /// Note it and go on.
    IsNoted,
}

/// Plans and applies, and remembers what it can't do.
pub struct Engine {
    target: Target,
    links: FollowedLinks,
    /// Uplinks that were asked for; empty for those of the default route.
    uplinks: Vec<String>,
    /// Whether packets are dropped in the drivers of uplinks.
    xdp: Xdp,
    observed: Observed,
    facts: Facts,
    /// What should be done and can't be, with the reason.
    problems: BTreeMap<String, String>,
    cookies: Cookies,
}

impl Engine {
    /// Reads what the datapath holds.
    pub fn new(target: Target, uplinks: Vec<String>, xdp: Xdp) -> Result<Self, EngineError> {
        let observed = Observed {
            attached: target.datapath.attached(),
            tables: target.datapath.tables()?,
            ..Observed::default()
        };
        Ok(Self {
            links: FollowedLinks::new(&target.netlink)?,
            target,
            uplinks,
            xdp,
            observed,
            facts: Facts::default(),
            problems: BTreeMap::new(),
            cookies: Cookies::default(),
        })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Uplinks that were asked for.
    pub fn asked_uplinks(&self) -> &[String] {
        &self.uplinks
    }

    /// What should be done and can't be, with the reason.
    pub fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// Looks at the host anew.
    pub async fn look(&mut self, state: &State) -> Result<Host, NetlinkError> {
        self.links.list_after(LINKS_LISTED);
        for ifindex in self.sized() {
            self.links.ask_again(ifindex);
        }
        let links = self.links.now().await?;
        let host = Host::with_links(links, &self.target.netlink).await?;
        self.facts = host.facts(&self.uplinks, ALIAS);
        self.facts.xdp = self.xdp;
        self.observed = host.observed(
            std::mem::take(&mut self.observed.attached),
            std::mem::take(&mut self.observed.tables),
            self.target.holds.held(),
        );
        let drivers = self.target.datapath.xdp().iter();
        let attached = drivers.filter(|(_, program)| **program == DriverProgram::Attached);
        self.observed.xdp = attached.map(|(ifindex, _)| *ifindex).collect();
        self.observed.clock = self.clock(state);
        let strange = self.observed.of_other_states(&state.instance);
        if strange > 0 {
            tracing::warn!(
                "{strange} links here were made for another state than this daemon's: they are taken \
                 away, and what had them is without a network until a daemon has that state again"
            );
        }
        Ok(host)
    }

    /// Links of which it matters how large their packets may be, which the kernel
    /// doesn't announce.
    fn sized(&self) -> BTreeSet<u32> {
        let links = self.observed.links.values();
        let big = links.filter(|link| link.packet_limit.without_ours().is_some());
        let uplinks = self.facts.uplinks.iter().map(|uplink| uplink.ifindex);
        big.map(|link| link.ifindex).chain(uplinks).collect()
    }

    /// The programs' clock, and the longest time of a flow that is silent and
    /// not an open connection.
    fn clock(&self, state: &State) -> Clock {
        let times = self.target.datapath.config().unwrap_or_default();
        let own = state.networks.values().flat_map(|network| {
            let times = network.timeouts;
            [times.udp, times.tcp_transitory].into_iter().flatten()
        });
        let longest = own.max().unwrap_or(0);
        Clock {
            now: clock::now(),
            quiet: longest.max(times.udp).max(times.tcp_transitory),
        }
    }

    /// Makes the host what `state` wants; the first thing that fails stops it.
    /// To be called right after [`look`](Self::look).
    pub async fn change(&mut self, state: &State) -> Result<(), EngineError> {
        self.converge(state, Failure::Stops).await
    }

    /// Makes the host what `state` wants as far as it goes. What can't be done
    /// is logged once and kept in [`problems`](Self::problems).
    pub async fn repair(&mut self, state: &State) -> Result<(), NetlinkError> {
        self.look(state).await?;
        // Never fails, since failures are noted.
        if let Err(error) = self.converge(state, Failure::IsNoted).await {
            tracing::error!("{error}");
        }
        Ok(())
    }

    async fn converge(&mut self, state: &State, failure: Failure) -> Result<(), EngineError> {
        let desired = Desired::of(state, &self.facts);
        self.target.holds.release_parts(&desired.holds);
        let mut planned = BTreeSet::new();
        for ifname in self.facts.headerless.clone() {
            let what = format!("use {ifname} as an uplink");
            planned.insert(what.clone());
            // Whatever was requested can be done nevertheless.
            self.failed(what, EngineError::NoEthernet, Failure::IsNoted)?;
        }
        let links = plan::links(&desired, &self.observed);
        self.execute(links, failure, &mut planned).await?;
        let tables = Plan {
            ops: plan::tables(&desired, &self.observed),
            conflicts: Vec::new(),
        };
        self.execute(tables, failure, &mut planned).await?;
        if let Err(error) = self.target.datapath.settle_ports() {
            tracing::warn!("cannot look for flows that have a published port: {error}");
        }
        self.join_sockets(state, &mut planned)?;
        self.problems.retain(|what, _| planned.contains(what));
        Ok(())
    }

    /// What can't be joined goes by the stack, so nothing is undone for it.
    fn join_sockets(
        &mut self,
        state: &State,
        planned: &mut BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let wanted = members::wanted(state, &mut self.cookies);
        let what = "join the sockets of networks with sockmap".to_owned();
        let datapath = &mut self.target.datapath;
        let unable = datapath.unable_to_join().map(str::to_owned);
        if let Some(why) = unable.filter(|_| !wanted.is_empty()) {
            planned.insert(what.clone());
            return self.failed(what, EngineError::NoSockmap(why), Failure::IsNoted);
        }
        match datapath.set_members(&wanted) {
            Ok(()) => Ok(()),
            Err(error) => {
                planned.insert(what.clone());
                self.failed(what, error.into(), Failure::IsNoted)
            }
        }
    }

    async fn execute(
        &mut self,
        plan: Plan,
        failure: Failure,
        planned: &mut BTreeSet<String>,
    ) -> Result<(), EngineError> {
        for conflict in plan.conflicts {
            let what = format!("use interface {}", conflict.ifname);
            planned.insert(what.clone());
            self.failed(what, conflict.into(), failure)?;
        }
        let mut ops = plan.ops.iter();
        let keeps_out = ops.any(|op| op.keeps_out_more(&self.observed));
        for op in plan.ops {
            let what = op.to_string();
            planned.insert(what.clone());
            tracing::debug!("{what}");
            match self.target.apply(&op, &self.observed).await {
                Ok(created) => {
                    self.problems.remove(&what);
                    self.observed.applied(&op, created);
                }
                // Who has more sources kept out asks for this, too, however often
                // it has failed.
                Err(error) if keeps_out && failure == Failure::Stops && op.is_at_driver() => {
                    return Err(error.into());
                }
                Err(error) => self.failed(what, error.into(), failure)?,
            }
        }
        Ok(())
    }

    fn failed(
        &mut self,
        what: String,
        error: EngineError,
        failure: Failure,
    ) -> Result<(), EngineError> {
        let text = error.to_string();
        if failure == Failure::Stops && !self.problems.contains_key(&what) {
            return Err(error);
        }
        if self.problems.get(&what) != Some(&text) {
            tracing::warn!("cannot {what}: {text}");
        }
        self.problems.insert(what, text);
        Ok(())
    }

    /// Gives uplinks back what they had before networks with BIG TCP: nobody
    /// sees to it while no daemon runs.
    pub async fn leave_uplinks(&mut self) {
        let ops = plan::packet_limits(&BTreeSet::new(), &self.observed);
        let plan = Plan {
            ops,
            conflicts: Vec::new(),
        };
        // Never fails, since failures are noted.
        let _ = self
            .execute(plan, Failure::IsNoted, &mut BTreeSet::new())
            .await;
    }

    /// Takes every link and program that belongs to `state` away.
    pub async fn remove_everything(&mut self, state: &State) -> Result<(), EngineError> {
        self.look(state).await?;
        let nothing = State {
            networks: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            ..state.clone()
        };
        self.facts = Facts::default();
        self.converge(&nothing, Failure::IsNoted).await
    }
}
