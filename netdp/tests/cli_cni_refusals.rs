//! What the CNI plugin refuses, and by which code.

mod cli_world;
mod cni_world;

use cli_world::{World, done};
use cni_world::{Call, Pod, config};
use serde_json::json;

#[test]
fn without_a_daemon_it_says_so() {
    let Some(mut world) = World::without_daemon() else {
        return;
    };
    let pod = Pod::new(&world, "c1");
    let conf = config(json!({"cni.dev/valid-attachments": []}));
    for (command, expected) in [("ADD", 11), ("DEL", 11), ("GC", 11), ("STATUS", 50)] {
        let (code, why) = Call::new(command, &pod, &conf).refused(&world);
        assert_eq!(code, expected, "{command}: {why}");
        assert!(why.contains("no daemon answers"), "{why}");
    }
    // What is gone needs nobody to take it away.
    let mut gone = Call::new("DEL", &pod, &conf);
    gone.netns = "/run/netns/never-there";
    gone.ok(&world);
    // Another folder may be configured.
    let elsewhere = config(json!({"runDir": world.path("elsewhere")}));
    let (_, why) = Call::new("ADD", &pod, &elsewhere).refused(&world);
    assert!(why.contains("elsewhere"), "{why}");
    world.start_daemon(&[]);
    Call::new("STATUS", &pod, &conf).ok(&world);
    Call::new("ADD", &pod, &conf).ok(&world);
}

#[test]
fn what_can_not_be_read_is_refused_by_the_right_code() {
    let Some(world) = World::new() else { return };
    let pod = Pod::new(&world, "c1");
    let conf = config(json!({}));
    let call = || Call::new("ADD", &pod, &conf);
    let refused = |call: Call<'_>| call.refused(&world).0;
    for (text, code) in [
        ("", 6),
        ("{", 6),
        ("[]", 6),
        (r#"{"cniVersion": "1.1.0", "type": "netdp"}"#, 7),
        (r#"{"cniVersion": "x", "name": "mine", "type": "netdp"}"#, 6),
    ] {
        let stdin = text.to_owned();
        assert_eq!(refused(Call { stdin, ..call() }), code, "{text}");
    }
    for wrong in [
        Call {
            command: "ATTACH",
            ..call()
        },
        Call {
            container: "",
            ..call()
        },
        Call {
            container: "-c1",
            ..call()
        },
        Call {
            netns: "",
            ..call()
        },
        Call {
            interface: "",
            ..call()
        },
        Call {
            interface: "a/b",
            ..call()
        },
        Call {
            args: "COLOUR=red",
            ..call()
        },
    ] {
        let (code, why) = wrong.refused(&world);
        assert_eq!(code, 4, "{why}");
    }
    let key = config(json!({"bridge": "cni0"}));
    let (code, why) = Call::new("ADD", &pod, &key).refused(&world);
    assert_eq!(code, 2);
    assert!(why.contains("bridge") && why.contains("cni0"), "{why}");
    let nowhere = Call {
        netns: "/run/netns/never-there",
        ..call()
    };
    let (code, why) = nowhere.refused(&world);
    assert_eq!(code, 3, "{why}");
    let file = world.path("file");
    std::fs::write(&file, "").unwrap();
    let no_namespace = Call {
        netns: file.to_str().unwrap(),
        ..call()
    };
    let (code, why) = no_namespace.refused(&world);
    assert_eq!(code, 4, "{why}");
    assert!(world.is_empty());
}

#[test]
fn only_a_runtimes_call_is_one() {
    let Some(world) = World::new() else { return };
    // A hook of a runtime runs the command.
    let listed = world
        .command(&["ps", "--format", "json"])
        .env("CNI_COMMAND", "ADD")
        .output()
        .unwrap();
    assert_eq!(done(listed).stdout.trim(), "[]");
    let nothing = world.netdp(&[]);
    assert_eq!(nothing.status, Some(2), "{nothing:?}");
}
