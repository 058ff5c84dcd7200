//! A container's `config.json` (OCI runtime specification 1.1, config-linux.md,
//! "Seccomp"). Nothing of it is changed but what becomes of `bind`.

use std::path::Path;

use serde_json::{Map, Value, json};
use thiserror::Error;

const ALLOW: &str = "SCMP_ACT_ALLOW";
const NOTIFY: &str = "SCMP_ACT_NOTIFY";
const BIND: &str = "bind";

/// Architectures whose programs run on this machine. A filter kills those that
/// it doesn't name.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

#[derive(Debug, Error)]
pub(super) enum ConfigError {
    #[error(
        "the container's seccomp profile hands system calls to {0} already, and a container has \
         one listener: leave listenerPath out of the profile, or take a runtime that is not netdp"
    )]
    OtherListener(String),
    #[error(
        "the container's seccomp profile has {NOTIFY} and no listenerPath: leave the action out \
         of the profile, or take a runtime that is not netdp"
    )]
    OtherNotify,
    #[error("the container's config.json isn't as the OCI runtime specification has it: {0}")]
    Malformed(&'static str),
}

/// What a container's profile makes of `bind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Binds,
    /// It may not, or not everything.
    BindsNothing,
    /// The daemon looks already.
    IsHeard,
}

impl Profile {
    /// A listener below `own` is of an earlier container of the same bundle.
    ///
    /// # Errors
    /// When somebody else looks at its system calls.
    pub fn of(config: &Value, own: &Path) -> Result<Self, ConfigError> {
        let Some(seccomp) = seccomp(config)? else {
            return Ok(Self::Binds);
        };
        let rules = rules(seccomp)?;
        let listener = seccomp["listenerPath"].as_str().unwrap_or_default();
        if Path::new(listener).starts_with(own) {
            return Ok(Self::Binds);
        }
        if own.parent() == Path::new(listener).parent() && !listener.is_empty() {
            return Ok(Self::IsHeard);
        }
        if !listener.is_empty() {
            return Err(ConfigError::OtherListener(listener.to_owned()));
        }
        if rules.iter().any(|rule| rule["action"] == NOTIFY) {
            return Err(ConfigError::OtherNotify);
        }
        let mut of_bind = rules.iter().filter(|rule| names(rule, BIND)).peekable();
        let allows = match of_bind.peek() {
            Some(_) => of_bind.all(|rule| rule["action"] == ALLOW && has_no_conditions(rule)),
            None => seccomp["defaultAction"] == ALLOW,
        };
        Ok(match allows {
            true => Self::Binds,
            false => Self::BindsNothing,
        })
    }
}

/// Hands each `bind` to whoever listens at `socket`, of a container whose profile
/// is [`Profile::Binds`].
///
/// # Errors
/// When it is no configuration of a container.
pub(super) fn hand_over_bind(config: &mut Value, socket: &Path) -> Result<(), ConfigError> {
    let linux = object(&mut config["linux"], "linux")?;
    let seccomp = linux.entry("seccomp").or_insert(Value::Null);
    if seccomp.is_null() {
        *seccomp = json!({"defaultAction": ALLOW, "architectures": ARCHITECTURES});
    }
    let seccomp = object(seccomp, "seccomp")?;
    seccomp.insert("listenerPath".to_owned(), json!(socket));
    let rules = seccomp.entry("syscalls").or_insert(json!([]));
    if rules.is_null() {
        *rules = json!([]);
    }
    let rules = rules
        .as_array_mut()
        .ok_or(ConfigError::Malformed("list of system calls"))?;
    for rule in rules.iter_mut() {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| name != BIND);
        }
    }
    rules.retain(|rule| {
        rule["names"]
            .as_array()
            .is_none_or(|names| !names.is_empty())
    });
    rules.push(json!({"names": [BIND], "action": NOTIFY}));
    Ok(())
}

/// The container's network namespace: its path, or none where the runtime makes
/// one; nothing at all where it is the host's.
pub(super) fn network(config: &Value) -> Option<Option<&Path>> {
    let mut namespaces = config["linux"]["namespaces"].as_array()?.iter();
    let network = namespaces.find(|namespace| namespace["type"] == "network")?;
    let path = network["path"].as_str().filter(|path| !path.is_empty());
    Some(path.map(Path::new))
}

fn seccomp(config: &Value) -> Result<Option<&Value>, ConfigError> {
    match &config["linux"]["seccomp"] {
        Value::Null => Ok(None),
        seccomp if seccomp.is_object() => Ok(Some(seccomp)),
        _ => Err(ConfigError::Malformed("seccomp")),
    }
}

fn rules(seccomp: &Value) -> Result<&[Value], ConfigError> {
    match &seccomp["syscalls"] {
        Value::Null => Ok(&[]),
        Value::Array(rules) => Ok(rules),
        _ => Err(ConfigError::Malformed("list of system calls")),
    }
}

