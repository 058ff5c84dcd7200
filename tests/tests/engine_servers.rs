//! Direct ports of servers as Debian has them: they are told nothing, and nothing
//! of them is changed. `cargo xtask test engines`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netdp::api::types::Sandbox;
use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS,
};
use netdp_tests::engine::{EngineHost, Left, get};
use netdp_tests::{PATIENCE, Place, SILENCE, connect_bound, udp};

/// What a server is asked, to which it answers by the client's address.
#[derive(Clone, Copy)]
enum Question {
    /// A web server that says it in its page.
    Web,
    /// A web server that can't be made to: a page with this in it.
    Page(&'static str, &'static str),
    /// A line, and what the answer with the address ends with.
    Line(&'static str, &'static str),
    /// A query in the protocol of PostgreSQL.
    Postgres,
    /// A datagram, and what that of the answer has in it.
    Datagram(&'static [u8], &'static [u8]),
}

/// A server in a sandbox.
struct Server {
    /// Where it listens in its own network.
    port: u16,
    proto: &'static str,
    /// What is done before its start; `$DIR` is a folder of its own.
    prepare: &'static str,
    /// Its command line, of the same.
    line: &'static str,
    question: Question,
    /// A line for the host's shell by which the server `web` reads its settings
    /// anew.
    reload: Option<&'static str>,
}

const NGINX: Server = Server {
    port: 80,
    proto: "tcp",
    prepare: "\
mkdir -p /var/log/nginx /var/lib/nginx
cat >$DIR/nginx.conf <<END
user root;
worker_processes 1;
pid $DIR/pid;
error_log $DIR/error.log;
events {}
http {
    access_log off;
    server {
        listen 80;
        listen [::]:80;
        location / { return 200 '\\$remote_addr\\n'; }
    }
}
END",
    line: "nginx -c $DIR/nginx.conf -g 'daemon off;'",
    question: Question::Web,
    reload: Some("kill -HUP $(cat /tmp/web/pid)"),
};

/// Each worker has sockets of its own.
const NGINX_REUSEPORT: Server = Server {
    prepare: "\
mkdir -p /var/log/nginx /var/lib/nginx
cat >$DIR/nginx.conf <<END
user root;
worker_processes 3;
pid $DIR/pid;
error_log $DIR/error.log;
events {}
http {
    access_log off;
    server {
        listen 80 reuseport;
        listen [::]:80 reuseport;
        location / { return 200 '\\$remote_addr\\n'; }
    }
}
END",
    ..NGINX
};

/// Its new workers bind beside the old ones.
const HAPROXY: Server = Server {
    port: 80,
    proto: "tcp",
    prepare: "\
cat >$DIR/haproxy.cfg <<END
global
    pidfile $DIR/pid
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend web
    bind 0.0.0.0:80
    bind [::]:80 v6only
    http-request return status 200 content-type text/plain lf-string \"%[src]\"
END",
    line: "haproxy -W -db -p $DIR/pid -f $DIR/haproxy.cfg",
    question: Question::Web,
    reload: Some("kill -USR2 $(head -n 1 /tmp/web/pid)"),
};

const REDIS: Server = Server {
    port: 6379,
    proto: "tcp",
    prepare: "",
    line: "redis-server --bind 0.0.0.0 :: --protected-mode no --save '' --dir $DIR",
    question: Question::Line("CLIENT INFO\r\n", "resp=2\n\r\n"),
    reload: None,
};

const MEMCACHED: Server = Server {
    port: 11211,
    proto: "tcp",
    prepare: "",
    line: "memcached -u root -U 0",
    question: Question::Line("stats conns\r\n", "END\r\n"),
    reload: None,
};

const POSTGRES: Server = Server {
    port: 5432,
    proto: "tcp",
    prepare: "\
grep -q postgres /etc/passwd || echo postgres:x:999:999::/tmp:/bin/sh >>/etc/passwd
chown 999:999 $DIR
as='setpriv --reuid 999 --regid 999 --clear-groups'
$as /usr/lib/postgresql/15/bin/initdb -A trust -E UTF8 --locale C --no-sync -D $DIR/data >/dev/null
echo 'host all all all trust' >>$DIR/data/pg_hba.conf",
    line: "setpriv --reuid 999 --regid 999 --clear-groups \
           /usr/lib/postgresql/15/bin/postgres -D $DIR/data -k $DIR -c listen_addresses='*'",
    question: Question::Postgres,
    reload: None,
};

