//! From a question to its answer, as far as netdp knows it. Pure.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use rand::seq::SliceRandom as _;

use crate::model::names::{Found, View};

/// Seconds that a name may be remembered. A sandbox that is started again has
/// another address at once; and to ask again costs a datagram on loopback.
const TTL: u32 = 5;

/// Length of a message's header (RFC 1035, section 4.1.1), bytes.
const HEADER: usize = 12;

/// Longest answer over UDP without EDNS (RFC 1035, section 4.2.1), bytes.
const PLAIN: u16 = 512;

/// Longest answer over UDP that is given and asked for, bytes: what passes
/// any link unfragmented (RFC 9715).
const PAYLOAD: u16 = 1232;

/// The version of EDNS that is known (RFC 6891, section 6.1.3).
const EDNS_VERSION: u8 = 0;

/// By what a question came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Answer(Vec<u8>),
    /// A resolver outside is to be asked.
    Forward,
    /// It is no question.
    Ignore,
}

/// What becomes of `message`, sent by a sandbox that sees `view`.
pub fn answer(view: &View, message: &[u8], transport: Transport) -> Outcome {
    // An answer to an answer could go round for ever.
    if message.len() < HEADER || message[2] & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let Ok(request) = Message::from_vec(message) else {
        return failure(message, ResponseCode::FormErr);
    };
    if request.metadata.op_code != OpCode::Query {
        return failure(message, ResponseCode::NotImp);
    }
    let ([query], Some(_)) = (&request.queries[..], question(message)) else {
        return failure(message, ResponseCode::FormErr);
    };
    if let Some(edns) = &request.edns
        && edns.version() > EDNS_VERSION
    {
        return bad_version(message, &request, query);
    }
    let records = match query.query_class {
        DNSClass::IN => find(view, &query.name, query.query_type),
        _ => Found::Unknown,
    };
    let (code, answers) = match records {
        Found::Known(records) => (ResponseCode::NoError, records),
        Found::Nobody => (ResponseCode::NXDomain, Vec::new()),
        Found::Unknown if view.forwards => return Outcome::Forward,
        // As Docker does: the sandbox has no way out, so nobody can tell.
        Found::Unknown => return failure(message, ResponseCode::ServFail),
    };
    let mut response = Message::response(request.metadata.id, OpCode::Query);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.authoritative = true;
    response.metadata.recursion_available = view.forwards;
    response.metadata.response_code = code;
    response.add_query(query.clone());
    response.add_answers(answers);
    let mut limit = PLAIN;
    if let Some(edns) = &request.edns {
        limit = edns.max_payload().clamp(PLAIN, PAYLOAD);
        response.set_edns(own_edns());
    }
    encode(message, &response, transport, limit)
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_version(EDNS_VERSION);
    edns.set_max_payload(PAYLOAD);
    edns
}

/// Tells the version that is known here.
fn bad_version(message: &[u8], request: &Message, query: &Query) -> Outcome {
    let mut response = Message::response(request.metadata.id, OpCode::Query);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.response_code = ResponseCode::BADVERS;
    response.add_query(query.clone());
    response.set_edns(own_edns());
    encode(message, &response, Transport::Udp, PLAIN)
}

fn encode(message: &[u8], response: &Message, transport: Transport, limit: u16) -> Outcome {
    let fits = |bytes: &Vec<u8>| {
        bytes.len()
            <= match transport {
                Transport::Udp => usize::from(limit),
                Transport::Tcp => usize::from(u16::MAX),
            }
    };
    let whole = response.to_vec().ok().filter(fits);
    // Who is told that it was cut off asks again by TCP.
    let bytes = whole.or_else(|| response.truncate().to_vec().ok());
    match bytes {
        Some(bytes) => Outcome::Answer(bytes),
        None => failure(message, ResponseCode::ServFail),
    }
}

