//! Requests that make no sense, straight to the socket.

mod cli_world;

use std::os::unix::fs::PermissionsExt;

use cli_world::World;

#[test]
fn nonsense_is_refused_in_our_own_form() {
    let Some(world) = World::new() else { return };
    let long = format!("{{\"name\":\"{}\"}}", "a".repeat(1000));
    for (method, path, body, status, kind) in [
        ("POST", "/v1/networks", "{}", 400, "invalid"),
        ("POST", "/v1/networks", "", 400, "invalid"),
        ("POST", "/v1/networks", "[1", 400, "invalid"),
        ("POST", "/v1/networks", "\u{0}", 400, "invalid"),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"blue","colour":"blue"}"#,
            400,
            "invalid",
        ),
        ("POST", "/v1/networks", r#"{"name":"a/b"}"#, 400, "invalid"),
        ("POST", "/v1/networks", &long, 400, "invalid"),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"blue","subnets":["10.0.0.0/33"]}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"blue","driver":"overlay"}"#,
            501,
            "unavailable",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"netdp0"}"#,
            409,
            "conflict",
        ),
        ("GET", "/v1/networks/nowhere", "", 404, "not-found"),
        ("DELETE", "/v1/networks/nowhere", "", 404, "not-found"),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"relative"}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"/etc/hostname","extra":1}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"/proc/1/ns/net","process":{"pid":4294967295,"start_time":1}}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"/etc/hostname"}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"/dev/zero"}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"/proc/self/ns/uts"}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes",
            r#"{"netns":"/run/netns/there-is-none"}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes/nobody/publish",
            r#"{"ports":["80"]}"#,
            404,
            "not-found",
        ),
        (
            "POST",
            "/v1/sandboxes/nobody/publish",
            r#"{"ports":["99999"]}"#,
            400,
            "invalid",
        ),
        (
            "POST",
            "/v1/sandboxes/nobody/networks",
            r#"{"network":"netdp0"}"#,
            404,
            "not-found",
        ),
        ("DELETE", "/v1/sandboxes/nobody", "", 404, "not-found"),
        ("GET", "/v2/networks", "", 404, "not-found"),
        ("GET", "/", "", 404, "not-found"),
        ("PATCH", "/v1/networks", "", 405, "invalid"),
    ] {
        let (answered, failure) = world.http(method, path, body);
        assert_eq!(answered, status, "{method} {path} {body}: {failure}");
        assert_eq!(
            failure["error"]["kind"], kind,
            "{method} {path} {body}: {failure}"
        );
        let message = failure["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains('\n'), "{message}");
    }
    assert!(
        world
            .json(&["ps", "--format", "json"])
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(world.host_ends(), Vec::<String>::new());
}

#[test]
fn bodies_have_a_limit_and_garbage_does_no_harm() {
    let Some(world) = World::new() else { return };
    let huge = format!("{{\"name\":\"{}\"}}", "a".repeat(1 << 20));
    let (status, failure) = world.http("POST", "/v1/networks", &huge);
    assert_eq!(status, 413, "{failure}");
    for garbage in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"GET",
        b"POST /v1/networks HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        // The answer, if any, is HTTP's own.
        let stream = std::os::unix::net::UnixStream::connect(world.path("run/netdp.sock")).unwrap();
        std::io::Write::write_all(&mut &stream, garbage).unwrap();
        drop(stream);
    }
    world.ok(&["ps"]);
}

#[test]
fn the_socket_is_for_owner_and_group() {
    let Some(world) = World::new() else { return };
    let socket = std::fs::metadata(world.path("run/netdp.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
}
