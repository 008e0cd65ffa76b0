//! Users and groups of this machine, and becoming one of them for good, with nothing kept but the right to bind low ports.

use std::collections::HashSet;
use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;

use caps::{CapSet, Capability};

/// Whom to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub uid: u32,
    pub gid: u32,
}

/// Room for one entry of the user or group database; more than any has in practice.
const ENTRY_BYTES: usize = 64 * 1024;

/// What `getpwnam_r` and `getgrnam_r` look like: the name, where the entry goes, room for its texts, and what was found.
type LookUp<E> = unsafe extern "C" fn(
    *const libc::c_char,
    *mut E,
    *mut libc::c_char,
    libc::size_t,
    *mut *mut E,
) -> libc::c_int;

/// Numbers of the entry of this name.
fn look_up<E, N>(name: &str, call: LookUp<E>, numbers: fn(&E) -> N) -> io::Result<N> {
    let mut text = vec![0; ENTRY_BYTES];
    let mut entry = MaybeUninit::<E>::uninit();
    let mut found = std::ptr::null_mut();
    let wanted = CString::new(name)?;
    // SAFETY: `call` is one of the two functions of this shape. All pointers are to memory of ours that outlives the call, and
    // the length is that of `text`.
    let code = unsafe {
        call(
            wanted.as_ptr(),
            entry.as_mut_ptr(),
            text.as_mut_ptr(),
            text.len(),
            &raw mut found,
        )
    };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    if found.is_null() {
        return Err(ErrorKind::NotFound.into());
    }
    // SAFETY: a result that is not null says that the entry was filled in. Its texts live in `text`, which outlives this.
    Ok(numbers(unsafe { entry.assume_init_ref() }))
}

/// The user of this name, with its own group.
///
/// # Errors
/// `NotFound`, or the database's own.
pub fn user(name: &str) -> io::Result<Account> {
    let numbers = |entry: &libc::passwd| (entry.pw_uid, entry.pw_gid);
    let (uid, gid) = look_up(name, libc::getpwnam_r, numbers)?;
    Ok(Account {
        user: name.to_owned(),
        uid,
        gid,
    })
}

/// The id of the group of this name.
///
/// # Errors
/// `NotFound`, or the database's own.
pub fn group(name: &str) -> io::Result<u32> {
    look_up(name, libc::getgrnam_r, |entry: &libc::group| entry.gr_gid)
}

/// The user that this process acts as.
#[must_use]
pub fn own_uid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The group that this process acts as.
#[must_use]
pub fn own_gid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getegid() }
}

/// Turns this process into `account` for good; of root's powers only binding low ports is kept, for reloads. Call it
/// before the first thread: the kernel keeps powers by thread.
///
/// # Errors
/// The kernel's; the process may then be anything between, and must end.
pub fn become_for_good(account: &Account) -> io::Result<()> {
    let name = CString::new(account.user.as_str())?;
    let keep: HashSet<Capability> = [Capability::CAP_NET_BIND_SERVICE].into();
    let failed = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    for capability in caps::all().difference(&keep) {
        // What an older kernel does not know, nobody has.
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    caps::securebits::set_keepcaps(true).map_err(failed)?;
    // SAFETY: takes a C string that outlives the call, and numbers.
    let changed = unsafe {
        libc::initgroups(name.as_ptr(), account.gid) == 0
            && libc::setresgid(account.gid, account.gid, account.gid) == 0
            && libc::setresuid(account.uid, account.uid, account.uid) == 0
    };
    if !changed {
        return Err(io::Error::last_os_error());
    }
    caps::set(None, CapSet::Effective, &keep).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &keep).map_err(failed)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    caps::securebits::set_keepcaps(false).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up() {
        let root = user("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(group("root").unwrap(), 0);
        for error in [
            user("no-such-user-here").unwrap_err(),
            group("no-such-group-here").unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        assert!(user("a\0b").is_err());
    }
}
