//! The programs for containers of another engine: loaded beside the others, with
//! tables of their own, and pinned nowhere. They and their tables end with the
//! process that loaded them, however it ends.

use std::{collections::BTreeMap, fmt};

use aya::{
    EbpfLoader,
    programs::{
        LinkOrder,
        links::FdLink,
        tc::{TcAttachOptions, TcAttachType},
    },
};
use netdp_common::maps::{Config, MAX_OTHERS, ORDER_PER_FLOW, config_flags, name};

use super::{
    BpfError, Counters, Datapath, Mechanism, OBJECT, Options, Role,
    blocked::Blocked,
    datapath::{classifier, load_programs},
    layout::Layout,
    maps::Maps,
};

/// How the names of these programs begin.
const PREFIX: &str = "acc_";

/// Tables that these programs don't use, each with one entry.
const UNUSED: [&str; 25] = [
    name::LINKS4,
    name::LINKS6,
    name::RANGES4,
    name::RANGES6,
    name::BACK_RANGES4,
    name::BACK_RANGES6,
    name::FRAGS4,
    name::FRAGS6,
    name::SOCKS4,
    name::SOCKS6,
    name::CALLS4,
    name::CALLS6,
    name::TIMES,
    name::SOCKETS,
    name::PAIRS,
    name::SHORT,
    name::BUCKETS4,
    name::BUCKETS6,
    name::HEARD4,
    name::HEARD6,
    name::MEMBERS4,
    name::MEMBERS6,
    "early",
    "early_groups",
    "refusals",
];

/// Tables that they have in common with netdp's own programs, where there are
/// any.
const SHARED: [&str; 3] = [name::BLOCKING, name::BLOCKED4, name::BLOCKED6];

/// Whether a program is one of these.
pub(super) fn is_one(program: &str) -> bool {
    program.starts_with(PREFIX)
}

/// The programs of an interface in this role, with their hooks.
fn programs(role: Role) -> &'static [(&'static str, TcAttachType)] {
    match role {
        Role::Uplink => &[
            ("acc_netdev_in", TcAttachType::Ingress),
            ("acc_netdev_out", TcAttachType::Egress),
        ],
        Role::Endpoint => &[("acc_container", TcAttachType::Ingress)],
    }
}

/// The loaded programs, their tables, and the interfaces that they are on.
pub struct Accelerated {
    datapath: Datapath,
    counters: Counters,
    /// The programs go with their links.
    links: BTreeMap<(u32, Role), Vec<FdLink>>,
}

impl fmt::Debug for Accelerated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accelerated")
            .field("links", &self.links.keys())
            .finish_non_exhaustive()
    }
}

impl Accelerated {
    /// Loads the programs, attached to nothing, with empty tables.
    ///
    /// # Errors
    /// [`BpfError::NoTcx`], and what the kernel refused.
    pub fn load(options: &Options) -> Result<Self, BpfError> {
        if options.mechanism.unwrap_or_else(Mechanism::of_this_kernel) != Mechanism::Tcx {
            return Err(BpfError::NoTcx);
        }
        let mut loader = EbpfLoader::new();
        loader
            .override_global("HOST_NETNS", &options.netns_cookie, true)
            .map_max_entries(name::FLOWS4, options.max_flows)
            .map_max_entries(name::FLOWS6, options.max_flows)
            .map_max_entries(name::ORDER4, options.max_flows * ORDER_PER_FLOW)
            .map_max_entries(name::ORDER6, options.max_flows * ORDER_PER_FLOW)
            .map_max_entries(name::OTHERS4, MAX_OTHERS)
            .map_max_entries(name::OTHERS6, MAX_OTHERS);
        for unused in UNUSED {
            loader.map_max_entries(unused, 1);
        }
        // What netdp's own programs drop must not be taken before them.
        let layout = Layout::of(&options.bpffs);
        let shared = SHARED.map(|map| (map, layout.map(map)));
        for (map, path) in shared.iter().filter(|(_, path)| path.exists()) {
            loader.map_pin_path(map, path.as_path());
        }
        let mut ebpf = loader.load(OBJECT).map_err(|source| BpfError::Load {
            source: Box::new(source),
        })?;
        load_programs(&mut ebpf, |name| is_one(name) || name == "sweep_start")?;
        let counters = Counters::of(&ebpf)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let config = Self::patient(options.config);
        maps.set_config(&config)?;
        let mut datapath = Datapath {
            ebpf,
            maps,
            blocked: None,
            // Nothing is pinned.
            layout,
            mechanism: Mechanism::Tcx,
            netkit: false,
            attached: BTreeMap::new(),
            xdp: BTreeMap::new(),
            config,
            uplinks: Default::default(),
            cgroup: None,
            joins: false,
            guards: false,
        };
        datapath.derive()?;
        datapath.start_sweeper()?;
        Ok(Self {
            datapath,
            counters,
            links: BTreeMap::new(),
        })
    }

    /// Times as conntrack has them (`nf_conntrack_proto_tcp.c` and
    /// `nf_conntrack_proto_udp.c`, 6.12), so that no conversation is forgotten
    /// that it would have kept.
    #[must_use]
    pub fn patient(config: Config) -> Config {
        Config {
            tcp_established: 5 * 24 * 3600,
            tcp_transitory: 120,
            flags: config_flags::OTHERS,
            ..config
        }
    }

    /// The tables, and the programs to be tried.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// What they count, for whoever asks.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// The same, to be changed.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Tables and programs by themselves, attached to nothing.
    pub fn into_datapath(mut self) -> Datapath {
        // Where nothing is pinned they are its own.
        self.datapath.blocked = Blocked::take(&mut self.datapath.ebpf).ok();
        self.datapath
    }

    /// The interfaces that have programs.
    pub fn attached(&self) -> impl Iterator<Item = (u32, Role)> {
        self.links.keys().copied()
    }

    /// Attaches the programs of a role, before all others. Nothing where they
    /// are there already.
    ///
    /// # Errors
    /// What the kernel refused; then none of them is attached.
    pub fn attach(&mut self, ifname: &str, ifindex: u32, role: Role) -> Result<(), BpfError> {
        if self.links.contains_key(&(ifindex, role)) {
            return Ok(());
        }
        let mut links = Vec::new();
        for (name, hook) in programs(role) {
            let failed = |source| BpfError::Attach {
                name,
                target: ifname.to_owned(),
                source: Box::new(source),
            };
            let program = classifier(&mut self.datapath.ebpf, name)?;
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program
                .attach_with_options(ifname, *hook, order)
                .map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            let link: FdLink = link.try_into().map_err(|source| BpfError::Link {
                path: ifname.into(),
                source: Box::new(source),
            })?;
            links.push(link);
        }
        self.links.insert((ifindex, role), links);
        Ok(())
    }

    /// Takes the programs of a role off an interface, if they are there.
    pub fn detach(&mut self, ifindex: u32, role: Role) {
        self.links.remove(&(ifindex, role));
    }

    /// Takes all programs off, those that decide what comes in first.
    pub fn detach_all(&mut self) {
        self.links.retain(|(_, role), _| *role != Role::Uplink);
        self.links.clear();
    }
}
