//! The units of netdp, and what systemd is asked for.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    InstallError, Place,
    pieces::{MARK, Piece, within},
};
use crate::{
    api::RUN_DIR,
    daemon::{config::DOCKER_PLUGIN, passed},
};

pub const SERVICE: &str = "netdp.service";
pub const SOCKET: &str = "netdp-docker.socket";

/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";

/// The units, and the links by which they are enabled.
pub fn pieces(place: &Place) -> Result<Vec<Piece>, InstallError> {
    let command = command(place)?;
    let units = Path::new(UNITS);
    let folder = within(place.root(), units);
    if !folder.is_dir() {
        return Err(InstallError::NoSystemd {
            folder,
            by_hand: command,
        });
    }
    let file = |name: &str, text: String| Piece::File {
        path: units.join(name),
        text,
    };
    let link = |name: &str, target: &str| Piece::Link {
        path: units.join(format!("{target}.wants")).join(name),
        target: units.join(name),
        follows: false,
    };
    Ok(vec![
        file(SOCKET, socket()),
        file(SERVICE, service(&command)),
        link(SOCKET, "sockets.target"),
        link(SERVICE, "multi-user.target"),
    ])
}

fn heading() -> String {
    format!(
        "{MARK} install docker, which also takes it back (--remove).\n\
         # Changes belong into what `systemctl edit` makes: this file is written anew.\n"
    )
}

fn socket() -> String {
    format!(
        "{}
[Unit]
Description=Docker's network driver netdp (socket)

[Socket]
ListenStream={DOCKER_PLUGIN}
SocketMode=0660
DirectoryMode=0700
FileDescriptorName={}
Service={SERVICE}
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
",
        heading(),
        passed::DOCKER
    )
}

/// Nothing here may give the daemon a mount namespace of its own (`Protect...`,
/// `Private...`): what it mounts and the namespaces of containers that Docker
/// mounts have to be seen on both sides.
fn service(command: &str) -> String {
    format!(
        "{}
[Unit]
Description=netdp, networks of containers carried by eBPF
Requires={SOCKET}
After={SOCKET} network-pre.target
Before=docker.service

[Service]
Type=notify
ExecStart={command}
# Packets go on meanwhile.
Restart=always
RestartSec=3s
# A socket holds each published port.
LimitNOFILE=1048576
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
Also={SOCKET}
",
        heading()
    )
}

/// The command line of the daemon, as a unit has it.
pub fn command(place: &Place) -> Result<String, InstallError> {
    let mut words = vec![place.program.clone(), "daemon".into()];
    if place.run_dir != Path::new(RUN_DIR) {
        let driver: [PathBuf; 4] = [
            "--run-dir".into(),
            place.run_dir.clone(),
            "--docker-plugin".into(),
            DOCKER_PLUGIN.into(),
        ];
        words.extend(driver);
    }
    let words: Result<Vec<String>, _> = words.iter().map(|word| quoted(word)).collect();
    Ok(words?.join(" "))
}

/// As systemd.service(5), 'Command lines', wants it.
fn quoted(word: &Path) -> Result<String, InstallError> {
    let refused = || InstallError::Path {
        path: word.to_owned(),
    };
    let text = word.to_str().ok_or_else(refused)?;
    if text.contains(char::is_control) {
        return Err(refused());
    }
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%$".contains(c);
    Ok(match escaped.chars().all(is_plain) {
        true => escaped,
        false => format!("\"{escaped}\""),
    })
}

/// Lets systemd see what was written.
pub fn reload() -> Result<(), InstallError> {
    systemctl(&["daemon-reload"])
}

/// `anew`: what runs has other words than the unit has now.
pub fn start(anew: bool) -> Result<(), InstallError> {
    systemctl(&["start", SOCKET])?;
    systemctl(&[if anew { "restart" } else { "start" }, SERVICE])
}

pub fn stop(units: &[&str]) -> Result<(), InstallError> {
    match units {
        [] => Ok(()),
        units => systemctl(&[&["stop"], units].concat()),
    }
}

/// Whether systemd runs the daemon.
pub fn is_active() -> bool {
    systemctl(&["is-active", "--quiet", SERVICE]).is_ok()
}

fn systemctl(words: &[&str]) -> Result<(), InstallError> {
    let failed = |why: String| InstallError::Systemctl {
        words: words.join(" "),
        why,
    };
    let done = Command::new("systemctl")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_keeps_its_words_apart() {
        let of = |program: &str, run_dir: &str| {
            command(&Place {
                root: None,
                program: program.into(),
                run_dir: run_dir.into(),
            })
            .map_err(|error| error.to_string())
        };
        let plain = of("/usr/bin/netdp", RUN_DIR);
        assert_eq!(plain.unwrap(), "/usr/bin/netdp daemon");
        let odd = of("/opt/50% of $HOME/\"net\\dp\"", "/srv/run");
        assert_eq!(
            odd.unwrap(),
            "\"/opt/50%% of $$HOME/\\\"net\\\\dp\\\"\" daemon --run-dir /srv/run \
             --docker-plugin /run/docker/plugins/netdp.sock"
        );
        assert!(of("/opt/a\nb", RUN_DIR).unwrap_err().contains("unit"));
    }
}
