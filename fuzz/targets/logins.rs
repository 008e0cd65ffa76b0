//! What checks say to databases and hear from them: PostgreSQL, MySQL, and SCRAM.

use ringway::wire::mysql_login::{Login, Plugin};
use ringway::wire::{mysql_login, mysql_server, postgres, postgres_login, postgres_server, scram};

use super::cuts;

/// Writes one message of a login.
type Say<'a> = &'a dyn Fn(&mut Vec<u8>);

/// Message after message, as a check reads them.
pub fn postgres_server(bytes: &[u8]) {
    let verdict = postgres_server::read(bytes);
    for cut in cuts(bytes) {
        match postgres_server::read(cut) {
            Ok(None) => {}
            early => assert_eq!(early, verdict, "a cut is judged otherwise"),
        }
    }
    let mut rest = bytes;
    while let Ok(Some((said, length))) = postgres_server::read(rest) {
        assert!((1..=rest.len()).contains(&length));
        match said {
            postgres_server::Said::Error(complaint) => assert_eq!(complaint.code().len(), 5),
            postgres_server::Said::Authentication(postgres_server::Authentication::Sasl(list)) => {
                let _ = postgres_server::offers(list, scram::MECHANISM);
            }
            _ => {}
        }
        rest = &rest[length..];
    }
}

/// Two texts around a zero: whatever they are, what is sent is one message of the right length.
pub fn postgres_login(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (user, rest) = text.split_once('\0').unwrap_or((&text, ""));
    let mut out = Vec::new();
    postgres_login::start_up(&mut out, user, rest);
    let begins = postgres::first_packet(&out);
    // A longer one is for no server to read.
    let fits = out.len() <= 10_000;
    assert_eq!(begins == postgres::FirstPacket::Startup, fits);
    let named = out.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    assert!(named.count() <= 10, "a name became a parameter");
    let salt = *bytes.first_chunk().unwrap_or(b"salt");
    let says: [Say<'_>; 6] = [
        &|out| postgres_login::password(out, rest.as_bytes()),
        &|out| postgres_login::password_md5(out, user, rest.as_bytes(), salt),
        &|out| postgres_login::sasl_begin(out, user, rest.as_bytes()),
        &|out| postgres_login::sasl_answer(out, bytes),
        &|out| postgres_login::query(out, user),
        &|out| postgres_login::terminate(out),
    ];
    for say in says {
        let mut out = Vec::new();
        say(&mut out);
        let length = out[1..]
            .first_chunk()
            .map(|length| u32::from_be_bytes(*length));
        assert!(b"pQX".contains(&out[0]));
        assert_eq!(length, u32::try_from(out.len() - 1).ok());
    }
}

/// Packets as they are framed, or as one payload where they are not.
pub fn mysql_server(bytes: &[u8]) {
    let verdict = mysql_server::packet(bytes);
    for cut in cuts(bytes) {
        match mysql_server::packet(cut) {
            Ok(None) => {}
            early => assert_eq!(early, verdict, "a cut is judged otherwise"),
        }
    }
    payload(bytes);
    let mut reader = mysql_server::Reader::default();
    let mut reading = true;
    let mut rest = bytes;
    while let Ok(Some((packet, length))) = mysql_server::packet(rest) {
        assert!((5..=rest.len()).contains(&length) && packet.payload.len() == length - 4);
        payload(packet.payload);
        reading = reading && matches!(reader.take(packet.payload), Ok(None));
        rest = &rest[length..];
    }
}

fn payload(payload: &[u8]) {
    if let Ok(greeting) = mysql_server::greeting(payload) {
        assert!(greeting.version.len() + greeting.plugin.len() + 20 <= payload.len());
        assert!(!greeting.version.contains(&0) && !greeting.plugin.contains(&0));
    }
    if let Ok(mysql_server::LoginAnswer::Switch { plugin, .. }) =
        mysql_server::login_answer(payload)
        && let Some(known) = Plugin::named(plugin)
    {
        assert_eq!(known.name().as_bytes(), plugin);
    }
}

/// A number, a scramble, then two texts around a zero: what is sent is one packet of the right length and number.
pub fn mysql_login(bytes: &[u8]) {
    let sequence = bytes.first().copied().unwrap_or(1);
    let scramble = *bytes.first_chunk().unwrap_or(&[7; 20]);
    let text = String::from_utf8_lossy(bytes);
    let (user, database) = text.split_once('\0').unwrap_or((&text, ""));
    for plugin in [Plugin::NativePassword, Plugin::CachingSha2Password] {
        let proof = plugin.proof(bytes, &scramble);
        let expected = match plugin {
            _ if bytes.is_empty() => 0,
            Plugin::NativePassword => 20,
            Plugin::CachingSha2Password => 32,
        };
        assert_eq!(proof.len(), expected);
        let who = Login { user, database };
        let mut out = Vec::new();
        mysql_login::login(&mut out, sequence, who, plugin, &proof);
        assert_packet(&out, sequence);
        let mut out = Vec::new();
        mysql_login::switch(&mut out, sequence, &proof);
        if !proof.is_empty() {
            assert_packet(&out, sequence);
        }
    }
    let mut out = Vec::new();
    mysql_login::query(&mut out, user);
    assert_packet(&out, 0);
}

fn assert_packet(out: &[u8], sequence: u8) {
    let payload = out.len() - 4;
    match mysql_server::packet(out) {
        Ok(Some((packet, length))) => {
            assert_eq!((packet.sequence, length), (sequence, out.len()));
        }
        _ => assert!(payload > mysql_server::PACKET_BYTES_MAX, "{payload}"),
    }
}

/// The server's first message behind our nonce, a zero, and its last.
pub fn scram_server(bytes: &[u8]) {
    let begun = scram::begin("", b"0123456789");
    let first = begun.first();
    let (_, nonce) = first.split_once("r=").unwrap_or_default();
    let mut halves = bytes.splitn(2, |&byte| byte == 0);
    let said = halves.next().unwrap_or_default();
    let said = [b"r=", nonce.as_bytes(), said].concat();
    let Ok(mut salting) = begun.hear(&said, b"pencil") else {
        return;
    };
    if !salting.work(64) {
        return;
    }
    let (answer, proof) = salting.finish();
    assert!(answer.starts_with("c=biws,r=") && answer.contains(",p="));
    let last = halves.next().unwrap_or_default();
    assert!(
        proof.hear(last).is_err(),
        "whoever knows no password is let in"
    );
}
