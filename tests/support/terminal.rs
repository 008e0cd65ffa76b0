//! A terminal: a real pseudo-terminal with a program on it, and a reader that knows what stands on its screen, with colours.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use vt100::{Color, Parser, Screen};

use super::process;
use super::wait::{seconds, within};

pub struct Terminal {
    master: File,
    /// Held open, so that its settings can be looked at when the program is gone.
    line: OwnedFd,
    parser: Arc<Mutex<Parser>>,
    child: Child,
    width: u16,
    before: Termios,
}

fn size(columns: u16, rows: u16) -> (NonZeroU16, NonZeroU16) {
    let at_least_one = |n: u16| NonZeroU16::new(n).expect("a screen has a size");
    (at_least_one(rows), at_least_one(columns))
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    /// Runs a program that has this terminal as its controlling one (Debian: util-linux).
    pub fn run(columns: u16, rows: u16, program: &str, arguments: &[&str]) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is open");
        let line = ioctl_tiocgptpeer(&master, flags).expect("its other end");
        tcsetwinsize(&master, window(columns, rows)).expect("its size");
        let before = tcgetattr(&line).expect("its settings");
        let end = || Stdio::from(line.try_clone().expect("another handle"));
        let child = Command::new("setsid")
            .args(["--ctty", program])
            .args(arguments)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("start it");
        let master = File::from(master);
        let (rows, cols) = size(columns, rows);
        let parser = Arc::new(Mutex::new(Parser::new(rows, cols, 0)));
        let (mut reader, drawn) = (master.try_clone().unwrap(), Arc::clone(&parser));
        std::thread::spawn(move || {
            let mut piece = [0; 65_536];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                let mut parser = drawn.lock().unwrap_or_else(PoisonError::into_inner);
                parser.process(&piece[..count]);
            }
        });
        Terminal {
            master,
            line,
            parser,
            child,
            width: columns,
            before,
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("keys");
    }

    /// Another size, as when somebody pulls at the window.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let (count, width) = size(columns, rows);
        let mut parser = self.parser.lock().unwrap();
        parser.screen_mut().set_size(count, width);
        drop(parser);
        self.width = columns;
        tcsetwinsize(&self.master, window(columns, rows)).expect("its size");
    }

    pub fn look<T>(&self, look: impl FnOnce(&Screen) -> T) -> T {
        look(self.parser.lock().unwrap().screen())
    }

    /// What stands on the screen, line by line.
    pub fn lines(&self) -> Vec<String> {
        self.look(|screen| screen.rows(0, self.width).collect())
    }

    /// The same when a frame is whole: nothing has come for a moment.
    fn settled(&self) -> Vec<String> {
        let mut lines = self.lines();
        within(seconds(5), "a frame is whole", || {
            std::thread::sleep(Duration::from_millis(12));
            let now = self.lines();
            let is_whole = now == lines;
            lines = now;
            is_whole.then(|| lines.clone())
        })
    }

    /// The first value that is found on the screen within some seconds.
    #[track_caller]
    pub fn find<T>(&self, what: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            within(seconds(20), what, || look(&self.settled()))
        }));
        found.unwrap_or_else(|_| panic!("{what}:\n{}", self.lines().join("\n")))
    }

    #[track_caller]
    pub fn until(&self, what: &str, look: impl Fn(&[String]) -> bool) {
        self.find(what, |lines| look(lines).then_some(()));
    }

    pub fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        process::wait_exit(&mut self.child, limit)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether its line is set as it was before the program came.
    pub fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.line).expect("its settings");
        now.input_modes == self.before.input_modes
            && now.output_modes == self.before.output_modes
            && now.control_modes == self.before.control_modes
            && now.local_modes == self.before.local_modes
    }

    /// The screen as a page for a browser, in the colours of a common palette.
    pub fn page(&self) -> String {
        let rows = self.look(|screen| {
            let (rows, columns) = screen.size();
            let row = |row: u16| -> String {
                (0..columns.get())
                    .filter_map(|column| screen.cell(row, column))
                    .map(span)
                    .collect()
            };
            (0..rows.get()).map(row).collect::<Vec<_>>()
        });
        format!(
            "<!doctype html><meta charset=utf-8><style>html{{background:#1a1d21}}body{{margin:22px 26px}}pre{{margin:0;display:inline-block;\
             font:15px/1.32 'DejaVu Sans Mono',monospace;color:#d7dae0}}</style><pre>{}</pre>",
            rows.join("\n")
        )
    }
}

fn span(cell: &vt100::Cell) -> String {
    let text = match cell.contents() {
        "" => " ",
        "&" => "&amp;",
        "<" => "&lt;",
        text => text,
    };
    let colour = match cell.fgcolor() {
        Color::Idx(1) => "#e5736b",
        Color::Idx(2) => "#74b98f",
        Color::Idx(3) => "#d9ab57",
        Color::Idx(4) => "#7ba4dd",
        Color::Idx(5) => "#b993e0",
        Color::Idx(6) => "#63b4c8",
        Color::Default => "inherit",
        other => panic!("no colour of the palette: {other:?}"),
    };
    let dim = if cell.dim() { ";opacity:.6" } else { "" };
    let bold = if cell.bold() { ";font-weight:bold" } else { "" };
    match (colour, dim, bold) {
        ("inherit", "", "") => text.to_owned(),
        _ => format!("<span style=\"color:{colour}{dim}{bold}\">{text}</span>"),
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        process::end(&mut self.child, "TERM");
    }
}
