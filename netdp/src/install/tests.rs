use std::{collections::BTreeMap, fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;

fn root() -> (TempDir, Place) {
    let folder = TempDir::with_prefix("netdp-install-").unwrap();
    fs::create_dir_all(
        folder
            .path()
            .join("etc/systemd/system/multi-user.target.wants"),
    )
    .unwrap();
    let other = "etc/systemd/system/multi-user.target.wants/other.service";
    symlink(
        "/usr/lib/systemd/system/other.service",
        folder.path().join(other),
    )
    .unwrap();
    let place = Place {
        root: Some(folder.path().to_owned()),
        program: "/usr/bin/netdp".into(),
        run_dir: "/run/netdp".into(),
    };
    (folder, place)
}

/// Everything below a folder: files with their text, links with their target,
/// folders.
fn all(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        let text = if kind.is_symlink() {
            format!("to {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            found.extend(all(&path));
            "folder".to_owned()
        } else {
            fs::read_to_string(&path).unwrap()
        };
        found.insert(path, text);
    }
    found
}

fn what(report: &Report) -> Vec<What> {
    report.files.iter().map(|it| it.what).collect()
}

#[test]
fn what_was_written_is_taken_back_exactly() {
    let (folder, place) = root();
    let before = all(folder.path());
    let report = docker(&place, false, false).unwrap();
    assert_eq!(what(&report), [What::Written; 4]);
    assert!(!report.running);
    let written = all(folder.path());
    assert_eq!(written.len(), before.len() + 5, "{written:?}");
    for file in &report.files {
        assert!(file.path.starts_with("/etc/systemd/system"), "{file:?}");
        assert!(fs::symlink_metadata(pieces::within(folder.path(), &file.path)).is_ok());
    }
    // Once more: nothing to do.
    assert_eq!(
        what(&docker(&place, false, false).unwrap()),
        [What::Unchanged; 4]
    );
    assert_eq!(all(folder.path()), written);
    let report = remove_docker(&place, false).unwrap();
    assert_eq!(what(&report), [What::Removed; 4]);
    assert_eq!(all(folder.path()), before);
    assert_eq!(
        what(&remove_docker(&place, false).unwrap()),
        [What::Absent; 4]
    );
    assert_eq!(all(folder.path()), before);
}

#[test]
fn a_unit_of_another_version_is_replaced() {
    let (folder, place) = root();
    docker(&place, false, false).unwrap();
    let elsewhere = Place {
        program: "/opt/netdp".into(),
        ..place.clone()
    };
    let report = docker(&elsewhere, false, false).unwrap();
    let replaced = report.files.iter().find(|it| it.what == What::Replaced);
    let replaced = &replaced.unwrap().path;
    assert!(replaced.ends_with(systemd::SERVICE));
    let text = fs::read_to_string(pieces::within(folder.path(), replaced)).unwrap();
    assert!(text.contains("ExecStart=/opt/netdp daemon\n"), "{text}");
    // It is netdp's, whatever it says.
    assert_eq!(
        what(&remove_docker(&place, false).unwrap()),
        [What::Removed; 4]
    );
}

#[test]
fn what_others_wrote_is_named_and_left() {
    let units = Path::new("/etc/systemd/system");
    let service = units.join(systemd::SERVICE);
    let link = units.join("sockets.target.wants").join(systemd::SOCKET);
    for (path, make) in [
        (&service, "text"),
        (&service, "link"),
        (&service, "folder"),
        (&link, "text"),
        (&link, "link"),
    ] {
        let (folder, place) = root();
        let at = pieces::within(folder.path(), path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match make {
            "text" => fs::write(&at, "[Service]\n").unwrap(),
            "link" => symlink("/dev/null", &at).unwrap(),
            _ => fs::create_dir(&at).unwrap(),
        }
        let before = all(folder.path());
        for refused in [docker(&place, false, false), remove_docker(&place, false)] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(at.to_str().unwrap()), "{refused}");
            assert!(refused.contains("move it away"), "{refused}");
        }
        assert_eq!(all(folder.path()), before, "{make} at {}", path.display());
    }
}

