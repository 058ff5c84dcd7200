//! Loading, adopting, attaching and unloading on the running kernel. Needs
//! root.

use std::{
    collections::BTreeMap,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
};

use aya::{
    maps::{MapData, MapInfo},
    programs::{
        LinkOrder, SchedClassifier,
        links::FdLink,
        tc::{TcAttachOptions, TcAttachType},
    },
};
use netdp::{
    bpf::{
        Closed, Datapath, DriverProgram, Entry, Key, Mechanism, Options, Role, blocked_key,
        direct_cgroup,
    },
    netns::Namespace,
};
use netdp_common::{
    addr::{Be16, V4Addr, proto},
    maps::{Back, BackRange, Config, Delivery, LinkKey, MAX_CLOSED, PortKey, Published},
    range::{AllowKey, RangeKey},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A folder with a bpffs of its own and a namespace with a veth pair.
struct Bench {
    folder: tempfile::TempDir,
    namespace: Option<Namespace>,
}

impl Bench {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let bpffs = folder.path().join("bpf");
        std::fs::create_dir(&bpffs).unwrap();
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let namespace = Namespace::create(folder.path(), "host").unwrap();
        let status = namespace
            .command("ip")
            .args(["link", "add", "wire0", "type", "veth", "peer", "wire1"])
            .status()
            .unwrap();
        assert!(status.success());
        Some(Self {
            folder,
            namespace: Some(namespace),
        })
    }

    fn bpffs(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    fn options(&self) -> Options {
        Options {
            bpffs: self.bpffs(),
            cgroup: None,
            netns_cookie: self.namespace().cookie().unwrap(),
            max_flows: 1024,
            config: Config::default(),
            mechanism: None,
            netkit: false,
        }
    }

    fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().unwrap()
    }

    fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.namespace().run(f).unwrap()
    }

    /// What `tc` shows of the filters of a clsact qdisc.
    fn filters(&self, hook: &str) -> String {
        let mut command: Command = self.namespace().command("tc");
        let output = command
            .args(["filter", "show", "dev", "wire0", hook])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.namespace.take());
        umount2(&self.bpffs(), MntFlags::MNT_DETACH).unwrap();
    }
}

fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn port() -> (Key, Entry) {
    let key = PortKey::new(V4Addr::default(), Be16::new(8080), proto::TCP);
    let value = Published {
        addr: V4Addr::new([172, 17, 0, 2]),
        port: Be16::new(80),
        host_port: Be16::new(8080),
        to: Delivery::default(),
        back_addr: V4Addr::new([192, 0, 2, 1]),
        allow: 0,
        shared: 0,
        flags: 0,
        pad: 0,
    };
    (Key::Port4(key), Entry::Port4(value))
}

