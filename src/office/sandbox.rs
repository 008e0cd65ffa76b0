//! Shuts this process in before its first thread: it becomes the user it was told to be, and with `sandbox = "on"` the
//! kernel then refuses it every file outside of some folders (Landlock), every system call that it never makes (seccomp),
//! and new powers by any way.
//!
//! | may be read | may be written |
//! |---|---|
//! | /etc, /usr, /lib*, /proc, /sys, /run, /dev; the configuration's folder; systemd's credentials; what may be written | systemd's runtime, state, log and cache folders; folders of the log, of unix listeners and of the admin socket as they are at start |
//!
//! A later configuration that names a path elsewhere is refused as a whole.

use std::collections::BTreeSet;
use std::os::unix::fs::{chown, fchown};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use crate::config::{self, AccessLog, Plan};
use crate::handoff::ListenSocket;
use crate::ids::Address;
use crate::sys::account::{self, Account};
use crate::sys::syscalls;

use super::failure::Failure;

const READABLE: [&str; 9] = [
    "/etc", "/usr", "/lib", "/lib32", "/lib64", "/proc", "/sys", "/run", "/dev",
];

/// systemd names its folders for the unit in these, separated by colons.
const FOLDER_VARIABLES: [&str; 4] = [
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CACHE_DIRECTORY",
];

/// Rights that Linux 6.10 knows; an older kernel holds to those that it knows.
const RIGHTS: ABI = ABI::V5;

/// What the process is shut in by.
#[derive(Debug, Default)]
pub struct Sandbox {
    readable: BTreeSet<PathBuf>,
    writable: BTreeSet<PathBuf>,
    /// The kernel holds to it.
    is_closed: bool,
}

impl Sandbox {
    /// The folders for a plan and the file that it came from.
    #[must_use]
    pub fn around(plan: &Plan, file: Option<&Path>) -> Sandbox {
        let environment = |name: &str| std::env::var(name).ok();
        let mut writable: BTreeSet<PathBuf> = written(plan).into_iter().map(|(_, it)| it).collect();
        for name in FOLDER_VARIABLES {
            let folders = environment(name).unwrap_or_default();
            let folders = folders.split(':').filter(|folder| folder.starts_with('/'));
            writable.extend(folders.map(PathBuf::from));
        }
        let socket = config::admin_socket(&plan.admin, &environment);
        writable.extend(socket.and_then(|path| Some(path.parent()?.to_owned())));
        let mut readable: BTreeSet<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
        readable.extend(environment("CREDENTIALS_DIRECTORY").map(PathBuf::from));
        if let Some(file) = file {
            readable.extend(folder_of(file));
            // Where a link leads, too.
            let target = std::fs::canonicalize(file).ok();
            readable.extend(target.and_then(|target| folder_of(&target)));
        }
        readable.extend(plan.files_read().iter().filter_map(|path| folder_of(path)));
        Sandbox {
            readable,
            writable,
            is_closed: false,
        }
    }

    /// Closes it. A kernel without Landlock is said in one line, and the rest holds.
    ///
    /// # Errors
    /// The kernel refuses what every supported kernel can.
    pub fn close(&mut self) -> Result<(), Failure> {
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            Failure::CannotStart(format!(
                "the sandbox cannot be closed: {what}: {error}: set global.sandbox = \"off\" if it must run without"
            ))
        };
        match self.restrict_files() {
            Ok(RulesetStatus::NotEnforced) => {
                log::warn!(
                    "sandbox: no Landlock here (an older kernel, or a container forbids it): files are not restricted"
                );
            }
            Ok(_) => self.is_closed = true,
            Err(error) => return Err(cannot("Landlock", &error)),
        }
        syscalls::allow_only_ours().map_err(|error| cannot("seccomp", &error))
    }

    fn restrict_files(&self) -> Result<RulesetStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_all(RIGHTS) & !BitFlags::from(AccessFs::Execute);
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))?
            .create()?
            .add_rules(path_beneath_rules(&self.readable, read))?
            // Standard streams of a terminal, /dev/null.
            .add_rules(path_beneath_rules(
                ["/dev"],
                read | AccessFs::WriteFile | AccessFs::IoctlDev,
            ))?
            .add_rules(path_beneath_rules(&self.writable, write))?
            .restrict_self()?;
        Ok(status.ruleset)
    }

    /// Whether a later plan stays within.
    ///
    /// # Errors
    /// One sentence that names the first path outside.
    pub fn admits(&self, plan: &Plan) -> Result<(), String> {
        if !self.is_closed {
            return Ok(());
        }
        let outside = written(plan).into_iter().find(|(_, folder)| {
            let folder = resolved(folder);
            let mut allowed = self.writable.iter();
            !allowed.any(|allowed| folder.starts_with(resolved(allowed)))
        });
        match outside {
            None => Ok(()),
            Some((what, folder)) => Err(format!(
                "{what} is outside of the sandbox, in {}; allowed while this process runs: {}; restart it to use another \
                 folder",
                folder.display(),
                in_words(&self.writable)
            )),
        }
    }

    /// What to add where reading a file of a later plan was not permitted.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.is_closed.then(|| {
            format!(
                "the sandbox of this process reads only below {}",
                in_words(&self.readable)
            )
        })
    }
}

