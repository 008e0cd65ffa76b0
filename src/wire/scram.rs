//! The client's half of SCRAM-SHA-256 without channel binding, as PostgreSQL asks for it: what to say, and whether the
//! server knows the password, too. The slow part, salting, is done in slices, so that a thread that serves others can
//! breathe.
//!
//! Pure: the nonce is handed in and must come from a good source of chance. Passwords are taken as they are written; one
//! with characters that SASLprep (RFC 4013) would replace does not match. Source: RFC 5802, RFC 7677.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// A server may not keep us computing for longer than this many rounds. PostgreSQL's default is 4096.
pub const ROUNDS_MAX: u32 = 1_000_000;

/// What the client says of channel binding (none), and what it repeats of that in base64.
const NO_BINDING: &str = "n,,";

type Key = [u8; 32];

/// Why the exchange cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The server's message is not as RFC 5802 says.
    Malformed,
    /// The server does not repeat our nonce.
    ForeignNonce,
    /// The server asks for more rounds than [`ROUNDS_MAX`].
    TooManyRounds,
    /// The server does not know the password's key.
    WrongServer,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Broken::Malformed => "the server's SCRAM message is malformed",
            Broken::ForeignNonce => "the server's SCRAM message belongs to another exchange",
            Broken::TooManyRounds => "the server asks for too many SCRAM rounds",
            Broken::WrongServer => "the server could not prove that it knows the password",
        })
    }
}

impl std::error::Error for Broken {}

/// A first message sent.
pub struct Begun {
    nonce: String,
    bare: String,
}

/// Begins an exchange. PostgreSQL wants the user empty here: it has it from the start-up message. `chance` must be new
/// each time and hard to guess.
#[must_use]
pub fn begin(user: &str, chance: &[u8]) -> Begun {
    begin_with(user, BASE64.encode(chance))
}

fn begin_with(user: &str, nonce: String) -> Begun {
    let user = user.replace('=', "=3D").replace(',', "=2C");
    let bare = format!("n={user},r={nonce}");
    Begun { nonce, bare }
}

impl Begun {
    /// What to send first.
    #[must_use]
    pub fn first(&self) -> String {
        format!("{NO_BINDING}{}", self.bare)
    }

    /// Takes the server's first message.
    ///
    /// # Errors
    /// If it is malformed, of another exchange, or asks for too much work.
    pub fn hear(self, message: &[u8], password: &[u8]) -> Result<Salting, Broken> {
        let message = std::str::from_utf8(message).map_err(|_| Broken::Malformed)?;
        let mut parts = message.split(',');
        let mut next = |name: &str| {
            parts
                .next()
                .and_then(|part| part.strip_prefix(name))
                .ok_or(Broken::Malformed)
        };
        let nonce = next("r=")?;
        let salt = next("s=")?;
        let rounds: u32 = next("i=")?.parse().map_err(|_| Broken::Malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(Broken::ForeignNonce);
        }
        let salt = BASE64.decode(salt).map_err(|_| Broken::Malformed)?;
        match rounds {
            0 => return Err(Broken::Malformed),
            1..=ROUNDS_MAX => {}
            _ => return Err(Broken::TooManyRounds),
        }
        let repeated = BASE64.encode(NO_BINDING);
        let answer = format!("c={repeated},r={nonce}");
        let signed = format!("{},{message},{answer}", self.bare);
        Ok(Salting::begin(password, &salt, rounds, answer, signed))
    }
}

/// The password is being salted: PBKDF2 with one block of output, as RFC 5802 calls it `Hi`.
pub struct Salting {
    keyed: Hmac<Sha256>,
    last: Key,
    sum: Key,
    rounds_left: u32,
    answer: String,
    signed: String,
}

impl Salting {
    fn begin(password: &[u8], salt: &[u8], rounds: u32, answer: String, signed: String) -> Salting {
        let keyed = keyed(password);
        let last = finish(keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1]));
        Salting {
            keyed,
            last,
            sum: last,
            rounds_left: rounds - 1,
            answer,
            signed,
        }
    }

    /// Works for at most `rounds`; true once it is done.
    pub fn work(&mut self, rounds: u32) -> bool {
        let rounds = rounds.min(self.rounds_left);
        for _ in 0..rounds {
            self.last = finish(self.keyed.clone().chain_update(self.last));
            for (sum, last) in self.sum.iter_mut().zip(self.last) {
                *sum ^= last;
            }
        }
        self.rounds_left -= rounds;
        self.rounds_left == 0
    }

    /// What to send now, and what the server has to answer. Does what is left of the work.
    #[must_use]
    pub fn finish(mut self) -> (String, Proof) {
        self.work(u32::MAX);
        let client = sign(&self.sum, b"Client Key");
        let stored: Key = Sha256::digest(client).into();
        let mut proof = sign(&stored, self.signed.as_bytes());
        for (proof, client) in proof.iter_mut().zip(client) {
            *proof ^= client;
        }
        let server = sign(&self.sum, b"Server Key");
        let expected = Proof {
            keyed: keyed(&server).chain_update(&self.signed),
        };
        let answer = format!("{},p={}", self.answer, BASE64.encode(proof));
        (answer, expected)
    }
}

