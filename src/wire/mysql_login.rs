//! What a health check says to a MySQL or MariaDB server: who it is, the proof that it knows the password, one query,
//! goodbye. Each function appends one whole packet or computes one proof.
//!
//! Pure; the conversation is led by the prober. A password itself is never put into a packet.
//! Source: MySQL "Client/Server Protocol", "Authentication Methods".

use sha1::Sha1;
use sha2::{Digest, Sha256};

const CONNECT_WITH_DATABASE: u32 = 0x8;
const LONG_PASSWORD_AND_FLAG: u32 = 0x1 | 0x4;
const PROTOCOL_41: u32 = 0x200;
const TRANSACTIONS: u32 = 0x2000;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;

/// Larger than any packet that is sent to us.
const PACKET_BYTES_MAX: u32 = 1 << 24;
/// utf8 with general collation: every server since 4.1 has it.
const CHARACTER_SET: u8 = 33;

/// A way of proving a password that needs no protected connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    NativePassword,
    CachingSha2Password,
}

impl Plugin {
    /// The plugin of a server's name, if it is one of these.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Plugin> {
        match name {
            b"mysql_native_password" => Some(Plugin::NativePassword),
            b"caching_sha2_password" => Some(Plugin::CachingSha2Password),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Plugin::NativePassword => "mysql_native_password",
            Plugin::CachingSha2Password => "caching_sha2_password",
        }
    }

    /// The proof of a password, mixed with what the server sent; empty for an empty password.
    #[must_use]
    pub fn proof(self, password: &[u8], scramble: &[u8; 20]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        match self {
            Plugin::NativePassword => {
                let once = Sha1::digest(password);
                let twice = Sha1::digest(once);
                let mixed = Sha1::new().chain_update(scramble).chain_update(twice);
                both(&once, &mixed.finalize())
            }
            Plugin::CachingSha2Password => {
                let once = Sha256::digest(password);
                let twice = Sha256::digest(once);
                let mixed = Sha256::new().chain_update(twice).chain_update(scramble);
                both(&once, &mixed.finalize())
            }
        }
    }
}

fn both(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(a, b)| a ^ b).collect()
}

/// Who logs in, and to which database; an empty one is none.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    pub user: &'a str,
    pub database: &'a str,
}

/// The answer to the greeting.
pub fn login(out: &mut Vec<u8>, sequence: u8, login: Login<'_>, plugin: Plugin, proof: &[u8]) {
    let mut capabilities =
        LONG_PASSWORD_AND_FLAG | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH;
    if !login.database.is_empty() {
        capabilities |= CONNECT_WITH_DATABASE;
    }
    let mut payload = capabilities.to_le_bytes().to_vec();
    payload.extend(PACKET_BYTES_MAX.to_le_bytes());
    payload.push(CHARACTER_SET);
    payload.extend([0; 23]);
    text(&mut payload, login.user);
    payload.push(u8::try_from(proof.len()).unwrap_or(u8::MAX));
    payload.extend(proof);
    if !login.database.is_empty() {
        text(&mut payload, login.database);
    }
    text(&mut payload, plugin.name());
    push(out, sequence, &payload);
}

/// The answer to a request for another proof.
pub fn switch(out: &mut Vec<u8>, sequence: u8, proof: &[u8]) {
    push(out, sequence, proof);
}

/// A query.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    push(out, 0, &[b"\x03", sql.as_bytes()].concat());
}

/// Goodbye; after a login the server then closes without a word in its log.
pub fn quit(out: &mut Vec<u8>) {
    push(out, 0, b"\x01");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().take_while(|&byte| byte != 0));
    out.push(0);
}

fn push(out: &mut Vec<u8>, sequence: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend(&length.to_le_bytes()[..3]);
    out.push(sequence);
    out.extend(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hexadecimal(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed with another implementation of the digests, by the formulas of the manual.
    #[test]
    fn proofs_are_as_the_manual_says() {
        let scramble = b"ABCDEFGHIJKLMNOPQRST";
        assert_eq!(
            hexadecimal(&Plugin::NativePassword.proof(b"pencil", scramble)),
            "cdbfed26f05b0066ea4ad5040d3b5fca7b62d7b8"
        );
        assert_eq!(
            hexadecimal(&Plugin::CachingSha2Password.proof(b"pencil", scramble)),
            "51bdd87eb3627ab8342e2f347881ee9d158119e5a75fb2da1aa23cce88ba2356"
        );
        assert_eq!(Plugin::NativePassword.proof(b"", scramble), b"");
        assert_eq!(Plugin::CachingSha2Password.proof(b"", scramble), b"");
    }

    #[test]
    fn packets_are_as_the_protocol_says() {
        let mut out = Vec::new();
        let me = Login {
            user: "me",
            database: "mine",
        };
        login(&mut out, 1, me, Plugin::NativePassword, b"proof");
        let length = out.len() - 4;
        assert_eq!(out[..4], [length as u8, 0, 0, 1]);
        assert_eq!(out[4..8], 0x8_a20du32.to_le_bytes());
        assert_eq!(out[12], 33);
        assert_eq!(out[13..36], [0; 23]);
        assert_eq!(&out[36..], b"me\0\x05proofmine\0mysql_native_password\0");
        let mut out = Vec::new();
        let nowhere = Login {
            user: "me",
            database: "",
        };
        login(&mut out, 1, nowhere, Plugin::CachingSha2Password, b"");
        assert_eq!(out[4..8], 0x8_a205u32.to_le_bytes());
        assert_eq!(&out[36..], b"me\0\0caching_sha2_password\0");
        let mut out = Vec::new();
        switch(&mut out, 3, b"proof");
        query(&mut out, "select 1");
        quit(&mut out);
        assert_eq!(
            out,
            b"\x05\0\0\x03proof\x09\0\0\0\x03select 1\x01\0\0\0\x01"
        );
    }

    #[test]
    fn only_plugins_without_need_of_protection_are_known() {
        for plugin in [Plugin::NativePassword, Plugin::CachingSha2Password] {
            assert_eq!(Plugin::named(plugin.name().as_bytes()), Some(plugin));
        }
        for other in [
            &b"mysql_clear_password"[..],
            b"sha256_password",
            b"client_ed25519",
            b"",
        ] {
            assert_eq!(Plugin::named(other), None);
        }
    }
}
