//! The filters that a supervisor hears of system calls by.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    rc::Rc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    handover::{HandedOver, HandoverError, receive},
    notification::{Call, NotifyError, receive_call},
};

/// Before somebody is heard again whom the kernel had no descriptor or memory for.
const PAUSE: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Filters {
    heard: Vec<Rc<OwnedFd>>,
    runtime: Option<Runtime>,
}

/// Where filters are handed over.
#[derive(Debug)]
struct Runtime {
    socket: UnixListener,
    /// The process that hands over the first one, until it has ended. Later ones
    /// are of programs that enter a container which lives.
    starter: Option<OwnedFd>,
}

pub(super) enum Event {
    Call(Rc<OwnedFd>, Call),
    /// A filter of this process was handed over.
    Joined(i32),
    NotHandedOver(HandoverError),
    /// A filter isn't heard any more.
    Lost(NotifyError),
    /// No program is left under any filter.
    Ended,
}

/// What is ready.
enum Ready {
    Starter,
    Socket,
    Filter { at: usize, ended: bool },
}

impl Filters {
    pub fn of(filter: OwnedFd) -> Self {
        Self {
            heard: vec![Rc::new(filter)],
            runtime: None,
        }
    }

    /// # Errors
    /// The kernel's.
    pub fn handed_over_at(socket: UnixListener, starter: OwnedFd) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            heard: Vec::new(),
            runtime: Some(Runtime {
                socket,
                starter: Some(starter),
            }),
        })
    }

    /// Waits for what happens next.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn next(&mut self) -> Result<Event, NotifyError> {
        loop {
            let starts = self.runtime.as_ref().is_some_and(|it| it.starter.is_some());
            if self.heard.is_empty() && !starts {
                return Ok(Event::Ended);
            }
            match self.wait()? {
                Ready::Starter => {
                    if let Some(runtime) = &mut self.runtime {
                        runtime.starter = None;
                    }
                }
                Ready::Socket => match self.accept() {
                    Some(Ok(handed)) => {
                        self.heard.push(Rc::new(handed.filter));
                        return Ok(Event::Joined(handed.process));
                    }
                    Some(Err(error)) => return Ok(Event::NotHandedOver(error)),
                    None => {}
                },
                Ready::Filter { at, ended: true } => drop(self.heard.remove(at)),
                Ready::Filter { at, ended: false } => {
                    let filter = Rc::clone(&self.heard[at]);
                    match receive_call(filter.as_fd()) {
                        Ok(Some(call)) => return Ok(Event::Call(filter, call)),
                        Ok(None) => {}
                        Err(error) => {
                            self.heard.remove(at);
                            return Ok(Event::Lost(error));
                        }
                    }
                }
            }
        }
    }

    /// The kernel looks at the descriptors in their order: when the starter is
    /// found to have ended, the socket has all that it ever sent.
    fn wait(&self) -> Result<Ready, NotifyError> {
        let starter = self.runtime.iter().filter_map(|it| it.starter.as_ref());
        let mut what: Vec<BorrowedFd<'_>> = starter.map(AsFd::as_fd).collect();
        let sockets = what.len();
        what.extend(self.runtime.iter().map(|it| it.socket.as_fd()));
        let filters = what.len();
        what.extend(self.heard.iter().map(|it| it.as_fd()));
        let mut polled: Vec<PollFd<'_>> = what
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                polled => polled.map_err(|errno| NotifyError::Wait(errno.into()))?,
            };
            let events = |at: usize| polled[at].revents().unwrap_or(PollFlags::empty());
            if (sockets..filters).any(|at| !events(at).is_empty()) {
                return Ok(Ready::Socket);
            }
            for at in filters..polled.len() {
                if !events(at).is_empty() {
                    return Ok(Ready::Filter {
                        at: at - filters,
                        ended: !events(at).contains(PollFlags::POLLIN),
                    });
                }
            }
            if (0..sockets).any(|at| !events(at).is_empty()) {
                return Ok(Ready::Starter);
            }
        }
    }

    fn accept(&self) -> Option<Result<HandedOver, HandoverError>> {
        use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
        match self.runtime.as_ref()?.socket.accept() {
            // It waits for its words, unlike the socket: accept(2), Notes.
            Ok((stream, _)) => Some(receive(&stream)),
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted) => {
                None
            }
            // Who waits there does so until it is heard.
            Err(error) => {
                thread::sleep(PAUSE);
                Some(Err(HandoverError::Accept(error)))
            }
        }
    }
}
