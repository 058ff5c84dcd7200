//! HTTP requests on connections that stay open, one request outstanding on
//! each: a closed loop, driven by epoll from one thread.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::recorder::Recorder;
use super::tcp;
use super::{ClientConfig, Measurement};
use crate::load::LoadError;
use crate::load::http::{LOAD_REQUEST, frame};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

struct Connection {
    /// `None` while it could not be opened again.
    stream: Option<TcpStream>,
    received: Vec<u8>,
    asked: Instant,
}

pub(super) fn requests(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let reach = |source| LoadError::Reach {
        address: config.target,
        source,
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| reach(errno.into()))?;
    let mut connections = Vec::new();
    for index in 0..config.connections.max(1) {
        let mut connection = Connection {
            stream: None,
            received: Vec::with_capacity(4096),
            asked: Instant::now(),
        };
        connection.open(config, &epoll, index).map_err(reach)?;
        connections.push(connection);
    }
    let mut events = vec![EpollEvent::empty(); connections.len()];
    let mut now = Instant::now();
    while !recorder.over(now) {
        let ready = match epoll.wait(&mut events, EpollTimeout::from(100_u8)) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(errno) => return Err(reach(errno.into())),
        };
        for event in &events[..ready] {
            let index = event.data() as usize;
            let connection = &mut connections[index];
            match connection.receive() {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    now = Instant::now();
                    recorder.done(connection.asked, now, bytes);
                    if let Err(error) = connection.ask(now) {
                        recorder.error("request", error);
                        connection.stream = None;
                    }
                }
                Err(error) => {
                    recorder.error("response", error);
                    connection.stream = None;
                }
            }
        }
        now = Instant::now();
        for (index, connection) in connections.iter_mut().enumerate() {
            if connection.stream.is_some() && now - connection.asked > ANSWER_TIMEOUT {
                recorder.error("response", "none within 4 s");
                connection.stream = None;
            }
            if connection.stream.is_none()
                && let Err(error) = connection.open(config, &epoll, index)
            {
                recorder.error("connect", error);
            }
        }
    }
    Ok(recorder.finish(now))
}

impl Connection {
    /// Connects, registers for readability, and asks for the first time.
    /// Closing a stream takes it out of the epoll set.
    fn open(&mut self, config: &ClientConfig, epoll: &Epoll, index: usize) -> io::Result<()> {
        let stream = tcp::connect(config)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        self.received.clear();
        self.stream = Some(stream);
        self.ask(Instant::now())
    }

    fn ask(&mut self, now: Instant) -> io::Result<()> {
        self.asked = now;
        self.stream()?.write_all(LOAD_REQUEST)
    }

    /// Reads once; the payload of request and response when that is whole.
    fn receive(&mut self) -> io::Result<Option<u64>> {
        let mut chunk = [0; 4096];
        let length = self.stream()?.read(&mut chunk)?;
        if length == 0 {
            return Err(io::Error::other("the server closed"));
        }
        self.received.extend_from_slice(&chunk[..length]);
        let Some(framed) = frame(&self.received).map_err(io::Error::other)? else {
            return Ok(None);
        };
        if framed.status != 200 || framed.length != self.received.len() {
            return Err(io::Error::other(format!(
                "status {} and {} bytes beyond the answer",
                framed.status,
                self.received.len() - framed.length
            )));
        }
        self.received.clear();
        Ok(Some((LOAD_REQUEST.len() + framed.length) as u64))
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}