/// In Go, whose runtime interrupts system calls.
const ETCD: Server = Server {
    port: 2379,
    proto: "tcp",
    prepare: "",
    line: "etcd --data-dir $DIR/data --log-level error --listen-client-urls http://[::]:2379 \
           --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380",
    question: Question::Page("/version", "etcdserver"),
    reload: None,
};

/// By UDP alone: frames of eight octets before its lines.
const MEMCACHED_UDP: Server = Server {
    port: 11211,
    proto: "udp",
    prepare: "",
    line: "memcached -u root -p 0 -U 11211",
    question: Question::Datagram(b"\0\x07\0\0\0\x01\0\0version\r\n", b"VERSION"),
    reload: None,
};

/// `A` of host.test (RFC 1035, section 4.1), and the address that it is given.
const NAME: Question = Question::Datagram(
    b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04host\x04test\0\0\x01\0\x01",
    &[0, 4, 192, 0, 2, 55],
);

/// Asks by control messages where a datagram came to, and answers from there.
const DNSMASQ: Server = Server {
    port: 53,
    proto: "udp",
    prepare: "",
    line: "dnsmasq -k -C /dev/null -u root --no-resolv --no-hosts --address=/host.test/192.0.2.55",
    question: NAME,
    reload: None,
};

/// Two threads, each with sockets of its own.
const UNBOUND: Server = Server {
    port: 53,
    proto: "udp",
    prepare: "\
cat >$DIR/unbound.conf <<END
server:
    num-threads: 2
    so-reuseport: yes
    interface: 0.0.0.0
    interface: ::0
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    chroot: ''
    username: ''
    directory: $DIR
    pidfile: $DIR/pid
    use-syslog: no
    do-daemonize: no
    local-data: 'host.test. A 192.0.2.55'
remote-control:
    control-enable: no
END",
    line: "unbound -d -c $DIR/unbound.conf",
    question: NAME,
    reload: None,
};

macro_rules! servers {
    ($($test:ident: $server:ident),* $(,)?) => {
        $(#[test]
        #[ignore = "needs servers of Debian: cargo xtask test engines"]
        fn $test() {
            serves(stringify!($test), &$server);
        })*
    };
}

servers! {
    nginx: NGINX,
    nginx_with_reuseport: NGINX_REUSEPORT,
    haproxy: HAPROXY,
    redis: REDIS,
    memcached: MEMCACHED,
    postgres: POSTGRES,
    etcd: ETCD,
    memcached_by_udp: MEMCACHED_UDP,
    dnsmasq: DNSMASQ,
    unbound: UNBOUND,
}

/// Two of them, each on the same port of its own network, asked from everywhere,
/// ended and started again, told to read their settings anew while they are asked.
fn serves(name: &str, server: &Server) {
    let short: String = name
        .chars()
        .filter(char::is_ascii_lowercase)
        .take(11)
        .collect();
    let Some(host) = EngineHost::start(&format!("sv-{short}"), "servers") else {
        return;
    };
    let added = host.topology.world.add_ipv6();
    added.unwrap_or_else(|error| panic!("{error}"));
    host.start_netdp();
    host.netdp("network create six --ipv6");
    let before = Left::on(&host);
    server.start(&host, "web", 8080);
    server.start(&host, "two", 9090);
    host.netdp("run -d --name other --network six -- sleep 600");
    server.is_asked_from_everywhere(&host);
    let same = format!(
        "netdp run --network six -p 8080:80/{},direct -- true",
        server.proto
    );
    let taken = host.refused(&same);
    assert!(taken.contains("8080"), "{taken}");

    // The shell that is the sandbox's program starts it again.
    for _ in 0..3 {
        let shell = sandbox(&host, "web").pid.expect("its program");
        let children = format!("cat /proc/{shell}/task/{shell}/children");
        let ended = host.sh(&children);
        host.sh(&format!("kill {ended}"));
        host.wait_until("started again", || {
            let now = host.sh(&children);
            !now.is_empty() && now != ended && server.is_direct(&host, "web", 8080)
        });
        server.answers(&host, (HOST_ADDRESS, 8080));
    }
    if let Some(line) = server.reload {
        server.reloads(&host, line);
    }
    host.netdp("rm -f web two other");
    before.comes_back(&host);
}