/// Becomes the user of the plan, if it names one and is not it already. Everything that is bound goes to that user before:
/// a group of sockets must be of one user, and a socket's file must be removable.
///
/// # Errors
/// There is no such user or group, or this process may not become it.
pub fn become_user<'a>(
    plan: &Plan,
    sockets: impl Iterator<Item = &'a ListenSocket>,
) -> Result<(), Failure> {
    let Some(account) = account_of(plan)? else {
        return Ok(());
    };
    let name = &account.user;
    let mine = (account::own_uid(), account::own_gid());
    if mine == (account.uid, account.gid) {
        return Ok(());
    }
    if mine.0 != 0 {
        return Err(Failure::CannotStart(format!(
            "global.user: this process is not root and cannot become {name}: start it as root or as {name}"
        )));
    }
    let failed = |error: std::io::Error| {
        Failure::CannotStart(format!("global.user: cannot become {name}: {error}"))
    };
    let (uid, gid) = (Some(account.uid), Some(account.gid));
    for socket in sockets {
        for descriptor in &socket.descriptors {
            fchown(descriptor, uid, gid).map_err(failed)?;
        }
        if let Some(path) = &socket.unlink {
            chown(path, uid, gid).map_err(failed)?;
        }
    }
    let environment = |name: &str| std::env::var(name).ok();
    if let Some(path) = config::admin_socket(&plan.admin, &environment)
        && path.exists()
    {
        chown(path, uid, gid).map_err(failed)?;
    }
    account::become_for_good(&account).map_err(failed)?;
    log::info!("this process is user {name} now");
    Ok(())
}

fn account_of(plan: &Plan) -> Result<Option<Account>, Failure> {
    let missing = |key: &str, name: &str, error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "this machine does not have it".to_owned(),
            _ => error.to_string(),
        };
        Failure::CannotStart(format!("global.{key}: found \"{name}\": {why}"))
    };
    let Some(name) = &plan.global.user else {
        return Ok(None);
    };
    let mut account = account::user(name).map_err(|error| missing("user", name, error))?;
    if let Some(name) = &plan.global.group {
        account.gid = account::group(name).map_err(|error| missing("group", name, error))?;
    }
    Ok(Some(account))
}

/// The folders that a plan writes to, and what for.
fn written(plan: &Plan) -> Vec<(String, PathBuf)> {
    let mut written = Vec::new();
    if let AccessLog::File(path) = &plan.global.access_log {
        let folder = folder_of(path);
        written.extend(folder.map(|folder| (format!("access_log {}", path.display()), folder)));
    }
    for listener in &plan.listeners {
        for bind in &listener.binds {
            if let Address::Unix(path) = bind {
                let folder = folder_of(path);
                let what = format!("listener \"{}\" on {bind}", listener.name);
                written.extend(folder.map(|folder| (what, folder)));
            }
        }
    }
    written
}

fn folder_of(path: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(path).ok()?.parent()?.to_owned();
    Some(folder)
}

/// Where a folder really is; one that is not there yet is where it says.
fn resolved(folder: &Path) -> PathBuf {
    std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

fn in_words(folders: &BTreeSet<PathBuf>) -> String {
    let folders: Vec<String> = folders.iter().map(|it| it.display().to_string()).collect();
    match folders.is_empty() {
        true => "none".to_owned(),
        false => folders.join(", "),
    }
}
