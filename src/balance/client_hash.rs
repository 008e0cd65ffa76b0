//! A client's address as one number, for the algorithms that keep a client at its backend. The same on every machine,
//! build and version: several instances must agree.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// Marks this use of the hash; the other half of the key is the pool's seed.
const DOMAIN: u64 = 0x7269_6e67_7761_7921;

/// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of the address, and of the port where
/// it is to count. With a seed that is kept secret, nobody can choose addresses that meet at one backend. An IPv4 address
/// mapped into IPv6 hashes as the IPv4 address that it is.
#[must_use]
pub fn hash_client(seed: u64, address: IpAddr, port: Option<u16>) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, DOMAIN);
    // The four forms differ in length, which the hash takes in: none can be mistaken for another.
    match address.to_canonical() {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    if let Some(port) = port {
        hasher.write(&port.to_be_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(seed: u64, address: &str, port: Option<u16>) -> u64 {
        hash_client(seed, address.parse().unwrap(), port)
    }

    /// Changing these moves every client of every user on upgrade, and splits instances of different versions. The values
    /// come from a second implementation, written for this test in another language.
    #[test]
    fn the_hash_is_the_same_for_ever() {
        assert_eq!(hash(0, "192.0.2.1", None), 0x12d5_f378_814a_92cc);
        assert_eq!(hash(0, "192.0.2.1", Some(443)), 0xa9cd_bc07_0676_5059);
        assert_eq!(hash(1, "2001:db8::1", None), 0xa687_dccd_16cd_b7f0);
    }

    #[test]
    fn every_part_counts() {
        let base = hash(0, "192.0.2.1", Some(1));
        for other in [
            hash(1, "192.0.2.1", Some(1)),
            hash(0, "192.0.2.2", Some(1)),
            hash(0, "192.0.2.1", Some(2)),
            hash(0, "192.0.2.1", None),
            hash(0, "c000:201::", Some(1)),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, hash(0, "::ffff:192.0.2.1", Some(1)));
    }
}
