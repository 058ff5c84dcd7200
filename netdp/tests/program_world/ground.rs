//! Namespace and interfaces of a world.

use std::{io::Write, process::Stdio};

use netdp::netns::Namespace;

use super::{
    CLIENT, HOST, HOST_2, ROUTER,
    family::{Family, embed},
};

/// A namespace and the folder that it is mounted in.
pub struct Ground {
    // Dropped first: unmounts.
    pub host: Namespace,
    _folder: tempfile::TempDir,
}

impl Ground {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Namespace::create(folder.path(), "host").unwrap();
        Self {
            host,
            _folder: folder,
        }
    }
}

/// Interfaces, addresses, routes and neighbours. Interfaces have no link-local
/// addresses, for which the kernel would send packets of its own.
pub fn build_links(host: &Namespace, family: Family) {
    let mut lines = String::from(
        "link add wire0 address 02:00:00:00:02:01 type veth \
         peer wire1 address 02:00:00:00:02:02\n\
         link set wire0 addrgenmode none up\nlink set wire1 addrgenmode none up\n",
    );
    lines += &match family {
        Family::V4 => format!(
            "address add {HOST}/24 dev wire0\naddress add {HOST_2}/24 dev wire0\n\
             neigh replace {CLIENT} lladdr 02:00:00:00:03:01 dev wire0 nud permanent\n\
             neigh replace {ROUTER} lladdr 02:00:00:00:03:02 dev wire0 nud permanent\n\
             route add default via {ROUTER}\n"
        ),
        Family::V6 => {
            let [host, host_2, client, router] = [HOST, HOST_2, CLIENT, ROUTER].map(embed);
            format!(
                "address add {host}/120 dev wire0 nodad\n\
                 address add {host_2}/120 dev wire0 nodad\n\
                 neigh replace {client} lladdr 02:00:00:00:03:01 dev wire0 nud permanent\n\
                 neigh replace {router} lladdr 02:00:00:00:03:02 dev wire0 nud permanent\n\
                 route add default via {router}\n"
            )
        }
    };
    for number in 1..=3 {
        lines += &format!(
            "link add veth{number} address 02:00:00:00:01:0{number} type veth \
             peer eth{number} address 02:00:00:00:00:0{number}\n\
             link set veth{number} addrgenmode none up\n\
             link set eth{number} addrgenmode none up\n"
        );
    }
    let mut ip = host
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = ip.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    assert!(ip.wait().unwrap().success());
    host.run(|| {
        for number in 1..=3 {
            for family in ["ipv4", "ipv6"] {
                let path = format!("/proc/sys/net/{family}/conf/veth{number}/forwarding");
                std::fs::write(path, "1").unwrap();
            }
        }
    })
    .unwrap();
}
