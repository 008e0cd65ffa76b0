//! Stops one thread of a child process, as a debugger does, until it is let go of.

use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

pub struct Frozen {
    let_go: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Frozen {
    /// The thread of this name in that process. A kernel that forbids tracing even children fails the test.
    pub fn thread(pid: u32, name: &str) -> Frozen {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
        let thread = tasks.flatten().find(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            comm.trim_end() == name
        });
        let thread = thread.expect("a thread of this name").file_name();
        let thread: libc::pid_t = thread.to_str().unwrap().parse().unwrap();
        let (let_go, until) = channel();
        let (tell, stopped) = channel();
        // Only the thread that holds it may let go of it.
        let holder = std::thread::spawn(move || hold(thread, &tell, &until));
        stopped.recv().expect("the thread is stopped");
        Frozen {
            let_go: Some(let_go),
            holder: Some(holder),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.let_go.take());
        if let Some(holder) = self.holder.take() {
            holder.join().expect("let go");
        }
    }
}

fn hold(thread: libc::pid_t, tell: &Sender<()>, until: &Receiver<()>) {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let mut status = 0;
    // SAFETY: these requests take no memory of ours; waitpid writes one integer into a local.
    let (seized, interrupted, waited) = unsafe {
        (
            libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing),
            libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing),
            libc::waitpid(thread, &raw mut status, libc::__WALL),
        )
    };
    assert_eq!((seized, interrupted, waited), (0, 0, thread), "ptrace");
    tell.send(()).expect("the test waits");
    // Ends when the other end is dropped.
    let _ = until.recv();
    // SAFETY: as above; the thread is in the stop that we have just waited for.
    let detached = unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, nothing, nothing) };
    // Its process may have been killed meanwhile.
    let gone = std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
    assert!(detached == 0 || gone, "PTRACE_DETACH");
}