/// The answer that says only that there is none: header and question of the
/// message, as far as there is one.
pub fn failure(message: &[u8], code: ResponseCode) -> Outcome {
    let Some(header) = message.get(..HEADER) else {
        return Outcome::Ignore;
    };
    let mut bytes = header.to_vec();
    // QR, and what was asked of opcode and RD (RFC 1035, section 4.1.1).
    bytes[2] = bytes[2] & 0b0111_1001 | 0b1000_0000;
    bytes[3] = code.low();
    let question = question(message).unwrap_or_default();
    let count = u8::from(!question.is_empty());
    bytes[4..].copy_from_slice(&[0, count, 0, 0, 0, 0, 0, 0]);
    bytes.extend(question);
    Outcome::Answer(bytes)
}

/// The first question, as it lies in the message; none where it is cut off or
/// refers to other parts.
pub fn question(message: &[u8]) -> Option<&[u8]> {
    /// Type and class.
    const TAIL: usize = 4;
    let count = message.get(4..6)?;
    if count == [0, 0] {
        return None;
    }
    let mut end = HEADER;
    loop {
        let length = usize::from(*message.get(end)?);
        end += 1 + length;
        match length {
            0 => return message.get(HEADER..end + TAIL),
            // 64 and more are pointers (RFC 1035, section 4.1.4).
            64.. => return None,
            _ => {}
        }
    }
}

fn find(view: &View, name: &Name, kind: RecordType) -> Found<Vec<Record>> {
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    if kind == RecordType::PTR
        && let Some(address) = reversed(name)
    {
        return match view.name(address) {
            Found::Known(found) => match Name::from_ascii(format!("{found}.")) {
                Ok(found) => Found::Known(vec![record(RData::PTR(PTR(found)))]),
                // A sandbox may have a name that is none of DNS.
                Err(_) => Found::Nobody,
            },
            Found::Nobody => Found::Nobody,
            Found::Unknown => Found::Unknown,
        };
    }
    let Some(text) = text(name) else {
        return Found::Unknown;
    };
    let mut addresses = match view.addresses(&text) {
        Found::Known(addresses) => addresses,
        Found::Nobody => return Found::Nobody,
        Found::Unknown => return Found::Unknown,
    };
    // Who takes the first of many takes another one each time.
    addresses.shuffle(&mut rand::rng());
    let records = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) if matches!(kind, RecordType::A | RecordType::ANY) => {
            Some(record(RData::A(A(address))))
        }
        IpAddr::V6(address) if matches!(kind, RecordType::AAAA | RecordType::ANY) => {
            Some(record(RData::AAAA(AAAA(address))))
        }
        _ => None,
    });
    // A name that is known has no records of other types.
    Found::Known(records.collect())
}

/// The address of a name below in-addr.arpa or ip6.arpa.
fn reversed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// Without the dot at the end; none where a label is no text of ASCII.
fn text(name: &Name) -> Option<String> {
    let labels: Option<Vec<&str>> = name
        .iter()
        .map(|label| {
            std::str::from_utf8(label)
                .ok()
                .filter(|label| label.is_ascii())
        })
        .collect();
    labels
        .map(|labels| labels.join("."))
        .filter(|text| !text.is_empty())
}

/// `reply` as who asked `message` over UDP can take it: cut off, and said to be
/// so, where it is longer than that.
pub fn fitting(message: &[u8], reply: Vec<u8>) -> Vec<u8> {
    if reply.len() <= usize::from(PLAIN) || reply.len() <= usize::from(payload(message)) {
        return reply;
    }
    let Outcome::Answer(mut cut) = failure(message, ResponseCode::NoError) else {
        return reply;
    };
    // What was said of the answer, and TC.
    cut[2] = reply[2] | 0b0000_0010;
    cut[3] = reply[3];
    cut
}

/// What was said to be the longest answer that can be taken.
fn payload(message: &[u8]) -> u16 {
    let request = Message::from_vec(message).ok();
    let edns = request.and_then(|request| request.edns);
    edns.map_or(PLAIN, |edns| edns.max_payload())
}

/// Whether this is a message of the kind that answers.
pub fn is_response(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & 0x80 != 0
}