fn names(rule: &Value, syscall: &str) -> bool {
    let names = rule["names"].as_array();
    names.is_some_and(|names| names.iter().any(|name| name == syscall))
}

fn has_no_conditions(rule: &Value) -> bool {
    rule["args"].as_array().is_none_or(Vec::is_empty)
}

fn object<'a>(
    value: &'a mut Value,
    what: &'static str,
) -> Result<&'a mut Map<String, Value>, ConfigError> {
    value.as_object_mut().ok_or(ConfigError::Malformed(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "/run/netdp/seccomp";

    fn config(seccomp: Value) -> Value {
        json!({
            "process": {"args": ["web"]},
            "linux": {"namespaces": [{"type": "network"}, {"type": "pid"}], "seccomp": seccomp},
        })
    }

    fn edited(seccomp: Value) -> Value {
        let mut config = config(seccomp);
        assert_eq!(Profile::of(&config, OWN.as_ref()).unwrap(), Profile::Binds);
        hand_over_bind(&mut config, "/run/netdp/seccomp/a/socket".as_ref()).unwrap();
        assert_eq!(config["process"], json!({"args": ["web"]}));
        config["linux"]["seccomp"].clone()
    }

    #[test]
    fn nothing_but_bind_is_taken_out_of_what_is_allowed() {
        let made = edited(json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["accept", "bind", "write"], "action": ALLOW},
                {"names": ["clone"], "action": ALLOW, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["bind"], "action": ALLOW, "args": []},
            ],
        }));
        let expected = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "listenerPath": "/run/netdp/seccomp/a/socket",
            "syscalls": [
                {"names": ["accept", "write"], "action": ALLOW},
                {"names": ["clone"], "action": ALLOW, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["bind"], "action": NOTIFY},
            ],
        });
        assert_eq!(made, expected);
        // Made once more of the same bundle.
        assert_eq!(edited(made), expected);
    }

    #[test]
    fn a_container_without_a_profile_gets_one_that_allows_the_rest() {
        for before in [
            Value::Null,
            json!({"defaultAction": ALLOW, "syscalls": null}),
        ] {
            let made = edited(before);
            assert_eq!(made["defaultAction"], ALLOW);
            assert_eq!(
                made["syscalls"],
                json!([{"names": ["bind"], "action": NOTIFY}])
            );
        }
    }

    #[test]
    fn what_may_not_bind_is_left_alone() {
        let conditions = json!([{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]);
        for rules in [
            json!([]),
            json!([{"names": ["listen"], "action": ALLOW}]),
            json!([{"names": ["bind"], "action": ALLOW, "args": conditions}]),
            json!([{"names": ["bind"], "action": "SCMP_ACT_LOG"}]),
        ] {
            let config = config(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
            let profile = Profile::of(&config, OWN.as_ref()).unwrap();
            assert_eq!(profile, Profile::BindsNothing, "{rules}");
        }
        let daemons = config(
            json!({"defaultAction": ALLOW, "listenerPath": "/run/netdp/seccomp.sock",
            "syscalls": [{"names": ["bind"], "action": NOTIFY}]}),
        );
        let profile = Profile::of(&daemons, OWN.as_ref()).unwrap();
        assert_eq!(profile, Profile::IsHeard);
    }

    #[test]
    fn somebody_elses_listener_is_refused() {
        let refused = |seccomp: Value| {
            let refused = Profile::of(&config(seccomp), OWN.as_ref());
            refused.unwrap_err().to_string()
        };
        let notify = json!([{"names": ["mount"], "action": NOTIFY}]);
        let said = refused(
            json!({"defaultAction": ALLOW, "listenerPath": "/run/other.sock",
            "syscalls": notify}),
        );
        assert!(said.contains("/run/other.sock"), "{said}");
        let said = refused(json!({"defaultAction": ALLOW, "syscalls": notify}));
        assert!(said.contains("no listenerPath"), "{said}");
        assert!(refused(json!(7)).contains("specification has it: seccomp"));
        assert!(refused(json!({"syscalls": 7})).contains("system calls"));
    }

    #[test]
    fn the_network_is_told() {
        let of = |namespaces: Value| {
            let config = json!({"linux": {"namespaces": namespaces}});
            network(&config).map(|path| path.map(Path::to_owned))
        };
        assert_eq!(of(json!([{"type": "pid"}])), None);
        assert_eq!(of(json!([{"type": "network"}])), Some(None));
        assert_eq!(of(json!([{"type": "network", "path": ""}])), Some(None));
        let there = of(json!([{"type": "network", "path": "/run/netns/a"}]));
        assert_eq!(there, Some(Some("/run/netns/a".into())));
        assert_eq!(network(&json!({})), None);
    }
}
