//! Reads what a check needs to log in: user, password file, database, and the role that the pool asks for. The password
//! is read when the configuration is, and is part of no message.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use crate::ids::{Role, Secret};

use super::check_plan::LoginPlan;
use super::desk::Desk;
use super::measure::{Refusal, any_text, word};
use super::section::{Section, Value};

/// A longer file is no password but a mistake.
const PASSWORD_BYTES_MAX: u64 = 1024;

const ROLES: &[(&str, Option<Option<Role>>)] = &[
    ("any", Some(None)),
    ("primary", Some(Some(Role::Primary))),
    ("replica", Some(Some(Role::Replica))),
];

pub(super) fn read_login(desk: &mut Desk<'_>, table: &mut Section, kind: &str) -> LoginPlan {
    let (user_at, has_password) = (table.place_of("user"), table.has("password_file"));
    let (password_at, role_at) = (table.place_of("password_file"), table.place_of("role"));
    let user = table.read(desk, "user", any_text);
    let (password_file, password) = table
        .read(desk, "password_file", password)
        .flatten()
        .unzip();
    let plan = LoginPlan {
        user: user.filter(|user| !user.is_empty()),
        password,
        password_file,
        database: read_database(desk, table, kind),
        role: table.read(desk, "role", word(ROLES)).flatten(),
    };
    if kind != "redis" && plan.user.is_none() {
        if plan.role.is_some() {
            let key = table.key("role");
            let sentence = format!(
                "found a role, which a {kind} server tells only to who logs in; allowed: beside user"
            );
            desk.fault(role_at, &key, sentence);
        }
        if has_password && plan.password.is_some() {
            let key = table.key("password_file");
            desk.fault(
                password_at,
                &key,
                "found a password without a user; allowed: only beside user",
            );
        }
    }
    if kind == "redis" && plan.user.is_some() && !has_password {
        let key = table.key("user");
        desk.fault(
            user_at,
            &key,
            "found without a password; allowed: only beside password_file",
        );
    }
    plan
}

/// Redis counts its databases; elsewhere they have names.
fn read_database(desk: &mut Desk<'_>, table: &mut Section, kind: &str) -> Option<String> {
    let found = table.read(desk, "database", |value| {
        let text = any_text(value)?;
        let number = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        if kind == "redis" && !number {
            return Refusal::allowed("a database's number, like \"0\"");
        }
        Ok(text)
    });
    found.filter(|database| !database.is_empty())
}

/// The first line of a file; `None` for "".
fn password(value: &Value) -> Result<Option<(PathBuf, Secret)>, Refusal> {
    let path = any_text(value)?;
    if path.is_empty() {
        return Ok(None);
    }
    let read = read_password(&path);
    read.map(|secret| Some((PathBuf::from(path), secret))).map_err(|why| {
        Refusal::Allowed(format!(
            "a readable file with one line, the password, of at most {PASSWORD_BYTES_MAX} bytes ({why})"
        ))
    })
}

fn read_password(path: &str) -> Result<Secret, String> {
    // A pipe or a terminal would be waited for.
    let is_file = fs::metadata(path).map_err(|error| plain(&error))?.is_file();
    if !is_file {
        return Err("it is not a file".to_owned());
    }
    let file = File::open(path).map_err(|error| plain(&error))?;
    let mut bytes = Vec::new();
    let read = file.take(PASSWORD_BYTES_MAX + 2).read_to_end(&mut bytes);
    read.map_err(|error| plain(&error))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err("it is empty".to_owned());
    }
    if line.len() as u64 > PASSWORD_BYTES_MAX {
        return Err("it is longer".to_owned());
    }
    if line.contains(&b'\n') || line.contains(&0) {
        return Err("it has more than one line".to_owned());
    }
    Ok(Secret::new(line))
}

/// Without the errno, as people say it.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((sentence, _)) => sentence.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(bytes: &[u8]) -> Result<Secret, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, bytes).unwrap();
        read_password(path.to_str().unwrap())
    }

    #[test]
    fn a_password_is_one_line() {
        for written in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n"] {
            assert_eq!(read(written), Ok(Secret::new(b"s3cret")));
        }
        assert_eq!(read(b" a b \n"), Ok(Secret::new(b" a b ")));
        let said = |bytes: &[u8]| read(bytes).unwrap_err();
        assert_eq!(said(b"\n"), "it is empty");
        assert_eq!(said(b"a\nb\n"), "it has more than one line");
        assert_eq!(said(&[b'x'; 1025]), "it is longer");
        assert!(read(&[b'x'; 1024]).is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_said_in_words() {
        assert_eq!(
            read_password("/nowhere/at/all").unwrap_err(),
            "no such file or directory"
        );
        assert!(Path::new("/dev/null").exists());
        assert_eq!(read_password("/dev/null").unwrap_err(), "it is not a file");
    }
}