/// What the server must prove.
pub struct Proof {
    keyed: Hmac<Sha256>,
}

impl Proof {
    /// Takes the server's last message.
    ///
    /// # Errors
    /// If it is malformed, or the server does not know the password's key.
    pub fn hear(self, message: &[u8]) -> Result<(), Broken> {
        let signature = message.strip_prefix(b"v=").ok_or(Broken::Malformed)?;
        let signature = signature.split(|&byte| byte == b',').next();
        let signature = BASE64
            .decode(signature.unwrap_or_default())
            .map_err(|_| Broken::Malformed)?;
        self.keyed
            .verify_slice(&signature)
            .map_err(|_| Broken::WrongServer)
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // A longer key than a block is hashed first, so that any length will do.
    match Hmac::new_from_slice(key) {
        Ok(keyed) => keyed,
        Err(_) => Hmac::new(&Default::default()),
    }
}

fn sign(key: &Key, message: &[u8]) -> Key {
    finish(keyed(key).chain_update(message))
}

fn finish(keyed: Hmac<Sha256>) -> Key {
    keyed.finalize().into_bytes().into()
}

/// Keys stay out of logs.
macro_rules! silent {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(stringify!($name))
            }
        }
    )*};
}

silent!(Begun, Salting, Proof);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn begun() -> Begun {
        begin_with("user", NONCE.to_owned())
    }

    /// The exchange of RFC 7677, section 3.
    #[test]
    fn the_exchange_of_the_rfc() {
        assert_eq!(begun().first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let mut salting = begun().hear(SERVER_FIRST, b"pencil").unwrap();
        let mut slices = 1;
        while !salting.work(1000) {
            slices += 1;
        }
        assert_eq!(slices, 5);
        let (answer, proof) = salting.finish();
        assert_eq!(answer, CLIENT_FINAL);
        assert_eq!(proof.hear(SERVER_FINAL), Ok(()));
        // In one go it is the same.
        let (answer, proof) = begun().hear(SERVER_FIRST, b"pencil").unwrap().finish();
        assert_eq!(answer, CLIENT_FINAL);
        assert_eq!(proof.hear(b"v=AAAA"), Err(Broken::WrongServer));
        let (answer, _) = begun().hear(SERVER_FIRST, b"pencils").unwrap().finish();
        assert_ne!(answer, CLIENT_FINAL);
    }

    #[test]
    fn a_server_that_cheats_is_not_believed() {
        let hear = |message: &str| begun().hear(message.as_bytes(), b"pencil").unwrap_err();
        assert_eq!(hear("r=other,s=AAAA,i=4096"), Broken::ForeignNonce);
        // Nothing of its own in the nonce.
        assert_eq!(
            hear("r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096"),
            Broken::ForeignNonce
        );
        assert_eq!(
            hear("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4000000000"),
            Broken::TooManyRounds
        );
        for malformed in [
            "",
            "e=unknown-user",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=???,i=4096",
            "m=mandatory,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1",
        ] {
            assert_eq!(hear(malformed), Broken::Malformed, "{malformed}");
        }
        let (_, proof) = begun().hear(SERVER_FIRST, b"pencil").unwrap().finish();
        assert_eq!(proof.hear(b"e=other-error"), Err(Broken::Malformed));
    }

    #[test]
    fn names_cannot_add_attributes() {
        let begun = begin("a,r=x=", b"12345678");
        assert_eq!(begun.first(), "n,,n=a=2Cr=3Dx=3D,r=MTIzNDU2Nzg=");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(first in "[rsi=,A-Za-z0-9+/]{0,60}", last in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(salting) = begun().hear(first.as_bytes(), b"pencil") {
                prop_assert!(salting.rounds_left < ROUNDS_MAX);
            }
            let (_, proof) = begun().hear(b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1", b"pencil").unwrap().finish();
            prop_assert!(proof.hear(&last).is_err());
        }
    }
}