fn pins(bpffs: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(bpffs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // The kernel puts two iterators into every bpffs.
        .filter(|name| !name.ends_with(".debug"))
        .collect();
    names.sort();
    names
}

/// All that can be noted of sockets of UDP that lost their port.
#[test]
fn more_sockets_may_have_lost_their_port_than_can_be_noted() {
    let Some(bench) = Bench::new() else { return };
    let _datapath = Datapath::open(&bench.options()).unwrap();
    let maps = bench.bpffs().join("netdp/maps");
    let mut closed = Closed::open(&maps).unwrap();
    let all: Vec<u64> = (1..=u64::from(MAX_CLOSED)).collect();
    closed.close(&all).unwrap();
    closed.close(&all).unwrap();
    // One has no room, and the other is there.
    let full = closed.close(&[u64::MAX, 1]).unwrap_err().to_string();
    assert!(full.contains("closed"), "{full}");
    // Those that are gone make room.
    closed.forget_gone(&closed.cookies(), &all[1..]);
    closed.close(&[u64::MAX]).unwrap();
    closed.close(&[1]).unwrap_err();
    // What comes after they were read isn't known to be gone.
    let noted = closed.cookies();
    closed.forget_gone(&noted, &[]);
    closed.close(&[7]).unwrap();
    closed.forget_gone(&noted[..1], &[]);
    assert_eq!(closed.cookies(), [7]);
    closed.forget_gone(&[7], &[]);
    closed.close(&all).unwrap();
}

#[test]
fn what_a_daemon_leaves_is_adopted_by_the_next() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        let (key, entry) = port();
        let (any, first) = (V4Addr::default(), Be16::new(80));
        let left = BTreeMap::from([
            (key, entry),
            (
                Key::Link4(LinkKey::new(any, any, first, proto::TCP)),
                Entry::Link(7),
            ),
            (
                Key::Allow4(AllowKey::new(7, V4Addr::new([192, 0, 2, 0]), 24)),
                Entry::Allow(1),
            ),
            (
                blocked_key("198.51.100.0/24".parse().unwrap()),
                Entry::Blocked,
            ),
            (
                blocked_key("2001:db8:bad::/48".parse().unwrap()),
                Entry::Blocked,
            ),
            (
                Key::BackRange4(RangeKey::of_range(any, proto::TCP, 80, 89)),
                Entry::BackRange4(BackRange {
                    back: Back::new(any, Be16::new(9000), first),
                    span: 9,
                    prefix: 0,
                    pad: 0,
                }),
            ),
        ]);
        for (key, entry) in &left {
            datapath.put(key, entry).unwrap();
        }
        drop(datapath);
        assert_eq!(pins(&options.bpffs), ["netdp"]);

        let mut adopted = Datapath::open(&options).unwrap();
        assert_eq!(adopted.attached().get(&wire), Some(&Role::Uplink));
        assert_eq!(adopted.tables().unwrap(), left);
        for key in left.keys() {
            adopted.remove(key).unwrap();
            adopted.remove(key).unwrap();
        }
        assert!(adopted.tables().unwrap().is_empty());
        adopted.detach(wire, Role::Uplink).unwrap();
        adopted.detach(wire, Role::Uplink).unwrap();
        assert!(adopted.attached().is_empty());
        Datapath::unload(&options.bpffs).unwrap();
        assert!(pins(&options.bpffs).is_empty());
    });
}

#[test]
fn an_interface_that_went_while_no_daemon_ran_is_forgotten() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath
            .attach("wire0", ifindex("wire0"), Role::Endpoint)
            .unwrap();
    });
    let status = bench
        .namespace()
        .command("ip")
        .args(["link", "del", "wire0"])
        .status()
        .unwrap();
    assert!(status.success());
    bench.inside(|| {
        assert!(Datapath::open(&options).unwrap().attached().is_empty());
    });
}

#[test]
fn maps_of_another_shape_are_replaced_and_attachments_kept() {
    let Some(bench) = Bench::new() else { return };
    let mut options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        drop(datapath);
        options.max_flows = 2048;
        let datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.attached().get(&wire), Some(&Role::Uplink));
        assert_eq!(pins(&options.bpffs), ["netdp"]);
    });
}

/// A version that makes `own` in another shape takes over everything else.
#[test]
fn a_map_that_can_be_made_anew_is_and_the_others_stay() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    let maps = options.bpffs.join("netdp/maps");
    let own = || MapInfo::from_pin(maps.join("own")).unwrap();
    let id = |name: &str| MapInfo::from_pin(maps.join(name)).unwrap().id();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        let (key, entry) = port();
        datapath.put(&key, &entry).unwrap();
        drop(datapath);
        let (flows, shape) = (id("flows4"), own().max_entries());
        std::fs::remove_file(maps.join("own")).unwrap();
        std::fs::remove_file(maps.join("heard6")).unwrap();
        let other = MapData::from_pin(maps.join("full")).unwrap();
        other.pin(maps.join("own")).unwrap();

        // One that fails leaves it as it was.
        let mut failing = options.clone();
        failing.cgroup = Some("/nonexistent".into());
        Datapath::open(&failing).unwrap_err();
        assert_eq!(own().id(), id("full"));

        let adopted = Datapath::open(&options).unwrap();
        assert_eq!(adopted.attached().get(&wire), Some(&Role::Uplink));
        assert_eq!(adopted.tables().unwrap(), BTreeMap::from([(key, entry)]));
        assert_eq!((id("flows4"), own().max_entries()), (flows, shape));
        assert!(!pins(&maps).iter().any(|name| name.ends_with("_old")));
        id("heard6");
    });
}

