//! Contents of the files in `/etc` that a sandbox has of its own.

use std::{fmt::Write, fs, io, net::IpAddr, path::Path};

use anyhow::{Result, anyhow};

use crate::{api::types::Sandbox, model::hosts};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What systemd-resolved would have in /etc/resolv.conf if it weren't there
/// itself (systemd-resolved(8)).
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// `/etc/hosts`: the sandbox's own names, and those of its links.
pub fn hosts(sandbox: &Sandbox) -> String {
    let lines = hosts::lines(&sandbox.hosts, &sandbox.hostname);
    crate::sandbox::hosts::text(&lines)
}

/// `/etc/resolv.conf` of a sandbox: netdp's resolver, where there is one for it,
/// with the host's search list and options; otherwise the host's resolvers.
///
/// The host's resolvers don't stand beside netdp's: the C library would ask
/// them after a failure and musl always, and neither knows that only one of
/// the answers counts.
pub fn resolv_conf(sandbox: &Sandbox) -> Result<String> {
    match sandbox.resolver {
        Some(resolver) => Ok(through(resolver, &read(RESOLV_CONF)?)),
        None => host_resolv_conf(),
    }
}

/// As the host's, but for the resolver. With `ndots:0` a name is asked for as
/// it is before a domain is added to it, as Docker has it: names of sandboxes
/// have no dot.
fn through(resolver: IpAddr, host: &str) -> String {
    let mut text = format!("nameserver {resolver}\n");
    let mut options = Vec::new();
    for line in host.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("search" | "domain" | "sortlist") => {
                let _ = writeln!(text, "{}", line.trim());
            }
            Some("options") => options.extend(words),
            _ => {}
        }
    }
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0");
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

/// The host's `/etc/resolv.conf` as a sandbox may use it.
fn host_resolv_conf() -> Result<String> {
    let host = read(RESOLV_CONF)?;
    let reachable = without_loopback(&host);
    if has_resolver(&reachable) {
        return Ok(reachable);
    }
    let resolved = without_loopback(&read(RESOLVED)?);
    if has_resolver(&resolved) {
        return Ok(resolved);
    }
    if has_resolver(&host) {
        eprintln!(
            "netdp: the program can't resolve names: every resolver in {RESOLV_CONF} is on the \
             host's loopback; name one there that can be reached from outside"
        );
    }
    Ok(reachable)
}

fn read(path: &str) -> Result<String> {
    match fs::read_to_string(Path::new(path)) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(anyhow!("cannot read {path}: {error}")),
    }
}

fn has_resolver(text: &str) -> bool {
    text.lines().any(|line| resolver(line).is_some())
}

/// Without the resolvers on loopback addresses, which inside a sandbox are its
/// own (resolv.conf(5)).
fn without_loopback(text: &str) -> String {
    let reachable = |line: &&str| !resolver(line).is_some_and(|address| address.is_loopback());
    text.lines()
        .filter(reachable)
        .map(|line| format!("{line}\n"))
        .collect()
}

fn resolver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "nameserver" {
        return None;
    }
    // A zone, as in fe80::1%eth0, names an interface of the host.
    words.next()?.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::types::HostsEntry;

    fn sandbox(hosts: Vec<HostsEntry>) -> Sandbox {
        Sandbox {
            id: String::new(),
            name: "web".to_owned(),
            created: 0,
            hostname: "www".to_owned(),
            netns: "/proc/1/ns/net".into(),
            container: None,
            pid: None,
            command: Vec::new(),
            mode: "networks".to_owned(),
            log: None,
            direct: None,
            owner: None,
            expose: Vec::new(),
            endpoints: Vec::new(),
            hosts,
            environment: BTreeMap::new(),
            resolver: None,
        }
    }

    #[test]
    fn names_stand_beside_their_addresses() {
        let entry = HostsEntry {
            address: "172.17.0.2".parse().unwrap(),
            names: vec!["www".to_owned(), "web".to_owned()],
        };
        let text = hosts(&sandbox(vec![entry]));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("\n172.17.0.2\twww web\n"), "{text}");
        assert!(hosts(&sandbox(Vec::new())).contains("\n127.0.1.1\twww\n"));
    }

    #[test]
    fn netdps_resolver_stands_alone() {
        let resolver = IpAddr::from([127, 0, 0, 11]);
        let host = "# a comment\nnameserver 192.0.2.53\nsearch example.net example.org\n\
                    options timeout:1\noptions edns0\n";
        assert_eq!(
            through(resolver, host),
            "nameserver 127.0.0.11\nsearch example.net example.org\n\
             options timeout:1 edns0 ndots:0\n"
        );
        assert_eq!(
            through(resolver, "options ndots:2\n"),
            "nameserver 127.0.0.11\noptions ndots:2\n"
        );
    }

    #[test]
    fn resolvers_on_loopback_are_left_out() {
        let text = "search example.net\nnameserver 127.0.0.53\n nameserver\t::1\n\
                    nameserver 192.0.2.53\n# nameserver 127.0.0.1\noptions ndots:2\n";
        let left = "search example.net\nnameserver 192.0.2.53\n# nameserver 127.0.0.1\n\
                    options ndots:2\n";
        assert_eq!(without_loopback(text), left);
        assert!(has_resolver(left));
        assert!(!has_resolver("search example.net\nnameserver nonsense\n"));
    }
}
