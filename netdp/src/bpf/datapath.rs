//! The loaded datapath: opening, adopting and letting go of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapInfo},
    programs::{
        Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, tc::TcAttachType,
    },
};
use netdp_common::maps::{Config, ORDER_PER_FLOW, name};

use super::{
    BpfError, OBJECT, accelerated,
    attach::{self, Attachment},
    blocked::Blocked,
    cgroup, direct, joined,
    kernel_types::Offsets,
    layout::Layout,
    link, linkage,
    maps::Maps,
    netkit, pin, renew,
    xdp::DriverProgram,
};

/// What the programs on an interface are for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Uplink,
    Endpoint,
}

impl Role {
    pub(super) const ALL: [Self; 2] = [Self::Uplink, Self::Endpoint];

    /// The programs of an interface in this role, with their hooks.
    pub(super) fn programs(self) -> [(&'static str, TcAttachType); 2] {
        match self {
            Self::Uplink => [
                ("from_netdev", TcAttachType::Ingress),
                ("to_netdev", TcAttachType::Egress),
            ],
            Self::Endpoint => [
                ("from_container", TcAttachType::Ingress),
                ("to_container", TcAttachType::Egress),
            ],
        }
    }

    /// How programs are attached to an interface in this role, where uplinks
    /// have `uplinks`.
    ///
    /// A tcx link has the kernel wait until all CPUs have left what they were
    /// at (`tcx_entry_sync`, 6.6), whenever it comes or goes and while nobody
    /// else can change an interface; filters don't wait.
    fn mechanism(self, uplinks: Mechanism) -> Mechanism {
        match self {
            Self::Uplink => uplinks,
            Self::Endpoint => Mechanism::Clsact,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uplink => "uplink",
            Self::Endpoint => "endpoint",
        })
    }
}

/// How programs are attached to uplinks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// tcx links, first in order (Linux 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

impl Mechanism {
    /// What this kernel offers.
    pub fn of_this_kernel() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }
}

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// A mounted bpffs; `netdp/` is made in it.
    pub bpffs: PathBuf,
    /// Root of the control groups whose sockets reach published ports at the
    /// host's own addresses; none leaves that out.
    pub cgroup: Option<PathBuf>,
    /// Cookie of the host's network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// Entries of the flow table of each family.
    pub max_flows: u32,
    pub config: Config,
    /// Takes this mechanism for uplinks even where the kernel has a better one.
    pub mechanism: Option<Mechanism>,
    /// Loads the program for netkit devices, which kernels without them have no
    /// use for.
    pub netkit: bool,
}