#[test]
fn filters_of_a_clsact_qdisc_where_there_is_no_tcx() {
    let Some(bench) = Bench::new() else { return };
    let mut options = bench.options();
    options.mechanism = Some(Mechanism::Clsact);
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath
            .attach("wire0", ifindex("wire0"), Role::Uplink)
            .unwrap();
    });
    let filters = bench.filters("ingress").lines().count();
    assert!(bench.filters("ingress").contains("from_netdev"));
    assert!(bench.filters("egress").contains("to_netdev"));
    bench.inside(|| {
        let datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.attached().len(), 1);
    });
    assert_eq!(bench.filters("ingress").lines().count(), filters);
    bench.inside(|| Datapath::unload(&options.bpffs).unwrap());
    assert!(!bench.filters("ingress").contains("from_netdev"));
    assert!(!bench.filters("egress").contains("to_netdev"));
}

/// The programs that `tc` and the tcx hooks of `wire0` have for an endpoint.
fn of_endpoint(bench: &Bench) -> [(usize, usize); 2] {
    let hooks = [
        ("ingress", TcAttachType::Ingress, "from_container"),
        ("egress", TcAttachType::Egress, "to_container"),
    ];
    hooks.map(|(hook, at, program)| {
        let filters = bench.filters(hook);
        let filters = filters.lines().filter(|line| line.contains(program));
        let links = bench.inside(|| SchedClassifier::query_tcx("wire0", at).unwrap().1);
        (filters.count(), links.len())
    })
}

#[test]
fn programs_at_host_ends_are_filters() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    let open = || Datapath::open(&options).unwrap();
    bench.inside(|| {
        open()
            .attach("wire0", ifindex("wire0"), Role::Endpoint)
            .unwrap();
    });
    assert_eq!(of_endpoint(&bench), [(1, 0); 2]);
    bench.inside(|| {
        let mut datapath = open();
        assert_eq!(
            datapath.attached(),
            [(ifindex("wire0"), Role::Endpoint)].into()
        );
        // The filter is there already.
        datapath
            .attach("wire0", ifindex("wire0"), Role::Endpoint)
            .unwrap();
    });
    assert_eq!(of_endpoint(&bench), [(1, 0); 2]);
    bench.inside(|| Datapath::unload(&options.bpffs).unwrap());
    assert_eq!(of_endpoint(&bench), [(0, 0); 2]);
    assert!(pins(&options.bpffs).is_empty());
}

/// As daemons pinned them until endpoints had filters.
#[test]
fn links_at_host_ends_stay_and_get_the_new_program() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        drop(Datapath::open(&options).unwrap());
        let pinned = options.bpffs.join("netdp");
        for (name, hook) in [
            ("from_container", TcAttachType::Ingress),
            ("to_container", TcAttachType::Egress),
        ] {
            let path = pinned.join("progs").join(name);
            let mut program = SchedClassifier::from_pin(path).unwrap();
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options("wire0", hook, first).unwrap();
            let link: FdLink = program.take_link(id).unwrap().try_into().unwrap();
            let path = format!("links/{}-{name}", ifindex("wire0"));
            link.pin(pinned.join(path)).unwrap();
        }
    });
    let program = || {
        let at = TcAttachType::Ingress;
        bench.inside(|| SchedClassifier::query_tcx("wire0", at).unwrap().1[0].id())
    };
    let before = program();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.attached().len(), 1);
        datapath
            .attach("wire0", ifindex("wire0"), Role::Endpoint)
            .unwrap();
    });
    assert_eq!(of_endpoint(&bench), [(0, 1); 2]);
    assert_ne!(program(), before);
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath.detach(ifindex("wire0"), Role::Endpoint).unwrap();
    });
    assert_eq!(of_endpoint(&bench), [(0, 0); 2]);
}

