//! The places for connections at one entrance. They are few; when all are taken, who comes gets the place of the one that
//! has been idle longest, so that a thousand idle connections lock nobody out. One with a request under way, or a stream,
//! keeps its place.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

#[derive(Debug)]
pub struct Places {
    places_max: usize,
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
    task: Option<AbortHandle>,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    #[must_use]
    pub fn new(places_max: usize) -> Arc<Places> {
        Arc::new(Places {
            places_max,
            taken: Mutex::default(),
        })
    }

    /// A place, if need be that of the connection that has been idle longest; `None` if all are busy.
    pub fn take(self: &Arc<Places>) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.seats.len() >= self.places_max {
            let idle = taken.seats.iter().enumerate();
            let idle = idle.filter_map(|(i, seat)| Some((seat.idle_since?, i)));
            let (_, longest) = idle.min()?;
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
            task: None,
        });
        Some(Place {
            places: Arc::clone(self),
            number,
        })
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

    pub fn set_busy(&self, busy: bool) {
        if let Some(seat) = self.places.taken.lock().seat(self.number) {
            seat.idle_since = (!busy).then(Instant::now);
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

    #[test]
    fn who_is_idle_longest_gives_way_and_who_is_busy_does_not() {
        let places = Places::new(2);
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        let third = places.take().unwrap();
        assert!(places.taken.lock().seat(first.number).is_none());
        second.set_busy(true);
        third.set_busy(true);
        assert!(places.take().is_none());
        second.set_busy(false);
        let fourth = places.take().unwrap();
        assert!(places.taken.lock().seat(second.number).is_none());
        assert!(places.taken.lock().seat(third.number).is_some());
        // One whose place was taken away gives back nothing.
        drop((first, second));
        assert_eq!(places.taken.lock().seats.len(), 2);
        drop((third, fourth));
        assert!(places.taken.lock().seats.is_empty());
    }
}