/// Programs and maps, loaded and pinned.
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    /// None where the tables are another datapath's.
    pub(super) blocked: Option<Blocked>,
    pub(super) layout: Layout,
    pub(super) mechanism: Mechanism,
    /// The program for netkit devices is loaded.
    pub(super) netkit: bool,
    pub(super) attached: BTreeMap<u32, Role>,
    pub(super) xdp: BTreeMap<u32, DriverProgram>,
    pub(super) config: Config,
    pub(super) uplinks: BTreeSet<u32>,
    /// Where programs for sockets are attached.
    pub(super) cgroup: Option<PathBuf>,
    /// Sockets are being joined.
    pub(super) joins: bool,
    /// [`guard_listeners`](Self::guard_listeners) has done it.
    pub(super) guards: bool,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("layout", &self.layout)
            .field("mechanism", &self.mechanism)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the datapath, or adopts what an earlier daemon left: then flows,
    /// tables and attachments stay, and the programs are replaced one by one,
    /// each without a gap.
    ///
    /// Where the pinned maps are not those of this program, new ones take their
    /// place; with any but [a few](renew::MAPS) flows are lost.
    ///
    /// # Errors
    /// What the kernel refused. What was pinned before stays as it is.
    pub fn open(options: &Options) -> Result<Self, BpfError> {
        let layout = Layout::of(&options.bpffs);
        let staging = Layout::staging(&options.bpffs);
        staging.remove()?;
        let mechanism = options.mechanism.unwrap_or_else(Mechanism::of_this_kernel);
        if layout.exists()
            && let Some(maps) = to_renew(&layout, options)
        {
            let aside = renew::Aside::put(&layout, &maps)?;
            let mut loaded = match load(&layout, options) {
                Ok(loaded) => loaded,
                Err(error) => {
                    aside.put_back();
                    return Err(error);
                }
            };
            aside.forget()?;
            pin::replace_programs(&mut loaded.0, &layout)?;
            return Self::take_over(loaded, layout, mechanism, options);
        }
        staging.create()?;
        let made = load(&staging, options).and_then(|mut loaded| {
            pin::pin_programs(&mut loaded.0, &staging)?;
            Ok(loaded)
        });
        let loaded = made.inspect_err(|_| {
            if let Err(error) = staging.remove() {
                tracing::warn!("{error}");
            }
        })?;
        if layout.exists() {
            tracing::warn!(
                "pinned maps are missing or were made by another version: flows and their connections \
                 are lost"
            );
            pin::move_links(&layout, &staging)?;
            layout.remove()?;
        }
        staging.rename_to(&layout)?;
        Self::take_over(loaded, layout, mechanism, options)
    }

    /// Puts the loaded programs in the place of those attached.
    fn take_over(
        (mut ebpf, unable): Loaded,
        layout: Layout,
        mechanism: Mechanism,
        options: &Options,
    ) -> Result<Self, BpfError> {
        let mut maps = Maps::take(&mut ebpf)?;
        maps.members.unable = unable;
        let blocked = Some(Blocked::take(&mut ebpf)?);
        let mut datapath = Self {
            ebpf,
            maps,
            blocked,
            layout,
            mechanism,
            netkit: options.netkit,
            attached: BTreeMap::new(),
            xdp: BTreeMap::new(),
            config: options.config,
            uplinks: BTreeSet::new(),
            cgroup: options.cgroup.clone(),
            joins: false,
            guards: false,
        };
        datapath.derive()?;
        tracing::debug!("programs are attached by {mechanism}");
        for (ifindex, role) in datapath.layout.attached()? {
            if datapath.renew(ifindex, role)? {
                datapath.attached.insert(ifindex, role);
            }
        }
        datapath.renew_xdp()?;
        if let Some(cgroup) = &options.cgroup {
            cgroup::attach(&mut datapath.ebpf, &datapath.layout, cgroup)?;
            direct::attach(&mut datapath.ebpf, &datapath.layout, cgroup)?;
        }
        datapath.adopt_guard()?;
        datapath.adopt_joining()?;
        datapath.start_sweeper()?;
        Ok(datapath)
    }

    /// Replaces the programs on an interface; false where it is gone.
    fn renew(&mut self, ifindex: u32, role: Role) -> Result<bool, BpfError> {
        match attach::interface_name(ifindex) {
            Some(name) => self.attach_programs(&name, ifindex, role).map(|()| true),
            None => self.detach(ifindex, role).map(|()| false),
        }
    }

    /// The timer's memory is taken without waiting for locks (`kmalloc_nolock` in
    /// `__bpf_async_init`, 6.18), which fails where another holds one just then.
    pub(super) fn start_sweeper(&mut self) -> Result<(), BpfError> {
        const TRIES: u32 = 50;
        const PAUSE: Duration = Duration::from_millis(2);

        for _ in 1..TRIES {
            match self.run_sweep_start()? {
                0 => return Ok(()),
                libc::ENOMEM => thread::sleep(PAUSE),
                errno => return Err(BpfError::Sweep(io::Error::from_raw_os_error(errno))),
            }
        }
        Err(BpfError::Sweep(io::Error::from_raw_os_error(libc::ENOMEM)))
    }

    /// 0, or the number of the kernel's error.
    fn run_sweep_start(&mut self) -> Result<i32, BpfError> {
        let program = classifier(&mut self.ebpf, "sweep_start")?;
        // The smallest packet that test_run takes is an Ethernet header.
        let packet = [0u8; 64];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::default()
            })
            .map_err(|source| BpfError::Program {
                name: "sweep_start".to_owned(),
                source: Box::new(source),
            })?;
        Ok(result.return_value as i32)
    }

    /// Attaches the programs of a role, first in order. Those that are there
    /// already are replaced.
    ///
    /// # Errors
    /// What the kernel refused; then no program is attached.
    pub fn attach(&mut self, ifname: &str, ifindex: u32, role: Role) -> Result<(), BpfError> {
        if let Err(error) = self.attach_programs(ifname, ifindex, role) {
            let _ = self.detach(ifindex, role);
            return Err(error);
        }
        self.attached.insert(ifindex, role);
        Ok(())
    }

    fn attach_programs(&mut self, ifname: &str, ifindex: u32, role: Role) -> Result<(), BpfError> {
        for (name, hook) in role.programs() {
            let path = self.layout.link(ifindex, name);
            let program = classifier(&mut self.ebpf, name)?;
            attach::attach(
                program,
                &Attachment {
                    program: name,
                    ifname,
                    hook,
                    pin: &path,
                },
                role.mechanism(self.mechanism),
            )?;
        }
        if role == Role::Endpoint && self.netkit {
            let path = self.layout.link(ifindex, netkit::PROGRAM);
            let program = classifier(&mut self.ebpf, netkit::PROGRAM)?;
            netkit::attach(program, ifname, ifindex, &path)?;
        }
        Ok(())
    }

    /// Detaches the programs of a role; also where the interface is gone, or
    /// they were not attached.
    pub fn detach(&mut self, ifindex: u32, role: Role) -> Result<(), BpfError> {
        for (name, hook) in role.programs() {
            attach::detach(&self.layout.link(ifindex, name), ifindex, name, hook)?;
        }
        if role == Role::Endpoint {
            link::detach_and_unpin(&self.layout.link(ifindex, netkit::PROGRAM))?;
        }
        self.attached.remove(&ifindex);
        Ok(())
    }

    /// The interfaces that programs are attached to.
    pub fn attached(&self) -> BTreeMap<u32, Role> {
        self.attached.clone()
    }

    /// Where the maps are pinned.
    pub fn maps_folder(&self) -> PathBuf {
        self.layout.maps()
    }

    /// The control group of direct sockets, where there is one.
    pub fn direct_cgroup(&self) -> Option<PathBuf> {
        self.cgroup.as_deref().map(direct::direct_cgroup)
    }

    /// How programs are attached to uplinks.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Detaches and unpins everything that is pinned under a bpffs.
    pub fn unload(bpffs: &Path) -> Result<(), BpfError> {
        Layout::staging(bpffs).remove()?;
        let layout = Layout::of(bpffs);
        if !layout.exists() {
            return Ok(());
        }
        for (ifindex, role) in layout.attached()? {
            for (name, hook) in role.programs() {
                attach::detach(&layout.link(ifindex, name), ifindex, name, hook)?;
            }
        }
        for pin in layout.pinned_links()? {
            link::detach_and_unpin(&pin)?;
        }
        layout.remove()
    }
}