/// `xdp` as `ip link` shows it: the id of the program in the driver.
fn program_id(bench: &Bench) -> Option<u64> {
    let mut command = bench.namespace().command("ip");
    let output = command.args(["-j", "link", "show", "wire0"]).output();
    let links: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    // Of a program in software the mode would be 2.
    assert!(
        links[0]["xdp"]["mode"]
            .as_u64()
            .is_none_or(|mode| mode == 1)
    );
    links[0]["xdp"]["prog"]["id"].as_u64()
}

#[test]
fn the_program_in_a_driver_is_replaced_by_the_next_daemons() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    let first = bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        datapath.attach_xdp("wire0", wire).unwrap();
        datapath.attach_xdp("wire0", wire).unwrap();
        program_id(&bench)
    });
    assert!(first.is_some());
    let second = bench.inside(|| {
        let datapath = Datapath::open(&options).unwrap();
        let of = datapath.xdp().get(&ifindex("wire0"));
        assert_eq!(of, Some(&DriverProgram::Attached));
        assert_eq!(datapath.attached().len(), 1);
        program_id(&bench)
    });
    assert!(second.is_some() && second != first);
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath.detach_xdp(ifindex("wire0")).unwrap();
        datapath.detach_xdp(ifindex("wire0")).unwrap();
        assert_eq!(program_id(&bench), None);
        datapath.attach_xdp("wire0", ifindex("wire0")).unwrap();
        drop(datapath);
        Datapath::unload(&options.bpffs).unwrap();
        assert_eq!(program_id(&bench), None);
    });
}

#[test]
fn a_program_of_somebody_else_in_the_driver_stays() {
    let Some(bench) = Bench::new() else { return };
    let (options, other) = (bench.options(), tempfile::tempdir().unwrap());
    let bpffs = other.path().join("bpf");
    std::fs::create_dir(&bpffs).unwrap();
    let none = None::<&str>;
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).unwrap();
    bench.inside(|| {
        let wire = ifindex("wire0");
        let theirs = Options {
            bpffs: bpffs.clone(),
            ..bench.options()
        };
        let mut theirs = Datapath::open(&theirs).unwrap();
        theirs.attach_xdp("wire0", wire).unwrap();
        let id = program_id(&bench);
        let mut datapath = Datapath::open(&options).unwrap();
        let refused = datapath.attach_xdp("wire0", wire).unwrap_err().to_string();
        assert!(
            refused.contains("of wire0: another XDP program"),
            "{refused}"
        );
        assert_eq!(program_id(&bench), id);
        let why = "another XDP program is attached to it".to_owned();
        let known = datapath.xdp().get(&wire);
        assert_eq!(known, Some(&DriverProgram::Refused(why)));
        // Once that is gone.
        Datapath::unload(&bpffs).unwrap();
        datapath.attach_xdp("wire0", wire).unwrap();
        // An interface without a driver of its own.
        let refused = datapath.attach_xdp("lo", ifindex("lo")).unwrap_err();
        assert!(refused.to_string().contains("of lo: "), "{refused}");
    });
    umount2(&bpffs, MntFlags::MNT_DETACH).unwrap();
}

