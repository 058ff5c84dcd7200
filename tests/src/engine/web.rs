//! A web server in a container that says who asks, and who fetches from it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::{PATIENCE, Place, connect_bound};

/// Makes `/tmp/web.tar` on an engine's host: the files of an image whose command
/// is [`COMMAND`].
pub(super) const FILES: &str = "\
mkdir -p /tmp/web/bin /tmp/web/www/cgi-bin /tmp/web/etc /tmp/web/tmp /tmp/web/proc /tmp/web/sys /tmp/web/dev
cp -L $(command -v busybox) /tmp/web/bin/busybox
for name in sh httpd sleep hostname cat nslookup ping ip nc; do ln -sf busybox /tmp/web/bin/$name; done
cat >/tmp/web/www/cgi-bin/who <<'END'
#!/bin/sh
echo \"Content-Type: text/plain\"
echo
echo \"$REMOTE_ADDR ${NAME:-$(hostname)}\"
END
chmod 755 /tmp/web/www/cgi-bin/who
tar -C /tmp/web -cf /tmp/web.tar .
";

/// As Dockerfiles have it.
pub(super) const COMMAND: &str =
    r#"["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:80", "-h", "/www"]"#;

/// What the server saw, and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub source: IpAddr,
    pub hostname: String,
}

/// Fetches from the server at `to`, however long its start takes.
#[track_caller]
pub fn fetch(place: &impl Place, to: impl Into<SocketAddr>) -> Seen {
    let to = to.into();
    let began = std::time::Instant::now();
    loop {
        match fetch_within(place, to, PATIENCE) {
            Ok(seen) => return seen,
            Err(why) if began.elapsed() > PATIENCE => panic!("{to}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Fetches once.
///
/// # Errors
/// Why nothing was heard, or what was heard instead.
pub fn fetch_within(
    place: &impl Place,
    to: impl Into<SocketAddr>,
    patience: Duration,
) -> Result<Seen, String> {
    let body = get(place, to, "/cgi-bin/who", patience)?;
    let words: Vec<&str> = body.split_whitespace().collect();
    let [source, hostname] = words[..] else {
        return Err(body);
    };
    Ok(Seen {
        source: source.parse().map_err(|_| body.clone())?,
        hostname: hostname.into(),
    })
}

/// The body that a web server gives, once.
///
/// # Errors
/// As [`fetch_within`].
pub fn get(
    place: &impl Place,
    to: impl Into<SocketAddr>,
    path: &str,
    patience: Duration,
) -> Result<String, String> {
    let to = to.into();
    let mut stream = connect_bound(place, None, to, patience).map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", to.ip());
    let mut answer = String::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer))
        .map_err(|error| error.to_string())?;
    // A script's own header ends in line feeds alone.
    let answer = answer.replace("\r\n", "\n");
    match answer.split_once("\n\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}
