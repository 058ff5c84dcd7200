//! Turns of endpoints between their making and their joining a sandbox.
//!
//! Of a request that was lost, dockerd tells no more than its method when it
//! asks again. Each container that joins a sandbox has an interface of its own,
//! so one alone may be about to: the next one is told that its endpoint is there
//! when this one has joined.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use crate::model::EndpointId;

/// How long a turn lasts at most: dockerd takes milliseconds for it.
const LONGEST: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct Turns {
    one: Arc<Semaphore>,
    taken: Mutex<BTreeMap<EndpointId, OwnedSemaphorePermit>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            one: Arc::new(Semaphore::new(1)),
            taken: Mutex::default(),
        }
    }
}

impl Turns {
    /// Waits for this endpoint's turn.
    pub async fn begin(self: &Arc<Self>, endpoint: EndpointId) {
        let one = Arc::clone(&self.one).acquire_owned();
        let Ok(Ok(turn)) = timeout(LONGEST, one).await else {
            return;
        };
        self.taken().insert(endpoint, turn);
        let turns = Arc::clone(self);
        tokio::spawn(async move {
            sleep(LONGEST).await;
            turns.end(endpoint);
        });
    }

    /// This endpoint has joined, or never will.
    pub fn end(&self, endpoint: EndpointId) {
        self.taken().remove(&endpoint);
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, OwnedSemaphorePermit>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time() {
        let turns = Arc::new(Turns::default());
        let [one, two, three] = [(); 3].map(|()| EndpointId::random());
        turns.begin(one).await;
        let waits = timeout(Duration::from_millis(20), turns.begin(two)).await;
        assert!(waits.is_err());
        turns.end(one);
        turns.begin(two).await;
        // Never joins: nobody waits for that for long.
        let began = Instant::now();
        turns.begin(three).await;
        assert!(began.elapsed() < 3 * LONGEST);
    }
}
