//! What no way by tcx can do without.
//!
//! [`build`]: a second stack. Whatever comes by the wire is handed to one
//! container, and whatever that sends leaves by the wire. Nothing is looked at or
//! written: the container has the host's own addresses. To its neighbour a veth
//! pair leads directly.
//!
//! [`at_uplink`]: two programs where all packets of the host pass. [`of_direct`]: and
//! a filter that sees each system call of the servers.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;

use anyhow::Context;
use nix::net::if_::if_nametoindex;

use super::{Inside, Site, Size, settle};
use crate::bench::Mode;
use crate::bpf::instruction::{Attached, Hook, Instruction, ProgramType, attach, load};
use crate::sandbox::refuse_foreign_options;
use crate::world::{Host, World, ip, load::LoadServer};

/// Between the two containers.
const FIRST: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 3);

/// Helpers of linux/bpf.h.
const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;

/// `TCX_NEXT`: as if there were no program.
const NEXT: i32 = -1;

pub(super) fn build(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    let host = world.add_host()?;
    let first = world.add_namespace("floor-first")?;
    let second = world.add_namespace("floor-second")?;
    let Host {
        address,
        client_address,
        macs: [mac, client_mac],
        ..
    } = &host;
    ip(
        &host.namespace,
        &format!(
            "link add inside type veth peer name eth0 address {mac} netns {}\n\
             link set inside up\n",
            first.path().display()
        ),
    )?;
    ip(
        &first,
        &format!(
            "addr add {address}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via {client_address} dev eth0\n\
             neigh replace {client_address} lladdr {client_mac} dev eth0 nud permanent\n\
             link add eth1 address 02:6e:66:6c:00:02 type veth peer name eth0 \
             address 02:6e:66:6c:00:03 netns {}\n\
             addr add {FIRST}/24 dev eth1\n\
             link set eth1 up\n\
             neigh replace {SECOND} lladdr 02:6e:66:6c:00:03 dev eth1 nud permanent\n",
            second.path().display()
        ),
    )?;
    ip(
        &second,
        &format!(
            "addr add {SECOND}/24 dev eth0\n\
             link set eth0 up\n\
             neigh replace {FIRST} lladdr 02:6e:66:6c:00:02 dev eth0 nud permanent\n"
        ),
    )?;
    let programs = host.namespace.run(|| {
        Ok::<_, anyhow::Error>(vec![
            redirect("eth0", REDIRECT_PEER, "inside")?,
            redirect("inside", REDIRECT, "eth0")?,
        ])
    })??;
    let inside = Inside {
        first,
        address: FIRST,
        second,
    };
    Ok(Site {
        _programs: programs,
        ..Site::with_containers(world, Mode::Floor, host, inside, size)?
    })
}

/// Host mode behind a program at each hook of the uplink, which leaves each
/// packet as it came: what direct ports can't be faster than.
pub(super) fn at_uplink(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    let site = Site::plain(world, Mode::FloorUplink, size)?;
    passing(site)
}

/// The same with servers under a filter.
pub(super) fn of_direct(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    passing(filtered(world, Mode::FloorDirect, size)?)
}

/// Host mode with servers under a filter.
pub(super) fn under_seccomp(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    filtered(world, Mode::HostSeccomp, size)
}

/// With servers under the filter that programs with direct ports have, which hands
/// `bind` to nobody here: as containers of the host's network are mostly run.
fn filtered(world: &mut World, mode: Mode, size: &Size) -> anyhow::Result<Site> {
    let host = world.add_host()?;
    settle(&host.namespace);
    let mut netdp = world.within(&host.namespace, world.netdp_path());
    // SAFETY: two system calls, with what lies on the stack.
    unsafe { netdp.pre_exec(refuse_foreign_options) };
    let server = LoadServer::start(netdp, &size.served())?;
    Ok(Site::new(mode, host, server, size))
}

/// Leaves all packets of the host alone.
fn passing(site: Site) -> anyhow::Result<Site> {
    let pass = [Instruction::mov(0, NEXT), Instruction::EXIT];
    let programs = site.host.run(|| {
        Ok::<_, anyhow::Error>(vec![
            run(&pass, Hook::TcxIngress, "eth0")?,
            run(&pass, Hook::TcxEgress, "eth0")?,
        ])
    })??;
    Ok(Site {
        _programs: programs,
        ..site
    })
}

/// Sends all that comes in by one interface of this namespace to another, or to
/// the peer of that.
fn redirect(from: &str, helper: i32, to: &str) -> anyhow::Result<Attached> {
    let program = [
        Instruction::mov(1, index(to)? as i32),
        Instruction::mov(2, 0),
        Instruction::call(helper),
        Instruction::EXIT,
    ];
    run(&program, Hook::TcxIngress, from)
}

/// Runs a program at a hook of an interface of this namespace.
fn run(program: &[Instruction], hook: Hook, ifname: &str) -> anyhow::Result<Attached> {
    let program = load(ProgramType::SchedCls, program).context("cannot load a program")?;
    attach(program.as_fd(), hook, index(ifname)?)
        .context("cannot attach a program by tcx, which is there from Linux 6.6 on")
}

fn index(ifname: &str) -> anyhow::Result<u32> {
    if_nametoindex(ifname).with_context(|| format!("cannot find {ifname}"))
}
