//! The places for connections at one entrance. They are few; when all are taken, who comes gets the place of the one that
//! has been idle longest, so that a thousand idle connections lock nobody out. One with a request under way, or a stream,
//! keeps its place; and so does one that has just come, for as long as its request may take to come after it, or else those
//! who come in a crowd would only push each other out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

#[derive(Debug)]
pub struct Places {
    places_max: usize,
    /// Nobody is put out who has been idle for less.
    grace: Duration,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    seats: Vec<Seat>,
    last: u64,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    /// `None`: a request is under way.
    idle_since: Option<Instant>,
    /// What is answered is known, and only has to be written.
    is_answered: bool,
    task: Option<AbortHandle>,
}

/// What came of a wish for a place.
#[derive(Debug)]
pub enum Wish {
    Granted(Place),
    /// All are taken, but one may be had after so long.
    Later(Duration),
    /// All are busy.
    Refused,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    #[must_use]
    pub fn new(places_max: usize, grace: Duration) -> Arc<Places> {
        Arc::new(Places {
            places_max,
            grace,
            taken: Mutex::default(),
        })
    }

    /// A place, if need be that of the connection that has been idle longest.
    pub fn take(self: &Arc<Places>) -> Wish {
        let mut taken = self.taken.lock();
        if taken.seats.len() >= self.places_max {
            let idle = taken.seats.iter().enumerate();
            let idle = idle.filter_map(|(i, seat)| Some((seat.idle_since?, i)));
            let Some((since, longest)) = idle.min() else {
                return Wish::Refused;
            };
            let left = self.grace.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Wish::Later(left);
            }
            let seat = taken.seats.swap_remove(longest);
            if let Some(task) = seat.task {
                task.abort();
            }
        }
        taken.last += 1;
        let number = taken.last;
        taken.seats.push(Seat {
            number,
            idle_since: Some(Instant::now()),
            is_answered: false,
            task: None,
        });
        Wish::Granted(Place {
            places: Arc::clone(self),
            number,
        })
    }

    /// The same, after the time that it takes; `None` if all are busy.
    pub async fn wait_for_one(self: &Arc<Places>) -> Option<Place> {
        loop {
            match self.take() {
                Wish::Granted(place) => return Some(place),
                Wish::Later(pause) => tokio::time::sleep(pause).await,
                Wish::Refused => return None,
            }
        }
    }

    /// Ends every connection that has no request under way.
    pub fn dismiss_idle(&self) {
        for seat in &self.taken.lock().seats {
            if let (Some(_), Some(task)) = (seat.idle_since, &seat.task) {
                task.abort();
            }
        }
    }

    /// Tells what to end when the place is taken away.
    pub fn belongs(&self, number: u64, task: AbortHandle) {
        match self.taken.lock().seat(number) {
            Some(seat) => seat.task = Some(task),
            // Taken away, or given back, before it began.
            None => task.abort(),
        }
    }
}

impl Taken {
    fn seat(&mut self, number: u64) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.number == number)
    }
}

impl Place {
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A request has come.
    pub fn set_busy(&self) {
        if let Some(seat) = self.places.taken.lock().seat(self.number) {
            (seat.idle_since, seat.is_answered) = (None, false);
        }
    }

    /// Once all that there is to write is written, the place is idle.
    pub fn set_answered(&self) {
        if let Some(seat) = self.places.taken.lock().seat(self.number) {
            seat.is_answered = true;
        }
    }

    /// Nothing is left to write.
    pub fn on_written(&self) {
        if let Some(seat) = self.places.taken.lock().seat(self.number)
            && std::mem::take(&mut seat.is_answered)
        {
            seat.idle_since = Some(Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.seats.retain(|seat| seat.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(places: &Arc<Places>) -> Option<Place> {
        match places.take() {
            Wish::Granted(place) => Some(place),
            Wish::Later(_) | Wish::Refused => None,
        }
    }

    #[test]
    fn who_is_idle_longest_gives_way_and_who_is_busy_does_not() {
        let places = Places::new(2, Duration::ZERO);
        let take = || granted(&places);
        let (first, second) = (take().unwrap(), take().unwrap());
        let third = take().unwrap();
        assert!(places.taken.lock().seat(first.number).is_none());
        second.set_busy();
        third.set_busy();
        second.on_written();
        assert!(take().is_none());
        second.set_answered();
        assert!(take().is_none(), "it is not written yet");
        second.on_written();
        let fourth = take().unwrap();
        assert!(places.taken.lock().seat(second.number).is_none());
        assert!(places.taken.lock().seat(third.number).is_some());
        // One whose place was taken away gives back nothing.
        drop((first, second));
        assert_eq!(places.taken.lock().seats.len(), 2);
        drop((third, fourth));
        assert!(places.taken.lock().seats.is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_has_just_come_is_not_put_out_by_a_crowd() {
        let grace = Duration::from_millis(100);
        let places = Places::new(1, grace);
        let began = Instant::now();
        let first = granted(&places).unwrap();
        assert!(matches!(places.take(), Wish::Later(left) if left <= grace));
        let _second = places.wait_for_one().await.unwrap();
        assert!(began.elapsed() >= grace);
        assert!(places.taken.lock().seat(first.number).is_none());
    }
}
