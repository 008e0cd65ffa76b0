//! The server name that a TLS client asks for (RFC 6066 section 3), read from its ClientHello (RFC 8446 sections 4.1.2 and
//! 5.1) without ending TLS. The hello may come in any pieces, of segments and of TLS records alike: large key shares have
//! it in several as a rule. Nothing is kept between calls: the beginning is read anew, skipping by lengths.

/// A hello that is longer is taken for one without a name.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// A host name's longest form (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

const RECORD_HANDSHAKE: u8 = 22;
const RECORD_BYTES_MAX: usize = 1 << 14;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_IS_HOST: u8 = 0;

/// What a beginning of a stream is.
#[allow(
    clippy::large_enum_variant,
    reason = "an answer, looked at once and never kept"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A ClientHello so far: to get further takes so many bytes in all.
    More(usize),
    /// Something else.
    NotTls,
    /// A ClientHello whose lengths do not fit together.
    Malformed,
    /// A ClientHello that names nobody, or is too long to find out.
    NoName,
    Name(ServerName),
}

/// A host name in small letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServerName {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl ServerName {
    /// `None` for what is no host name in ASCII.
    fn new(found: &[u8]) -> Option<ServerName> {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        let found = found.strip_suffix(b".").unwrap_or(found);
        if found.is_empty() || found.len() > NAME_BYTES_MAX || !found.iter().all(fits) {
            return None;
        }
        let mut name = ServerName {
            bytes: [0; NAME_BYTES_MAX],
            length: found.len() as u8,
        };
        for (place, byte) in name.bytes.iter_mut().zip(found) {
            *place = byte.to_ascii_lowercase();
        }
        Some(name)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl std::fmt::Debug for ServerName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}", self.as_str())
    }
}

/// Reads the name asked for from `bytes`, which may be cut anywhere and may go on behind the hello.
#[must_use]
pub fn server_name(bytes: &[u8]) -> Seen {
    let window = &bytes[..bytes.len().min(HELLO_BYTES_MAX)];
    let mut hello = Hello::new(window);
    match hello.read() {
        Ok(Some(name)) => Seen::Name(name),
        Ok(None) => Seen::NoName,
        Err(Stop::NotTls) => Seen::NotTls,
        Err(Stop::Malformed) => Seen::Malformed,
        Err(Stop::Cut) if window.len() == HELLO_BYTES_MAX => Seen::NoName,
        Err(Stop::Cut) => Seen::More(hello.wanted().clamp(window.len() + 1, HELLO_BYTES_MAX)),
    }
}

/// Why reading ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Cut,
    NotTls,
    Malformed,
}

/// The handshake's bytes, as if there were no records between them.
struct Hello<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Of the record that is being read.
    record_left: usize,
    /// Of the handshake message; unknown before its header was read.
    message_left: usize,
}

impl<'a> Hello<'a> {
    fn new(bytes: &'a [u8]) -> Hello<'a> {
        Hello {
            bytes,
            at: 0,
            record_left: 0,
            message_left: usize::MAX,
        }
    }

    /// To the end of the record that is cut, or of its header.
    fn wanted(&self) -> usize {
        if self.record_left > 0 {
            self.at + self.record_left
        } else {
            self.at + 5
        }
    }

    fn read(&mut self) -> Result<Option<ServerName>, Stop> {
        if self.byte()? != HANDSHAKE_CLIENT_HELLO {
            return Err(Stop::NotTls);
        }
        let length = self.take::<3>()?;
        self.message_left = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        // Version and random.
        self.skip(2 + 32)?;
        let session_id = self.byte()?;
        self.skip(session_id.into())?;
        let cipher_suites = self.short()?;
        self.skip(cipher_suites.into())?;
        let compression_methods = self.byte()?;
        self.skip(compression_methods.into())?;
        if self.message_left == 0 {
            return Ok(None);
        }
        let extensions = usize::from(self.short()?);
        if extensions != self.message_left {
            return Err(Stop::Malformed);
        }
        while self.message_left > 0 {
            let (kind, length) = (self.short()?, self.short()?);
            if kind == EXTENSION_SERVER_NAME {
                return self.read_names(length.into());
            }
            self.skip(length.into())?;
        }
        Ok(None)
    }

    /// The list of names: the first host name of it.
    fn read_names(&mut self, length: usize) -> Result<Option<ServerName>, Stop> {
        let list = usize::from(self.short()?);
        if list + 2 != length || list > self.message_left {
            return Err(Stop::Malformed);
        }
        let mut left = list;
        while left > 0 {
            let (kind, length) = (self.byte()?, usize::from(self.short()?));
            left = left.checked_sub(3 + length).ok_or(Stop::Malformed)?;
            if kind == NAME_IS_HOST && length <= NAME_BYTES_MAX + 1 {
                let mut name = [0; NAME_BYTES_MAX + 1];
                for place in &mut name[..length] {
                    *place = self.byte()?;
                }
                return Ok(ServerName::new(&name[..length]));
            }
            self.skip(length)?;
        }
        Ok(None)
    }

    fn short(&mut self) -> Result<u16, Stop> {
        self.take::<2>().map(u16::from_be_bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut taken = [0; N];
        for place in &mut taken {
            *place = self.byte()?;
        }
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.message_left = self.message_left.checked_sub(1).ok_or(Stop::Malformed)?;
        if self.record_left == 0 {
            self.begin_record()?;
        }
        let byte = *self.bytes.get(self.at).ok_or(Stop::Cut)?;
        self.at += 1;
        self.record_left -= 1;
        Ok(byte)
    }

    fn skip(&mut self, mut length: usize) -> Result<(), Stop> {
        self.message_left = self
            .message_left
            .checked_sub(length)
            .ok_or(Stop::Malformed)?;
        while length > 0 {
            if self.record_left == 0 {
                self.begin_record()?;
            }
            let step = length.min(self.record_left);
            if self.bytes.len() - self.at < step {
                return Err(Stop::Cut);
            }
            self.at += step;
            self.record_left -= step;
            length -= step;
        }
        Ok(())
    }

    /// A record's header is judged as far as it is there: who speaks no TLS is known by the first byte as a rule. Its minor
    /// version must be ignored (RFC 8446 section 5.1).
    fn begin_record(&mut self) -> Result<(), Stop> {
        let header = &self.bytes[self.at..];
        // In the middle of a hello a stranger has begun like TLS, and does not go on like it.
        let stranger = if self.at == 0 {
            Stop::NotTls
        } else {
            Stop::Malformed
        };
        if header.first().is_some_and(|&kind| kind != RECORD_HANDSHAKE)
            || header.get(1).is_some_and(|&major| major != 3)
        {
            return Err(stranger);
        }
        let Some(&[_, _, _, high, low]) = header.first_chunk::<5>() else {
            return Err(Stop::Cut);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(stranger);
        }
        self.at += 5;
        self.record_left = length;
        Ok(())
    }
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
