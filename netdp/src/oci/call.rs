//! What a runtime is asked for: as much of its command line as matters.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

/// Options before the command that have no value.
const FLAGS: [&str; 7] = [
    "--debug",
    // Of crun.
    "--no-pivot",
    "--systemd-cgroup",
    "--version",
    "-v",
    "--help",
    "-h",
];

/// The same after it.
const FLAGS_OF_COMMANDS: [&str; 8] = [
    "--detach",
    "-d",
    "--keep",
    "--no-pivot",
    "--no-new-keyring",
    "--no-subreaper",
    "--help",
    "-h",
];

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    /// The folder of the container to be made, if one is.
    pub bundle: Option<PathBuf>,
    /// A program is to enter a container.
    pub enters: bool,
    pub log: Option<PathBuf>,
    pub log_is_json: bool,
}

impl Call {
    pub fn read(arguments: &[OsString]) -> Self {
        let mut call = Self::default();
        let mut words = Words(arguments);
        let command = words.options(&FLAGS, |name, value| match name {
            "--log" => call.log = Some(value.into()),
            "--log-format" => call.log_is_json = value == "json",
            _ => {}
        });
        call.enters = command.is_some_and(|command| command == "exec");
        if command.is_some_and(|command| command == "create" || command == "run") {
            let mut bundle = PathBuf::from(".");
            words.options(&FLAGS_OF_COMMANDS, |name, value| {
                if name == "--bundle" || name == "-b" {
                    bundle = value.into();
                }
            });
            call.bundle = Some(bundle);
        }
        call
    }
}

/// The words of a command line that are left.
struct Words<'a>(&'a [OsString]);

impl<'a> Words<'a> {
    /// Tells the options that have a value; gives the first word that is none.
    fn options(
        &mut self,
        flags: &[&str],
        mut tell: impl FnMut(&str, OsString),
    ) -> Option<&'a OsString> {
        while let [word, rest @ ..] = self.0 {
            self.0 = rest;
            let bytes = word.as_bytes();
            if !bytes.starts_with(b"-") {
                return Some(word);
            }
            // `-bundle` is `--bundle` in Go.
            let name = bytes.strip_prefix(b"--").or(bytes.strip_prefix(b"-"));
            let name = name.unwrap_or_default();
            let (name, value) = match name.iter().position(|byte| *byte == b'=') {
                Some(at) => (
                    &name[..at],
                    Some(OsString::from_vec(name[at + 1..].to_vec())),
                ),
                None => (name, None),
            };
            let dashes = if name.len() > 1 { "--" } else { "-" };
            let name = format!("{dashes}{}", String::from_utf8_lossy(name));
            match value {
                Some(value) => tell(&name, value),
                None if flags.contains(&name.as_str()) => {}
                None => {
                    if let [value, rest @ ..] = self.0 {
                        tell(&name, value.clone());
                        self.0 = rest;
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Call {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Call::read(&words)
    }

    /// As containerd 1.6, 2.1 and conmon 2.1 call.
    #[test]
    fn the_bundle_is_found_in_what_engines_say() {
        let call = read(
            "--root /run/docker/runtime-runc/moby --log /b/log.json --log-format json \
             --systemd-cgroup create --bundle /b --pid-file /b/init.pid --console-socket /c web",
        );
        let expected = Call {
            bundle: Some("/b".into()),
            enters: false,
            log: Some("/b/log.json".into()),
            log_is_json: true,
        };
        assert_eq!(call, expected);
        let call = read("--log-format=json --log=/l create --bundle=/b --no-pivot web");
        assert_eq!((call.bundle, call.log_is_json), (Some("/b".into()), true));
        let call = read("--rootless auto create --bundle /b web");
        assert_eq!(call.bundle, Some("/b".into()));
        // crun's own.
        let call = read("--cgroup-manager=cgroupfs --no-pivot create -b /b --preserve-fds 1 web");
        assert_eq!(call.bundle, Some("/b".into()));
        let call = read("run --keep -b /b web");
        assert_eq!(call.bundle, Some("/b".into()));
        assert_eq!(read("run web").bundle, Some(".".into()));
        assert_eq!(
            read("-log /l create -bundle /b web").bundle,
            Some("/b".into())
        );
    }

    #[test]
    fn a_program_that_enters_a_container_is_told_from_others() {
        assert!(read("--root /r exec --process /p web").enters);
        assert!(!read("--root exec start exec").enters);
    }

    #[test]
    fn other_commands_make_no_container() {
        for line in [
            "--root /r exec --process /p web",
            "--root create start web",
            "--version",
            "state create",
            "delete --force run",
            "--log",
        ] {
            assert_eq!(read(line).bundle, None, "{line}");
        }
    }
}