/// A control group, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// How many programs see `connect` in it: `BPF_PROG_QUERY` of `bpf(2)`.
    fn programs(&self) -> u32 {
        /// `union bpf_attr`, `query` (`include/uapi/linux/bpf.h`, 4.15).
        #[repr(C)]
        #[derive(Default)]
        struct Query {
            target_fd: u32,
            attach_type: u32,
            query_flags: u32,
            attach_flags: u32,
            prog_ids: u64,
            prog_cnt: u32,
            pad: u32,
        }
        const BPF_PROG_QUERY: libc::c_long = 16;
        const BPF_CGROUP_INET4_CONNECT: u32 = 10;

        let folder = std::fs::File::open(&self.0).unwrap();
        let mut query = Query {
            target_fd: folder.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_INET4_CONNECT,
            ..Query::default()
        };
        // SAFETY: the kernel writes the flags and the count into `query`, and
        // no ids, as there is room for none.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_QUERY,
                &raw mut query,
                size_of::<Query>(),
            )
        };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
        query.prog_cnt
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let direct = direct_cgroup(&self.0);
        if direct.exists() {
            std::fs::remove_dir(direct).unwrap();
        }
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn another_control_group_takes_the_place_of_the_one_before() {
    let Some(bench) = Bench::new() else { return };
    let hierarchy = bench.folder.path().join("cgroup");
    std::fs::create_dir(&hierarchy).unwrap();
    mount(
        Some("cgroup2"),
        &hierarchy,
        Some("cgroup2"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let unique = bench.folder.path().file_name().unwrap().to_str().unwrap();
    let group = |name: &str| Group::new(hierarchy.join(format!("netdp-test{unique}-{name}")));
    let (first, second, third) = (group("first"), group("second"), group("third"));
    let open = |group: &Group| {
        let mut options = bench.options();
        options.cgroup = Some(group.0.clone());
        bench.inside(|| drop(Datapath::open(&options).unwrap()));
        let links = pins(&bench.bpffs().join("netdp/links"));
        assert_eq!(
            links,
            [
                "cgroup-connect4",
                "cgroup-connect6",
                "cgroup-direct_bind4",
                "cgroup-direct_bind6",
                "cgroup-direct_connect4",
                "cgroup-direct_connect6",
                "cgroup-direct_name4",
                "cgroup-direct_name6",
                "cgroup-direct_option",
                "cgroup-direct_recvmsg4",
                "cgroup-direct_recvmsg6",
                "cgroup-direct_sendmsg4",
                "cgroup-direct_sendmsg6",
                "cgroup-getpeername4",
                "cgroup-getpeername6",
                "cgroup-recvmsg4",
                "cgroup-recvmsg6",
                "cgroup-sendmsg4",
                "cgroup-sendmsg6",
            ]
        );
    };
    open(&first);
    assert_eq!((first.programs(), second.programs()), (1, 0));
    open(&first);
    assert_eq!((first.programs(), second.programs()), (1, 0));
    open(&second);
    assert_eq!((first.programs(), second.programs()), (0, 1));
    drop(second);
    open(&third);
    assert_eq!((first.programs(), third.programs()), (0, 1));
    bench.inside(|| Datapath::unload(&bench.bpffs()).unwrap());
    assert_eq!(third.programs(), 0);
    drop((first, third));
    umount2(&hierarchy, MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn counters_start_at_zero_and_a_full_map_says_so() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath.clear_stats(3).unwrap();
        assert_eq!(datapath.stats(3).unwrap().rx_packets, 0);
        assert!(
            datapath
                .drops()
                .unwrap()
                .iter()
                .all(|(_, count)| *count == 0)
        );
        assert!(datapath.flows::<V4Addr>().unwrap().is_empty());
        let uplink = netdp_common::maps::Uplink {
            mac: [0; 6],
            ..Default::default()
        };
        let error = (0..=netdp_common::maps::MAX_UPLINKS)
            .find_map(|index| {
                datapath
                    .put(&Key::Uplink(index), &Entry::Uplink(uplink))
                    .err()
            })
            .expect("the map takes no more than it says");
        assert!(error.to_string().contains("uplinks is full"), "{error}");
    });
}