/// What was loaded, and why it joins no sockets.
type Loaded = (Ebpf, Option<String>);

/// The classifier of that name.
pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, BpfError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| BpfError::Missing(format!("program {name}")))
}

/// Loads every program but the [`accelerated`] ones, with the maps that are
/// pinned in `layout`, or new ones pinned there. Makes the control group of direct
/// sockets, whose number they are told.
fn load(layout: &Layout, options: &Options) -> Result<Loaded, BpfError> {
    let group = options.cgroup.as_deref().map(direct::Group::make);
    let group = group.transpose()?;
    let loaded = load_for(layout, options, group.as_ref().map_or(0, |group| group.id));
    if let (Err(_), Some(group)) = (&loaded, group) {
        group.undo();
    }
    loaded
}

fn load_for(layout: &Layout, options: &Options, direct_group: u64) -> Result<Loaded, BpfError> {
    let offsets = Offsets::of_this_kernel();
    let (tcp_sock, datagram) = (offsets.tcp_sock, direct::datagram(offsets));
    let mut loader = EbpfLoader::new();
    if let Some(offsets) = &tcp_sock {
        joined::tell(&mut loader, offsets);
    }
    if let Some(offsets) = &datagram {
        direct::tell(&mut loader, offsets);
    }
    loader
        .override_global("HOST_NETNS", &options.netns_cookie, true)
        .override_global("DIRECT_GROUP", &direct_group, true)
        .map_max_entries(name::FLOWS4, options.max_flows)
        .map_max_entries(name::FLOWS6, options.max_flows)
        .map_max_entries(name::ORDER4, options.max_flows * ORDER_PER_FLOW)
        .map_max_entries(name::ORDER6, options.max_flows * ORDER_PER_FLOW)
        .verifier_log_level(VerifierLogLevel::STATS);
    let pins: Vec<_> = pin::MAPS.iter().map(|name| layout.map(name)).collect();
    for (name, path) in pin::MAPS.iter().zip(&pins) {
        loader.map_pin_path(name, path.as_path());
    }
    let object = linkage::suited(OBJECT)
        .map_err(|error| BpfError::Missing(format!("a readable symbol table ({error})")))?;
    let mut ebpf = loader.load(&object).map_err(|source| BpfError::Load {
        source: Box::new(source),
    })?;
    load_programs(&mut ebpf, |name| {
        !accelerated::is_one(name)
            && !joined::is_one(name)
            && (options.netkit || name != netkit::PROGRAM)
    })?;
    let unable = joined::load(&mut ebpf, tcp_sock.as_ref());
    Ok((ebpf, unable))
}