impl Server {
    /// In a sandbox, and waits until it answers.
    #[track_caller]
    fn start(&self, host: &EngineHost, name: &str, port: u16) {
        let dir = format!("/tmp/{name}");
        host.sh(&format!(
            "set -e; DIR={dir}; mkdir $DIR; cd $DIR\n{}",
            self.prepare
        ));
        let script = format!("DIR={dir}\nwhile :; do {}; done\n", self.line);
        std::fs::write(host.path(format!("{dir}/start.sh")), script).unwrap();
        let (own, proto) = (self.port, self.proto);
        host.netdp(&format!(
            "run -d --name {name} --network six -p {port}:{own}/{proto},direct -- sh {dir}/start.sh"
        ));
        host.wait_until("listening directly", || self.is_direct(host, name, port));
        self.answers(host, (HOST_ADDRESS, port));
    }

    /// Waits until the client outside is answered: it may listen before it can.
    #[track_caller]
    fn answers(&self, host: &EngineHost, to: (Ipv4Addr, u16)) {
        let client = &host.topology.world.client;
        host.wait_until("answered", || self.question.ask(client, to.into()).is_ok());
    }

    /// Whether it has a socket of the host, and none of its own network.
    fn is_direct(&self, host: &EngineHost, name: &str, port: u16) -> bool {
        let program = sandbox(host, name).pid.expect("its program");
        let has = |process: u32, port: u16| {
            let tables = [self.proto.to_owned(), format!("{}6", self.proto)];
            tables.iter().any(|table| {
                let path = host.path(format!("/proc/{process}/net")).join(table);
                let text = std::fs::read_to_string(path).unwrap_or_default();
                text.lines().any(|line| is_bound(line, port))
            })
        };
        has(1, port) && !has(program, self.port)
    }

    #[track_caller]
    fn is_asked_from_everywhere(&self, host: &EngineHost) {
        let world = &host.topology.world;
        let ask = |place: &dyn Place, to: (IpAddr, u16), from: Option<IpAddr>| {
            let said = self.question.ask(&place, to.into());
            let said = said.unwrap_or_else(|error| panic!("{to:?}: {error}"));
            if let Some(from) = from.filter(|_| self.question.tells()) {
                assert!(
                    said.contains(&from.to_string()),
                    "{to:?}: {from} is not in {said}"
                );
            }
        };
        let (web, other) = (sandbox(host, "web"), sandbox(host, "other"));
        let inside = host.namespace_of(&other.pid.expect("its program").to_string());
        let program = host.topology.host_program();
        for port in [8080, 9090] {
            ask(
                &world.client,
                (HOST_ADDRESS.into(), port),
                Some(CLIENT_ADDRESS.into()),
            );
            ask(
                &world.outside,
                (HOST_ADDRESS.into(), port),
                Some(OUTSIDE_ADDRESS.into()),
            );
            ask(
                &world.client,
                (HOST_ADDRESS6.into(), port),
                Some(CLIENT_ADDRESS6.into()),
            );
            ask(&program, (Ipv4Addr::LOCALHOST.into(), port), None);
        }
        for (web, other) in addresses(&web).zip(addresses(&other)) {
            ask(&inside, (web, self.port), Some(other));
            ask(&program, (web, self.port), None);
        }
    }

