//! The lines in which parcels wait for their turn to be sent: first in, first out, one per direction, all lines of a
//! worker in one arena. There are never more parcels than provided buffers, so the arena never grows after start.

/// A direction's line: three numbers, whatever its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line {
    head: u32,
    tail: u32,
    count: u32,
}

impl Line {
    pub const EMPTY: Line = Line {
        head: 0,
        tail: 0,
        count: 0,
    };

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node<T> {
    parcel: Option<T>,
    next: u32,
}

/// The arena of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parcels<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
}

impl<T> Parcels<T> {
    /// Room for `parcels_max` waiting parcels in all lines together.
    #[must_use]
    pub fn new(parcels_max: u32) -> Parcels<T> {
        Parcels {
            nodes: (0..parcels_max)
                .map(|_| Node {
                    parcel: None,
                    next: 0,
                })
                .collect(),
            free: (0..parcels_max).rev().collect(),
        }
    }

    /// Room for so many parcels in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.nodes.len()
    }

    /// Parcels waiting now, over all lines.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    pub fn push_back(&mut self, line: &mut Line, parcel: T) {
        let node = self.take_node(parcel);
        if line.count == 0 {
            line.head = node;
        } else {
            self.nodes[line.tail as usize].next = node;
        }
        line.tail = node;
        line.count += 1;
    }

    /// Puts the unsent rest of a parcel back to where it was: before all others.
    pub fn push_front(&mut self, line: &mut Line, parcel: T) {
        let node = self.take_node(parcel);
        if line.count == 0 {
            line.tail = node;
        } else {
            self.nodes[node as usize].next = line.head;
        }
        line.head = node;
        line.count += 1;
    }

    pub fn pop_front(&mut self, line: &mut Line) -> Option<T> {
        if line.count == 0 {
            return None;
        }
        let node = line.head;
        line.head = self.nodes[node as usize].next;
        line.count -= 1;
        self.free.push(node);
        self.nodes[node as usize].parcel.take()
    }

    fn take_node(&mut self, parcel: T) -> u32 {
        let node = self
            .free
            .pop()
            .expect("each parcel is one provided buffer, and there is a node for each buffer");
        self.nodes[node as usize] = Node {
            parcel: Some(parcel),
            next: 0,
        };
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_order_and_do_not_mix() {
        let mut parcels = Parcels::new(6);
        let (mut one, mut two) = (Line::default(), Line::default());
        for n in 0..3 {
            parcels.push_back(&mut one, n);
            parcels.push_back(&mut two, 10 + n);
        }
        assert_eq!(parcels.pop_front(&mut one), Some(0));
        parcels.push_front(&mut one, 100);
        assert_eq!(parcels.pop_front(&mut one), Some(100));
        assert_eq!(parcels.pop_front(&mut one), Some(1));
        assert_eq!(parcels.pop_front(&mut one), Some(2));
        assert_eq!(parcels.pop_front(&mut one), None);
        assert_eq!(parcels.pop_front(&mut two), Some(10));
        assert_eq!(parcels.waiting(), 2);
    }
}