/// Hands the programs of these names to the kernel.
pub(super) fn load_programs(
    ebpf: &mut Ebpf,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), BpfError> {
    for (name, program) in ebpf.programs_mut() {
        if !wanted(name) {
            continue;
        }
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            Program::SocketFilter(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::SkMsg(program) => program.load(),
            Program::Xdp(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        loaded.map_err(|source| BpfError::Program {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        // How near a program is to the limit of 1,000,000 differs by kernel.
        if let Some(count) = program
            .info()
            .ok()
            .and_then(|it| it.verified_instruction_count())
        {
            tracing::debug!("program {name}: {count} instructions verified");
        }
    }
    Ok(())
}

/// The maps that are to be made anew; none where those of flows would have to be.
fn to_renew(layout: &Layout, options: &Options) -> Option<Vec<&'static str>> {
    let others = pin::MAPS
        .iter()
        .filter(|map| !is_compatible(layout, map, options));
    others
        .map(|map| renew::MAPS.contains(map).then_some(*map))
        .collect()
}

/// Whether a map is pinned and has the shape that this program expects. aya takes
/// a pinned map as it is, whatever its key and value.
fn is_compatible(layout: &Layout, map: &str, options: &Options) -> bool {
    let Ok(info) = MapInfo::from_pin(layout.map(map)) else {
        return false;
    };
    let Some(shape) = pin::shape(map) else {
        return false;
    };
    let entries = match map {
        name::FLOWS4 | name::FLOWS6 => options.max_flows,
        name::ORDER4 | name::ORDER6 => options.max_flows * ORDER_PER_FLOW,
        _ => shape.entries,
    };
    info.key_size() == shape.key
        && info.value_size() == shape.value
        && info.max_entries() == entries
}

/// Takes a map out of the loaded object.
pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, BpfError> {
    ebpf.take_map(name)
        .ok_or_else(|| BpfError::Missing(format!("map {name}")))
}

/// Removes a pin; it may be gone already.
pub(super) fn unpin(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::io("unpin", path)(error))
        }
        _ => Ok(()),
    }
}
