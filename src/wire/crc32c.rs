//! CRC-32C (Castagnoli), as the PROXY protocol's checksum wants it: reflected polynomial 0x82F63B78, start and end
//! inverted (RFC 3720, appendix B.4). One table, a byte at a time: a header is short.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 {
                rest >> 1 ^ 0x82F6_3B78
            } else {
                rest >> 1
            };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
}

/// The checksum of these parts, one after the other.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut rest = !0;
    for byte in parts.iter().copied().flatten() {
        rest = rest >> 8 ^ TABLE[usize::from(rest as u8 ^ byte)];
    }
    !rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_examples_of_the_standard() {
        // RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8A91_36AA);
        assert_eq!(crc32c(&[&[0xFF; 32]]), 0x62A8_AB43);
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283);
        assert_eq!(crc32c(&[]), 0);
    }
}
