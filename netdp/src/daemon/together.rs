//! Requests that wait for their turn at the same time are one change: what a
//! change takes by itself, a look at the host, a transaction of the store and a
//! plan, is then taken once for all of them.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::oneshot;

use crate::model::{HostView, Refusal, State};

use super::{change::Core, owner::OwnerError};

/// So many are one change at most: when something of it can't be done, all of
/// it is undone and tried again in parts.
const MOST: usize = 256;

/// Requests that nobody has begun with, the first to be asked first.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Vec<Box<dyn Request>>>);

/// A request to change the state. It may be tried more than once.
pub(super) trait Request: Send {
    /// Changes the state as it asks for; after a refusal the state may be half
    /// changed.
    fn attempt(&mut self, state: &mut State, host: &HostView<'_>) -> Result<(), Refusal>;

    /// Tells who has asked.
    fn answer(self: Box<Self>, done: Result<(), OwnerError>);
}

struct Asked<T, F> {
    request: F,
    made: Option<T>,
    asker: oneshot::Sender<Result<T, OwnerError>>,
}

impl<T, F> Request for Asked<T, F>
where
    T: Send,
    F: FnMut(&mut State, &HostView<'_>) -> Result<T, Refusal> + Send,
{
    fn attempt(&mut self, state: &mut State, host: &HostView<'_>) -> Result<(), Refusal> {
        self.made = Some((self.request)(state, host)?);
        Ok(())
    }

    fn answer(self: Box<Self>, done: Result<(), OwnerError>) {
        let answer = match (done, self.made) {
            (Ok(()), Some(made)) => Ok(made),
            // It was never tried.
            (Ok(()), None) => return,
            (Err(error), _) => Err(error),
        };
        // Who has gone needs no answer.
        let _ = self.asker.send(answer);
    }
}

impl Waiting {
    /// Adds a request; gives where its answer comes.
    pub(super) fn add<T: Send + 'static>(
        &self,
        request: impl FnMut(&mut State, &HostView<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, OwnerError>> {
        let (asker, answer) = oneshot::channel();
        self.requests().push(Box::new(Asked {
            request,
            made: None,
            asker,
        }));
        answer
    }

    /// Takes those that have waited longest.
    pub(super) fn take(&self) -> Vec<Box<dyn Request>> {
        let mut requests = self.requests();
        let count = requests.len().min(MOST);
        requests.drain(..count).collect()
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn Request>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Makes one change of all requests, and answers them. One that is refused
    /// beside others is made by itself once they are done, since what was in its
    /// way may have gone with them; refused by itself it changes nothing. Where the
    /// change fails, it is undone and made in halves, so that only those fail that
    /// can't be done by themselves.
    pub(super) async fn change_together(&mut self, requests: Vec<Box<dyn Request>>) {
        let mut parts = vec![requests];
        while let Some(mut part) = parts.pop() {
            let alone = part.len() == 1;
            let changed = self
                .change(|state, host| match &mut part[..] {
                    [request] => request.attempt(state, host).map(|()| BTreeSet::new()),
                    requests => Ok(attempt(requests, state, host)),
                })
                .await;
            match changed {
                Ok(refused) => {
                    let later = answer(part, &refused);
                    parts.extend(later.into_iter().rev().map(|it| vec![it]));
                }
                Err(error) if alone => {
                    if let Some(request) = part.pop() {
                        request.answer(Err(error));
                    }
                }
                Err(error) => {
                    tracing::debug!("{} requests at once: {error}", part.len());
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
            }
        }
    }
}

/// Makes what can be made, and gives the places of the others.
fn attempt(
    requests: &mut [Box<dyn Request>],
    state: &mut State,
    host: &HostView<'_>,
) -> BTreeSet<usize> {
    let before = state.clone();
    // Without a copy for each, as long as nothing is refused.
    if requests
        .iter_mut()
        .all(|it| it.attempt(state, host).is_ok())
    {
        return BTreeSet::new();
    }
    *state = before;
    let mut refused = BTreeSet::new();
    for (place, request) in requests.iter_mut().enumerate() {
        let before = state.clone();
        if request.attempt(state, host).is_err() {
            *state = before;
            refused.insert(place);
        }
    }
    refused
}

/// Answers those that were made, and gives the others.
fn answer(requests: Vec<Box<dyn Request>>, refused: &BTreeSet<usize>) -> Vec<Box<dyn Request>> {
    let mut later = Vec::new();
    for (place, request) in requests.into_iter().enumerate() {
        if refused.contains(&place) {
            later.push(request);
        } else {
            request.answer(Ok(()));
        }
    }
    later
}
