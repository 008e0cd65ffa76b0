//! What one check of a backend leaves for the next: a line that stays open, a rest to be kept, a thing learnt. It is let go
//! when the target changes. Kinds reach it through their visit, the roster only holds it.

use super::line::Line;
use super::manners::Rest;

#[derive(Debug, Default)]
pub struct Kept {
    pub line: Option<Line>,
    pub rest: Option<Rest>,
    /// MySQL: the server is a node of a Galera cluster.
    pub in_cluster: bool,
}
