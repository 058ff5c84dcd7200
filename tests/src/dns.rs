//! Names asked for inside sandboxes, and a resolver outside.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::A, rdata::TXT};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{Listener, PATIENCE, Place, connect, udp};

pub const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// What the resolver outside says of every name.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

pub fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    message.add_query(Query::query(name, kind));
    message
}

/// Asks as a program of the sandbox does, by UDP: twice where no answer comes
/// (resolv.conf(5), `attempts`).
#[track_caller]
pub fn ask(place: &impl Place, name: &str, kind: RecordType) -> Message {
    ask_at(place, RESOLVER, name, kind)
        .or_else(|_| ask_at(place, RESOLVER, name, kind))
        .unwrap_or_else(|error| panic!("no answer about {name}: {error}"))
}

pub fn ask_at(
    place: &impl Place,
    resolver: (Ipv4Addr, u16),
    name: &str,
    kind: RecordType,
) -> io::Result<Message> {
    let socket = udp(place, Ipv4Addr::UNSPECIFIED, 0);
    // So that an answer counts only if it comes from where was asked.
    socket.connect(resolver)?;
    let question = question(name, kind);
    socket.send(&question.to_vec().unwrap())?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    Ok(answer)
}

#[track_caller]
pub fn ask_by_tcp(place: &impl Place, name: &str, kind: RecordType) -> Message {
    let mut stream = connect(place, RESOLVER);
    let question = question(name, kind).to_vec().unwrap();
    let length = question.len() as u16;
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(&question).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The addresses, or why there are none.
#[track_caller]
pub fn resolve(place: &impl Place, name: &str) -> Result<Vec<IpAddr>, ResponseCode> {
    let answer = ask(place, name, RecordType::A);
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(addresses(&answer)),
        code => Err(code),
    }
}

pub fn addresses(answer: &Message) -> Vec<IpAddr> {
    let records = answer.answers.iter();
    records
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0.into()),
            _ => None,
        })
        .collect()
}

/// A resolver that knows an address for every name but those that begin with
/// `unknown`; for those that begin with `long`, a text that needs TCP, and for
/// `many`, so many addresses. It counts what it is asked.
#[derive(Default)]
pub struct Outside {
    asked: AtomicU32,
    fails: bool,
}

/// How many addresses `many` has.
pub const MANY: u8 = 60;

impl Outside {
    /// One that says of everything that it failed.
    pub fn that_fails() -> Self {
        Self {
            fails: true,
            ..Self::default()
        }
    }

    fn answer(&self, message: &[u8], by_tcp: bool) -> Vec<u8> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let request = Message::from_vec(message).unwrap();
        let query = request.queries[0].clone();
        let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
        // Without it the C library takes an answer without records for a referral.
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let name = query.name.clone();
        let text = name.to_ascii();
        let is_long = text.starts_with("long");
        let is_many = text.starts_with("many") && query.query_type == RecordType::A;
        let mut found = Vec::new();
        if (is_long || is_many) && !by_tcp {
            answer.metadata.truncation = true;
        } else if is_long {
            found = vec![RData::TXT(TXT::new(vec!["x".repeat(200)])); 20];
        } else if is_many {
            found = (0..MANY)
                .map(|last| RData::A(A::new(192, 0, 2, last)))
                .collect();
        } else if self.fails {
            answer.metadata.response_code = ResponseCode::ServFail;
        } else if text.starts_with("unknown") {
            answer.metadata.response_code = ResponseCode::NXDomain;
        } else if query.query_type == RecordType::A {
            found = vec![RData::A(A(ELSEWHERE))];
        }
        let record = |data| Record::from_rdata(name.clone(), 60, data);
        answer.add_answers(found.into_iter().map(record));
        answer.to_vec().unwrap()
    }

    pub fn count(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Answers until the sockets end, or nothing comes for long.
    fn serve(&self, datagrams: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            // An empty datagram tells to end.
            if length == 0 {
                return;
            }
            let answer = self.answer(&buffer[..length], false);
            let _ = datagrams.send_to(&answer, from);
        }
    }

    /// Answers a connection after another until one says nothing.
    pub fn serve_by_tcp(&self, listener: &Listener) {
        while self.serve_one_by_tcp(listener) {}
    }

    pub fn serve_one_by_tcp(&self, listener: &Listener) -> bool {
        let (mut stream, _) = listener.accept();
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            return false;
        }
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut message).unwrap();
        let answer = self.answer(&message, true);
        let length = answer.len() as u16;
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(&answer).unwrap();
        true
    }
}

/// While `outside` answers at an address of `place`, by UDP.
pub fn with_resolver(
    place: &impl Place,
    address: impl Into<IpAddr>,
    outside: &Outside,
    test: impl FnOnce(),
) {
    let address = address.into();
    let datagrams = udp(place, address, 53);
    let end = udp(place, address, 0);
    setsockopt(
        &datagrams.as_fd(),
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(4 * PATIENCE.as_secs() as i64),
    )
    .unwrap();
    thread::scope(|scope| {
        scope.spawn(|| outside.serve(&datagrams));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        end.send_to(&[], (address, 53)).unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}
