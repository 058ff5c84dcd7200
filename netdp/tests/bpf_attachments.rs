//! Where programs are attached, by filters, links and in drivers, and how they are
//! replaced there, on the running kernel. Needs root.

mod bpf_world;

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use aya::programs::links::FdLink;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, SchedClassifier};
use bpf_world::{Bench, ifindex, pins};
use netdp::bpf::{Datapath, DriverProgram, Mechanism, Options, Role, direct_cgroup};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What `tc` shows of the filters of a clsact qdisc.
fn shown_by_tc(bench: &Bench, hook: &str) -> String {
    let mut command: Command = bench.namespace().command("tc");
    let output = command
        .args(["filter", "show", "dev", "wire0", hook])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
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
    let filters = shown_by_tc(&bench, "ingress").lines().count();
    assert!(shown_by_tc(&bench, "ingress").contains("from_netdev"));
    assert!(shown_by_tc(&bench, "egress").contains("to_netdev"));
    bench.inside(|| {
        let datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.attached().len(), 1);
    });
    assert_eq!(shown_by_tc(&bench, "ingress").lines().count(), filters);
    bench.inside(|| Datapath::unload(&options.bpffs).unwrap());
    assert!(!shown_by_tc(&bench, "ingress").contains("from_netdev"));
    assert!(!shown_by_tc(&bench, "egress").contains("to_netdev"));
}

/// The programs that `tc` and the tcx hooks of `wire0` have for an endpoint.
fn of_endpoint(bench: &Bench) -> [(usize, usize); 2] {
    let hooks = [
        ("ingress", TcAttachType::Ingress, "from_container"),
        ("egress", TcAttachType::Egress, "to_container"),
    ];
    hooks.map(|(hook, at, program)| {
        let filters = shown_by_tc(bench, hook);
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