#[test]
fn what_can_not_be_written_whole_is_not_written() {
    let (folder, place) = root();
    // In the way of the last piece but one.
    let wants = folder
        .path()
        .join("etc/systemd/system/sockets.target.wants");
    fs::write(&wants, "").unwrap();
    let before = all(folder.path());
    docker(&place, false, false).unwrap_err();
    assert_eq!(all(folder.path()), before);
}

#[test]
fn a_link_out_of_the_root_is_not_followed() {
    let (folder, place) = root();
    let outside = TempDir::with_prefix("netdp-install-").unwrap();
    let units = folder.path().join("etc/systemd/system");
    fs::remove_dir_all(&units).unwrap();
    symlink(outside.path(), &units).unwrap();
    let refused = docker(&place, false, false).unwrap_err();
    assert!(matches!(refused, InstallError::Outside { .. }), "{refused}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn without_systemd_it_says_how_to_start_it() {
    let folder = TempDir::with_prefix("netdp-install-").unwrap();
    let place = Place {
        root: Some(folder.path().to_owned()),
        program: "/usr/bin/netdp".into(),
        run_dir: "/run/netdp".into(),
    };
    for refused in [docker(&place, false, false), remove_docker(&place, false)] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("`/usr/bin/netdp daemon`"), "{refused}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

const RUNTIMES: &str =
    "{\n  \"debug\": true,\n  \"runtimes\": {\n    \"x\": { \"path\": \"/x\" }\n  }\n}\n";

/// As [`root`], with folders of both engines and the runtime's.
fn root_with_engines() -> (TempDir, Place) {
    let (folder, place) = root();
    for path in [
        "etc/docker",
        "etc/containers/containers.conf.d",
        "usr/local/bin",
    ] {
        fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    (folder, place)
}

#[test]
fn a_runtime_is_entered_beside_others_and_taken_back_exactly() {
    for text in [None, Some(RUNTIMES)] {
        let (folder, place) = root_with_engines();
        let settings = folder.path().join("etc/docker/daemon.json");
        if let Some(text) = text {
            fs::write(&settings, text).unwrap();
        }
        let before = all(folder.path());
        let report = docker(&place, false, true).unwrap();
        assert_eq!(what(&report), [What::Written; 6]);
        assert!(report.next.unwrap().contains("systemctl reload docker"));
        let written: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&settings).unwrap()).unwrap();
        assert_eq!(written["runtimes"]["netdp"]["path"], runtime::RUNTIME);
        if text.is_some() {
            assert_eq!(written["debug"], true);
            assert_eq!(written["runtimes"]["x"]["path"], "/x");
        }
        let link = pieces::within(folder.path(), Path::new(runtime::RUNTIME));
        assert_eq!(fs::read_link(link).unwrap(), place.program);
        let again = docker(&place, false, true).unwrap();
        assert_eq!(what(&again), [What::Unchanged; 6]);
        // The runtime alone, or with all else.
        assert_eq!(
            what(&remove_docker(&place, true).unwrap()),
            [What::Removed; 2]
        );
        assert_eq!(all(folder.path()).len(), before.len() + 5);
        docker(&place, false, true).unwrap();
        assert_eq!(
            what(&remove_docker(&place, false).unwrap()),
            [What::Removed; 6]
        );
        assert_eq!(all(folder.path()), before);
    }
}

#[test]
fn another_runtime_of_that_name_is_left_alone() {
    for text in [r#"{"runtimes": {"netdp": {"path": "/mine"}}}"#, "{", "[]"] {
        let (folder, place) = root_with_engines();
        let settings = folder.path().join("etc/docker/daemon.json");
        fs::write(&settings, text).unwrap();
        let before = all(folder.path());
        let refused = docker(&place, false, true).unwrap_err().to_string();
        assert!(refused.contains(settings.to_str().unwrap()), "{refused}");
        assert_eq!(all(folder.path()), before);
        docker(&place, false, false).unwrap();
        assert_eq!(
            what(&remove_docker(&place, false).unwrap()),
            [What::Removed; 4]
        );
        assert_eq!(all(folder.path()), before);
    }
}

#[test]
fn the_runtimes_link_stays_while_the_other_engine_has_it() {
    let (folder, place) = root_with_engines();
    let before = all(folder.path());
    assert_eq!(what(&podman(&place).unwrap()), [What::Written; 2]);
    let report = docker(&place, false, true).unwrap();
    assert_eq!(report.files[4].what, What::Unchanged);
    assert_eq!(what(&remove_podman(&place).unwrap()), [What::Removed; 1]);
    assert_eq!(
        what(&podman(&place).unwrap()),
        [What::Unchanged, What::Written]
    );
    assert_eq!(
        what(&remove_docker(&place, true).unwrap()),
        [What::Removed; 1]
    );
    assert_eq!(what(&remove_podman(&place).unwrap()), [What::Removed; 2]);
    remove_docker(&place, false).unwrap();
    assert_eq!(all(folder.path()), before);
}

/// Moved, or gone with a version that lay elsewhere.
#[test]
fn the_runtimes_link_follows_netdp() {
    for leads in ["/opt/netdp", "netdp", "/opt/netdp-1/netdp"] {
        let (folder, place) = root_with_engines();
        let link = pieces::within(folder.path(), Path::new(runtime::RUNTIME));
        symlink(leads, &link).unwrap();
        let report = docker(&place, false, true).unwrap();
        assert_eq!(report.files[4].what, What::Replaced, "{leads}");
        assert_eq!(fs::read_link(&link).unwrap(), place.program);
        assert_eq!(fs::read_dir(link.parent().unwrap()).unwrap().count(), 1);
        fs::remove_file(&link).unwrap();
        symlink(leads, &link).unwrap();
        let report = remove_docker(&place, true).unwrap();
        assert_eq!(what(&report), [What::Removed; 2], "{leads}");
        assert!(fs::symlink_metadata(&link).is_err());
    }
    // As the manual has it, to one that lies beside it.
    let (folder, mut place) = root_with_engines();
    place.program = "/usr/local/bin/netdp".into();
    let link = pieces::within(folder.path(), Path::new(runtime::RUNTIME));
    symlink("netdp", &link).unwrap();
    let report = docker(&place, false, true).unwrap();
    assert_eq!(report.files[4].what, What::Unchanged);
    // Another's.
    fs::remove_file(&link).unwrap();
    symlink("/opt/other", &link).unwrap();
    let refused = docker(&place, false, true).unwrap_err().to_string();
    assert!(refused.contains("a link to something else"), "{refused}");
    remove_docker(&place, false).unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/opt/other"));
}

#[test]
fn a_link_that_was_led_elsewhere_leads_back_where_all_can_not_be_written() {
    let (folder, place) = root_with_engines();
    let link = pieces::within(folder.path(), Path::new(runtime::RUNTIME));
    symlink("/opt/netdp", &link).unwrap();
    // In the way of what is written after it.
    fs::remove_dir(folder.path().join("etc/docker")).unwrap();
    fs::write(folder.path().join("etc/docker"), "").unwrap();
    let before = all(folder.path());
    docker(&place, false, true).unwrap_err();
    assert_eq!(all(folder.path()), before);
}

#[test]
fn a_runtime_that_dockerd_needs_stays() {
    let (folder, place) = root_with_engines();
    let settings = folder.path().join("etc/docker/daemon.json");
    fs::write(&settings, "{\n  \"default-runtime\": \"netdp\"\n}\n").unwrap();
    docker(&place, false, true).unwrap();
    let before = all(folder.path());
    for runtime_alone in [true, false] {
        let refused = remove_docker(&place, runtime_alone)
            .unwrap_err()
            .to_string();
        assert!(refused.contains(settings.to_str().unwrap()), "{refused}");
        assert!(refused.contains("default-runtime"), "{refused}");
        assert_eq!(all(folder.path()), before);
    }
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("\"netdp\",", "\"runc\",")).unwrap();
    remove_docker(&place, false).unwrap();
}

#[test]
fn settings_that_say_nothing_are_left_as_they_were() {
    for text in ["{}", "{}\n"] {
        let (folder, place) = root_with_engines();
        let settings = folder.path().join("etc/docker/daemon.json");
        fs::write(&settings, text).unwrap();
        let before = all(folder.path());
        docker(&place, false, true).unwrap();
        let report = remove_docker(&place, true).unwrap();
        let next = report.next.unwrap();
        assert!(next.contains("systemctl restart docker"), "{next}");
        assert_eq!(remove_docker(&place, true).unwrap().next, None);
        remove_docker(&place, false).unwrap();
        assert_eq!(all(folder.path()), before);
    }
}
