//! netdp as a CNI plugin: called as a runtime calls it, by environment and
//! standard input.

use std::{io::Write, process::Stdio};

use netdp::netns::Namespace;
use serde_json::{Value, json};

use crate::cli_world::{Done, World, done};

/// A container that a runtime has made.
pub struct Pod {
    pub id: String,
    pub namespace: Namespace,
}

impl Pod {
    pub fn new(world: &World, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            namespace: world.namespace(id),
        }
    }

    pub fn netns(&self) -> &str {
        self.namespace.path().to_str().unwrap()
    }
}

/// What a plugin is called with.
pub struct Call<'a> {
    pub command: &'a str,
    pub container: &'a str,
    pub netns: &'a str,
    pub interface: &'a str,
    pub args: &'a str,
    pub stdin: String,
}

impl<'a> Call<'a> {
    pub fn new(command: &'a str, pod: &'a Pod, config: &Value) -> Self {
        Self {
            command,
            container: &pod.id,
            netns: pod.netns(),
            interface: "eth0",
            args: "",
            stdin: config.to_string(),
        }
    }

    pub fn run(&self, world: &World) -> Done {
        let mut command = world.command(&[]);
        command.env("CNI_COMMAND", self.command);
        for (name, value) in [
            ("CNI_CONTAINERID", self.container),
            ("CNI_NETNS", self.netns),
            ("CNI_IFNAME", self.interface),
            ("CNI_ARGS", self.args),
            ("CNI_PATH", "/opt/cni/bin"),
        ] {
            command.env(name, value);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Who needs no input may be done before it is written.
        let _ = stdin.write_all(self.stdin.as_bytes());
        drop(stdin);
        done(child.wait_with_output().unwrap())
    }

    /// The answer; it has to succeed.
    #[track_caller]
    pub fn ok(&self, world: &World) -> Value {
        let done = self.run(world);
        assert_eq!(done.status, Some(0), "{done:?}\n{}", world.log());
        if done.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// Code and text of the error that it has to give.
    #[track_caller]
    pub fn refused(&self, world: &World) -> (u64, String) {
        let done = self.run(world);
        assert_eq!(done.status, Some(1), "{done:?}");
        assert_eq!(done.stderr, "");
        let error: Value = serde_json::from_str(&done.stdout).unwrap();
        assert!(error["cniVersion"].is_string(), "{error}");
        assert!(!error["msg"].as_str().unwrap().is_empty(), "{error}");
        let details = error["details"].as_str().unwrap_or_default();
        (error["code"].as_u64().unwrap(), details.to_owned())
    }
}

pub fn config(extra: Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.1.0", "name": "mine", "type": "netdp",
        "capabilities": {"portMappings": true, "ips": true, "mac": true, "aliases": true},
    });
    let (Value::Object(own), Value::Object(extra)) = (&mut config, extra) else {
        panic!("objects are expected");
    };
    own.extend(extra);
    config
}
