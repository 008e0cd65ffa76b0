//! One question to a name server and what its answer says: who asked is recognised by the id and by the question, which
//! comes back with the answer. The codec is simple-dns; this decides what counts.

use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// What a datagram says about our question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The name exists, or surely not: the server knows its job.
    Alive,
    /// It answered, and cannot or will not; the code's name (RFC 1035, RFC 2136).
    Refused(&'static str),
    /// No answer to our question: late, forged, or not DNS.
    Other,
}

/// A question for a record, with recursion desired. `name` has no dot at its end and is empty for the root; `None` if it
/// is no name.
#[must_use]
pub fn question(id: u16, name: &str, record: u16) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).ok()?;
    let class = QCLASS::CLASS(CLASS::IN);
    let record = QTYPE::TYPE(TYPE::from(record));
    packet
        .questions
        .push(Question::new(name, record, class, false));
    packet.build_bytes_vec().ok()
}

/// Judges a datagram that came after [`question`] with the same arguments was sent.
#[must_use]
pub fn heard(datagram: &[u8], id: u16, name: &str, record: u16) -> Heard {
    let Ok(packet) = Packet::parse(datagram) else {
        return Heard::Other;
    };
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return Heard::Other;
    }
    let record = QTYPE::TYPE(TYPE::from(record));
    let echoed = matches!(&packet.questions[..], [question]
        if question.qtype == record && question.qname.to_string().eq_ignore_ascii_case(name));
    // A server that could not even read the question may leave it out.
    let unread = packet.questions.is_empty() && packet.rcode() == RCODE::FormatError;
    if !echoed && !unread {
        return Heard::Other;
    }
    match packet.rcode() {
        RCODE::NoError | RCODE::NameError => Heard::Alive,
        RCODE::FormatError => Heard::Refused("FORMERR"),
        RCODE::ServerFailure => Heard::Refused("SERVFAIL"),
        RCODE::NotImplemented => Heard::Refused("NOTIMP"),
        RCODE::Refused => Heard::Refused("REFUSED"),
        _ => Heard::Refused("an unusual response code"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: u16 = 1;

    /// What a server would say to the question.
    fn answer(question: &[u8], code: u8) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2] |= 0x80;
        bytes[3] = bytes[3] & 0xf0 | code;
        bytes
    }

    #[test]
    fn the_question_is_as_the_protocol_has_it() {
        let bytes = question(0x1234, "example.com", A).unwrap();
        assert_eq!(
            bytes,
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"
        );
        assert_eq!(
            question(1, "", 2).unwrap(),
            b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"
        );
    }

    #[test]
    fn only_an_answer_to_our_question_counts() {
        let asked = question(7, "Example.com", A).unwrap();
        let judge = |bytes: &[u8]| heard(bytes, 7, "example.com", A);
        assert_eq!(judge(&answer(&asked, 0)), Heard::Alive);
        assert_eq!(judge(&answer(&asked, 3)), Heard::Alive);
        assert_eq!(judge(&answer(&asked, 2)), Heard::Refused("SERVFAIL"));
        assert_eq!(judge(&answer(&asked, 5)), Heard::Refused("REFUSED"));
        assert_eq!(judge(&asked), Heard::Other, "our own question");
        let other = answer(&question(8, "example.com", A).unwrap(), 0);
        assert_eq!(judge(&other), Heard::Other, "another id");
        let other = answer(&question(7, "example.org", A).unwrap(), 0);
        assert_eq!(judge(&other), Heard::Other, "another name");
        let other = answer(&question(7, "example.com", 28).unwrap(), 0);
        assert_eq!(judge(&other), Heard::Other, "another type");
        assert_eq!(judge(b"garbage"), Heard::Other);
        assert_eq!(judge(&answer(&asked, 0)[..11]), Heard::Other);
        let root = question(7, "", 2).unwrap();
        assert_eq!(heard(&answer(&root, 0), 7, "", 2), Heard::Alive);
        let unread = b"\0\x07\x80\x01\0\0\0\0\0\0\0\0";
        assert_eq!(judge(unread), Heard::Refused("FORMERR"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = heard(&bytes, 7, "example.com", A);
            let mut like = answer(&question(7, "example.com", A).unwrap(), 0);
            // Counts that promise records, with anything in their place.
            like[7] = 1;
            like.extend_from_slice(&bytes);
            let _ = heard(&like, 7, "example.com", A);
        }
    }
}
