//! Who of a pool is what the pool asks for. A pure judgement over what the checks know of its backends, made anew after
//! each thing heard.
//!
//! A replica is whoever says so. There is one primary: the backend that says so while no other does. What two that both
//! say so are, nobody here can know, so neither serves until one takes it back, is found dead, or the operator takes one
//! out. Who serves keeps serving while its checks fail and it is not found dead yet; a newcomer waits that long, else two
//! would serve at once.
//!
//! | backend says | another | ruling |
//! |---|---|---|
//! | what is asked for | – | serves |
//! | primary | has not been heard yet | waits, or goes on serving |
//! | primary | says primary, and its checks began to fail | waits, or goes on serving |
//! | primary | says primary | disputed, both |
//! | primary | was in dispute with it, and its checks began to fail | disputed, both |
//! | primary, and the operator took it out | – | benched |
//! | something else | – | wrong role |
//! | nothing: it is down, or not known yet | – | silent |
//!
//! Called by the roster; it must not touch a verdict.

use crate::handoff::Health;
use crate::ids::Role;

/// What the checks know of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether a check has found anything yet.
    pub heard: bool,
    /// By rise and fall alone.
    pub health: Health,
    /// The last check failed, and not often enough yet.
    pub falters: bool,
    /// What it said last.
    pub said: Role,
    /// The operator lets it serve. Others do not count: they get no new sessions whatever they say.
    pub contends: bool,
    /// What was ruled before.
    pub before: Ruling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ruling {
    #[default]
    Silent,
    Serves,
    /// It may be the one, and must wait for others to be heard or found dead.
    Waits,
    /// It and another both say that they are the primary.
    Disputed,
    /// It is what is asked for, and the operator took it out.
    Benched,
    WrongRole,
}

/// Judges all backends of one pool that asks for `asked`, into `rulings`.
pub fn judge(asked: Role, standings: &[Standing], rulings: &mut Vec<Ruling>) {
    rulings.clear();
    for (own, standing) in standings.iter().enumerate() {
        rulings.push(if standing.health != Health::Up {
            Ruling::Silent
        } else if standing.said != asked {
            Ruling::WrongRole
        } else if asked != Role::Primary {
            Ruling::Serves
        } else if !standing.contends {
            Ruling::Benched
        } else {
            claim(own, standings)
        });
    }
}

