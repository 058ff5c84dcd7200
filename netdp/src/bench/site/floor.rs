//! The least that a way through a second stack can be: whatever comes by the wire
//! is handed to one container, and whatever that sends leaves by the wire. Nothing
//! is looked at or written: the container has the host's own addresses.
//!
//! To its neighbour a veth pair leads directly.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use anyhow::Context;
use nix::net::if_::if_nametoindex;

use super::{FIRST_PORT, Inside, Site, settle};
use crate::bench::Mode;
use crate::bpf::instruction::{Attached, Hook, Instruction, ProgramType, attach, load};
use crate::world::{Host, World, ip};

/// Between the two containers.
const FIRST: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 3);

/// Helpers of linux/bpf.h.
const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;

pub(super) fn build(world: &mut World, cpu: usize) -> anyhow::Result<Site> {
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
    let redirects = host.namespace.run(|| {
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
    inside.settle();
    settle(&host.namespace);
    Ok(Site {
        mode: Mode::Floor,
        address: host.address,
        client: host.client_address,
        first_port: FIRST_PORT,
        _crowd: Vec::new(),
        _redirects: redirects,
        _servers: vec![inside.serve(world, FIRST_PORT, cpu)?],
        inside: Some(inside),
        host: host.namespace,
        own: None,
    })
}

/// Sends all that comes in by one interface of this namespace to another, or to
/// the peer of that.
fn redirect(from: &str, helper: i32, to: &str) -> anyhow::Result<Attached> {
    let index = |name: &str| if_nametoindex(name).with_context(|| format!("cannot find {name}"));
    let program = [
        Instruction::mov(1, index(to)? as i32),
        Instruction::mov(2, 0),
        Instruction::call(helper),
        Instruction::EXIT,
    ];
    let program = load(ProgramType::SchedCls, &program).context("cannot load a program")?;
    attach(program.as_fd(), Hook::TcxIngress, index(from)?)
        .context("cannot attach a program by tcx, which is there from Linux 6.6 on")
}