    /// Reads its settings anew while it is asked, and no question is lost.
    #[track_caller]
    fn reloads(&self, host: &EngineHost, line: &str) {
        let (client, is_over) = (&host.topology.world.client, AtomicBool::new(false));
        thread::scope(|scope| {
            let asks = scope.spawn(|| {
                let mut asked = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = self.question.ask(client, (HOST_ADDRESS, 8080).into());
                    answer.unwrap_or_else(|error| panic!("after {asked}: {error}"));
                    asked += 1;
                }
                asked
            });
            let told = (0..5).try_for_each(|_| {
                host.try_sh(line)?;
                thread::sleep(Duration::from_millis(400));
                Ok::<_, String>(())
            });
            // First of all, or the other waits for ever.
            is_over.store(true, Ordering::Relaxed);
            told.unwrap_or_else(|error| panic!("{line}: {error}"));
            let asked = asks.join().expect("no question is lost");
            assert!(asked > 20, "{asked}");
        });
        assert!(self.is_direct(host, "web", 8080));
    }
}

impl Question {
    /// Whether the answer has the client's address.
    fn tells(self) -> bool {
        !matches!(self, Self::Page(..) | Self::Datagram(..))
    }

    /// # Errors
    /// Why there was no answer, or what it was instead.
    fn ask(self, place: &impl Place, to: SocketAddr) -> Result<String, String> {
        match self {
            Self::Web => get(place, to, "/", PATIENCE),
            Self::Page(path, part) => {
                let page = get(place, to, path, PATIENCE)?;
                page.contains(part).then(|| page.clone()).ok_or(page)
            }
            Self::Datagram(question, part) => send(place, to, question, part),
            Self::Line(line, end) => talk(place, to, line.as_bytes(), end.as_bytes()),
            Self::Postgres => {
                let length = |bytes: usize| (bytes as u32).to_be_bytes();
                let user = b"user\0postgres\0\0";
                let query = b"select inet_client_addr()\0";
                let said = [
                    // StartupMessage of protocol 3.0.
                    &length(8 + user.len())[..],
                    &[0, 3, 0, 0],
                    user,
                    // Query.
                    b"Q",
                    &length(4 + query.len()),
                    query,
                ];
                // ReadyForQuery, outside a transaction.
                talk(place, to, &said.concat(), b"SELECT 1\0Z\0\0\0\x05I")
            }
        }
    }
}

/// Sends a datagram until there is an answer, which has to have this in it.
fn send(place: &impl Place, to: SocketAddr, said: &[u8], part: &[u8]) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // One that is connected hears nobody else.
    let socket = udp(place, any, 0);
    socket.connect(to).map_err(words)?;
    socket.set_read_timeout(Some(SILENCE)).map_err(words)?;
    let mut heard = [0; 1024];
    let mut error = String::new();
    for _ in 0..5 {
        let length = match socket.send(said).and_then(|_| socket.recv(&mut heard)) {
            Ok(length) => length,
            Err(why) => {
                error = why.to_string();
                continue;
            }
        };
        let heard = &heard[..length];
        let is_it = heard.windows(part.len()).any(|it| it == part);
        let text = heard.escape_ascii().to_string();
        return is_it.then_some(text.clone()).ok_or(text);
    }
    Err(error)
}

/// Says something, and hears until the answer ends so.
fn talk(place: &impl Place, to: SocketAddr, said: &[u8], end: &[u8]) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut stream = connect_bound(place, None, to, PATIENCE).map_err(words)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    stream.write_all(said).map_err(words)?;
    let mut heard = Vec::new();
    let mut piece = [0; 1024];
    while !heard.ends_with(end) {
        match stream.read(&mut piece).map_err(words)? {
            0 => return Err(format!("the end after {}", heard.escape_ascii())),
            length => heard.extend(&piece[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

#[track_caller]
fn sandbox(host: &EngineHost, name: &str) -> Sandbox {
    let text = host.netdp(&format!("inspect {name}"));
    let mut found: Vec<Sandbox> = serde_json::from_str(&text).expect("sandboxes in JSON");
    found.remove(0)
}

fn addresses(sandbox: &Sandbox) -> impl Iterator<Item = IpAddr> {
    sandbox.endpoints[0].addresses.iter().map(|net| net.addr())
}

/// Whether a line of `/proc/net/tcp` or `udp`, or of their likes of IPv6, is of a
/// socket with this port that hears whoever comes.
fn is_bound(line: &str, port: u16) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let place = words.get(1).and_then(|local| local.rsplit_once(':'));
    place.is_some_and(|(_, hex)| hex == format!("{port:04X}")) && ["0A", "07"].contains(&words[3])
}