/// What becomes of a backend that says it is the primary.
fn claim(place: usize, standings: &[Standing]) -> Ruling {
    let own = &standings[place];
    let others = || {
        let others = standings.iter().enumerate();
        others.filter_map(move |(i, other)| (i != place && other.contends).then_some(other))
    };
    let mut rivals = others()
        .filter(|other| other.health == Health::Up && other.said == Role::Primary)
        .peekable();
    let serves = own.before == Ruling::Serves;
    if rivals.peek().is_none() {
        let unheard = others().any(|other| !other.heard);
        return match unheard && !serves {
            true => Ruling::Waits,
            false => Ruling::Serves,
        };
    }
    // A dispute that began ends when it is decided, not when one of the two stumbles.
    let lasting =
        |rival: &Standing| own.before == Ruling::Disputed && rival.before == Ruling::Disputed;
    if rivals.any(|rival| lasting(rival) || !rival.falters && !own.falters) {
        Ruling::Disputed
    } else if serves {
        Ruling::Serves
    } else {
        Ruling::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `P`rimary, `R`eplica, `?` up without a word, `p` primary that falters, `x` down, `-` not heard yet, `m` primary in
    /// maintenance.
    fn standing(letter: char, before: Ruling) -> Standing {
        let (health, said) = match letter {
            'P' | 'p' | 'm' => (Health::Up, Role::Primary),
            'R' => (Health::Up, Role::Replica),
            '?' => (Health::Up, Role::Unknown),
            'x' => (Health::Down, Role::Unknown),
            '-' => (Health::Unknown, Role::Unknown),
            other => panic!("nobody is {other}"),
        };
        Standing {
            heard: letter != '-',
            health,
            falters: letter == 'p',
            said,
            contends: letter != 'm',
            before,
        }
    }

    /// `S`erves, `W`aits, `D`isputed, `b`enched, wrong `r`ole, `.` silent.
    fn word(ruling: Ruling) -> char {
        match ruling {
            Ruling::Silent => '.',
            Ruling::Serves => 'S',
            Ruling::Waits => 'W',
            Ruling::Disputed => 'D',
            Ruling::Benched => 'b',
            Ruling::WrongRole => 'r',
        }
    }

    /// The rulings after each moment of a story.
    fn story(asked: Role, moments: &[&str]) -> Vec<String> {
        let mut rulings = Vec::new();
        let told = moments.iter().map(|moment| {
            let standings: Vec<Standing> = moment
                .chars()
                .enumerate()
                .map(|(i, letter)| standing(letter, rulings.get(i).copied().unwrap_or_default()))
                .collect();
            judge(asked, &standings, &mut rulings);
            rulings.iter().copied().map(word).collect()
        });
        told.collect()
    }

    #[test]
    fn the_table_of_rulings() {
        for (asked, moments, expected) in [
            // At the start the first to speak waits for the others.
            (
                Role::Primary,
                &["--", "P-", "PR"][..],
                &["..", "W.", "Sr"][..],
            ),
            (Role::Primary, &["P-", "Px"], &["W.", "S."]),
            (Role::Primary, &["P-", "PP"], &["W.", "DD"]),
            // A failover: the old one falters, is found dead, the new one takes over.
            (
                Role::Primary,
                &["PR", "pR", "pP", "xP", "RP"],
                &["Sr", "Sr", "SW", ".S", "rS"],
            ),
            (Role::Primary, &["PR", "xR", "xP"], &["Sr", ".r", ".S"]),
            // A false alarm: the old one recovers, and there are two.
            (Role::Primary, &["PR", "pP", "PP"], &["Sr", "SW", "DD"]),
            // The old one comes back as a second primary, and yields.
            (Role::Primary, &["xP", "PP", "RP"], &[".S", "DD", "rS"]),
            // The newcomer yields.
            (Role::Primary, &["xP", "PP", "PR"], &[".S", "DD", "Sr"]),
            // A dispute outlasts a stumble, not a death.
            (
                Role::Primary,
                &["PP", "pP", "PP", "pP", "xP"],
                &["DD", "DD", "DD", "DD", ".S"],
            ),
            // The operator decides.
            (Role::Primary, &["PP", "mP", "PP"], &["DD", "bS", "DD"]),
            (Role::Primary, &["mP", "pP", "xP"], &["bS", "WS", ".S"]),
            (Role::Primary, &["mP", "Pp", "Px"], &["bS", "WS", "S."]),
            // A newcomer to the pool does not stop who serves.
            (Role::Primary, &["P", "P-", "PP"], &["S", "S.", "DD"]),
            // Who says nothing is not what is asked for.
            (Role::Primary, &["?R", "P?"], &["rr", "Sr"]),
            // Three.
            (Role::Primary, &["PPP", "PPR"], &["DDD", "DDr"]),
            (Role::Primary, &["pPP", "xPP"], &["WDD", ".DD"]),
            // Replicas do not compete.
            (Role::Replica, &["PRR-", "PRR?"], &["rSS.", "rSSr"]),
        ] {
            assert_eq!(story(asked, moments), expected, "{moments:?}");
        }
    }

    proptest! {
        /// Whatever happens: at most one contender serves, and two healthy claims always end in a dispute.
        #[test]
        fn never_two_primaries(moments in proptest::collection::vec("[PpR?xm-]{4}", 1..12)) {
            let moments: Vec<&str> = moments.iter().map(String::as_str).collect();
            for (moment, rulings) in moments.iter().zip(story(Role::Primary, &moments)) {
                let serving = rulings.chars().filter(|ruling| *ruling == 'S');
                prop_assert!(serving.count() <= 1, "{} {}", moment, rulings);
                if moment.chars().filter(|letter| *letter == 'P').count() >= 2 {
                    let disputed = moment.chars().zip(rulings.chars());
                    prop_assert!(disputed.filter(|(l, _)| *l == 'P').all(|(_, r)| r == 'D'), "{moment} {rulings}");
                }
            }
        }
    }
}
