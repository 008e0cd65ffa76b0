//! What a server says it is: the word that databases with a primary and replicas have for themselves.

use std::fmt;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Not asked, not told, or not of these two.
    #[default]
    Unknown = 0,
    Primary = 1,
    Replica = 2,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Unknown, Role::Primary, Role::Replica];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Unknown => "unknown",
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}
