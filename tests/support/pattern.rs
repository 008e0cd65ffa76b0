//! A stream of bytes in which every position is known from a seed: a lost, doubled, moved or foreign byte is seen and
//! its place named.

use std::io::{self, Read, Write};

use super::wait::Dice;

const PIECE: usize = 64 * 1024;

pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn word(seed: u64, index: u64) -> [u8; 8] {
    mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index).to_le_bytes()
}

/// The bytes from position `offset` on.
pub fn fill(seed: u64, mut offset: u64, mut target: &mut [u8]) {
    while !target.is_empty() {
        let word = word(seed, offset / 8);
        let skip = (offset % 8) as usize;
        let n = (8 - skip).min(target.len());
        target[..n].copy_from_slice(&word[skip..skip + n]);
        target = &mut target[n..];
        offset += n as u64;
    }
}

/// Checks bytes that claim to be those from position `offset` on.
pub fn check(seed: u64, offset: u64, found: &[u8]) -> Result<(), String> {
    let mut expected = vec![0; found.len()];
    fill(seed, offset, &mut expected);
    match found.iter().zip(&expected).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(format!(
            "stream {seed:#x}: byte {} is {:#04x}, not {:#04x}",
            offset + at as u64,
            found[at],
            expected[at]
        )),
    }
}

/// Writes `total` bytes in pieces of random odd sizes up to `largest`.
pub fn send(mut stream: impl Write, seed: u64, total: u64, largest: usize) -> io::Result<()> {
    let mut dice = Dice(seed ^ total);
    let mut piece = vec![0; largest.max(1)];
    let mut sent = 0;
    while sent < total {
        let n = ((dice.below(largest as u64) | 1).min(total - sent)) as usize;
        fill(seed, sent, &mut piece[..n]);
        stream.write_all(&piece[..n])?;
        sent += n as u64;
    }
    Ok(())
}

/// Reads and checks exactly `total` bytes.
pub fn receive(mut stream: impl Read, seed: u64, total: u64) -> Result<(), String> {
    let mut piece = vec![0; PIECE];
    let mut received = 0;
    while received < total {
        let room = (PIECE as u64).min(total - received) as usize;
        let n = stream
            .read(&mut piece[..room])
            .map_err(|error| format!("after {received} of {total} bytes: {error}"))?;
        if n == 0 {
            return Err(format!("ended after {received} of {total} bytes"));
        }
        check(seed, received, &piece[..n])?;
        received += n as u64;
    }
    Ok(())
}

/// Reads and checks until the stream ends by FIN; returns how many bytes came.
pub fn receive_to_end(mut stream: impl Read, seed: u64) -> Result<u64, String> {
    let mut piece = vec![0; PIECE];
    let mut received = 0;
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(received),
            Ok(n) => {
                check(seed, received, &piece[..n])?;
                received += n as u64;
            }
            Err(error) => return Err(format!("after {received} bytes: {error}")),
        }
    }
}

/// Reads until nothing more is to come, and says that it was FIN.
pub fn expect_fin(mut stream: impl Read) -> Result<(), String> {
    let mut piece = [0; 16];
    match stream.read(&mut piece) {
        Ok(0) => Ok(()),
        Ok(n) => Err(format!("{n} bytes where the end was due")),
        Err(error) => Err(format!("{error} where the end was due")),
    }
}
