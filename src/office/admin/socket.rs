//! The admin server's unix socket: the whole API, changes included, for those who may open the file, mode 0660. Its place
//! is fixed for the life of the process.
//!
//! A file that a dead process left is replaced; one that somebody answers at is not touched.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as Listening, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::config::{self, AdminPlan};
use crate::office::board::Board;
use crate::office::demands::Demands;
use crate::office::failure::Failure;
use crate::office::upgrade::heir::Heritage;

use super::{Entrance, Places};

/// A bound socket that nobody answers yet.
#[derive(Debug)]
pub struct BoundSocket {
    socket: Listening,
    file: File,
}

impl BoundSocket {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// The socket's file, removed with its owner.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Not another process's.
    is_own: bool,
}

impl Drop for File {
    fn drop(&mut self) {
        if self.is_own
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Binds the socket that the plan asks for, or the one that is usual here, if it can be had: that it cannot is then worth a
/// line, not a refusal to serve.
///
/// # Errors
/// The plan names a path, and it cannot be bound.
pub fn bind_socket(
    plan: &AdminPlan,
    heritage: Option<&mut Heritage>,
) -> Result<Option<BoundSocket>, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let Some(path) = config::admin_socket(plan, &environment) else {
        log::info!("admin socket off: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set");
        return Ok(None);
    };
    if let Some(socket) = heritage.and_then(|own| own.admin_socket(&path)) {
        let file = File {
            path,
            is_own: false,
        };
        let socket = Listening::from(socket);
        return Ok(Some(BoundSocket { socket, file }));
    }
    match (bind(&path), &plan.socket) {
        (Ok(bound), _) => {
            log::info!("admin socket {}", path.display());
            Ok(Some(bound))
        }
        (Err(sentence), None) => {
            log::warn!("admin socket off: {sentence}");
            Ok(None)
        }
        (Err(sentence), Some(_)) => Err(Failure::CannotStart(format!(
            "admin cannot bind unix:{sentence}"
        ))),
    }
}

fn bind(path: &Path) -> Result<BoundSocket, String> {
    let shown = path.display();
    let said = |error: io::Error| format!("{shown}: {error}");
    if let Some(folder) = path.parent() {
        let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
        if let Err(error) = made.or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        }) {
            return Err(format!("{}: {error}", folder.display()));
        }
    }
    remove_left_over(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(said)?;
    let address = SockAddr::unix(path).map_err(said)?;
    socket.bind(&address).map_err(said)?;
    let file = File {
        path: path.to_owned(),
        is_own: true,
    };
    // Before anybody can connect.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).map_err(said)?;
    socket.listen(super::QUEUE).map_err(said)?;
    socket.set_nonblocking(true).map_err(said)?;
    Ok(BoundSocket {
        socket: socket.into(),
        file,
    })
}

fn remove_left_over(path: &Path) -> Result<(), String> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let shown = path.display();
    if !found.file_type().is_socket() {
        return Err(format!("{shown}: there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let removed = std::fs::remove_file(path);
            removed.map_err(|error| format!("{shown}: a left-over cannot be removed: {error}"))
        }
        _ => Err(format!(
            "{shown}: another process answers there: stop it, or name another socket"
        )),
    }
}

/// The running server of the socket.
#[derive(Debug)]
pub struct SocketServer {
    accepting: JoinHandle<()>,
    listener: Arc<UnixListener>,
    places: Arc<Places>,
    file: File,
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl SocketServer {
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be watched.
    pub fn start(
        bound: BoundSocket,
        board: Arc<Board>,
        demands: Demands,
    ) -> io::Result<SocketServer> {
        let listener = Arc::new(UnixListener::from_std(bound.socket)?);
        let places = Places::new(super::CONNECTIONS_MAX, super::GRACE);
        let own = Arc::clone(&listener);
        let next = move || {
            let listener = Arc::clone(&own);
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        let entrance = Entrance::socket(board, demands);
        let accepting = super::accept(next, entrance, Arc::clone(&places));
        Ok(SocketServer {
            accepting: tokio::spawn(accepting),
            listener,
            places,
            file: bound.file,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// A copy of the socket, for a successor.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// The process before has let go of it: the file is this process's.
    pub fn own(&mut self) {
        self.file.is_own = true;
    }

    /// Stops accepting and leaves the file to a successor. What is left are connections.
    #[must_use]
    pub fn leave(mut self) -> Arc<Places> {
        self.file.is_own = false;
        Arc::clone(&self.places)
    }
}
