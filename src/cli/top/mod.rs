//! `ringway top`: the status of a running instance, live in the terminal. One thread asks, this one draws and hears keys, so
//! that an instance that does not answer does not freeze the screen.

mod backends;
mod draw;
mod look;
mod model;
mod pools;

use std::io::IsTerminal;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::Ending;
use super::client::Instance;
use crate::config::duration_of;
use model::{Key, Model};

/// How soon a key or a new size is seen.
const PULSE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    instance: Instance,
}

fn interval(text: &str) -> Result<Duration, String> {
    let fits = |interval: &Duration| (PULSE..=Duration::from_secs(3600)).contains(interval);
    let allowed = || "allowed: a duration from 100ms to 1h".to_owned();
    duration_of(text).filter(fits).ok_or_else(allowed)
}

/// What the asking thread found.
type Look = Result<Value, String>;

pub(super) fn top(arguments: &Top) -> Result<(), Ending> {
    if !std::io::stdout().is_terminal() {
        return Err(Ending {
            status: 2,
            sentence: "top needs a terminal; for programs there is `ringway status --json`"
                .to_owned(),
        });
    }
    // The first answer comes before the screen is taken: what is wrong is then said as by every command.
    let first = look(&arguments.instance)?;
    let looks = keep_looking(arguments.instance.clone(), arguments.interval)?;
    let mut terminal = ratatui::try_init().map_err(|error| failed(&error))?;
    let shown = show(&mut terminal, &first, &looks);
    ratatui::restore();
    shown.map_err(|error| failed(&error))
}

fn failed(error: &std::io::Error) -> Ending {
    Ending {
        status: 1,
        sentence: format!("the terminal: {error}"),
    }
}

fn look(instance: &Instance) -> Result<Value, Ending> {
    Ok(instance.get("/v1/status")?.checked()?.value())
}

/// The thread ends with the process, or when nobody listens any more.
fn keep_looking(instance: Instance, interval: Duration) -> Result<mpsc::Receiver<Look>, Ending> {
    let (found, looks) = mpsc::sync_channel(1);
    let asking = move || {
        loop {
            std::thread::sleep(interval);
            let look = look(&instance).map_err(|ending| ending.sentence);
            if found.send(look).is_err() {
                return;
            }
        }
    };
    let started = std::thread::Builder::new()
        .name("ringway-top".to_owned())
        .spawn(asking);
    started.map_err(|error| failed(&error))?;
    Ok(looks)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    first: &Value,
    looks: &mpsc::Receiver<Look>,
) -> std::io::Result<()> {
    let began = Instant::now();
    let mut model = Model::default();
    model.update(first, began.elapsed());
    loop {
        while let Ok(look) = looks.try_recv() {
            match look {
                Ok(status) => model.update(&status, began.elapsed()),
                Err(sentence) => model.trouble = Some(sentence),
            }
        }
        terminal.draw(|frame| draw::draw(frame, &mut model))?;
        if event::poll(PULSE)?
            && let Event::Key(pressed) = event::read()?
            && pressed.kind != KeyEventKind::Release
            && let Some(key) = key(pressed.code, pressed.modifiers)
            && !model.press(key)
        {
            return Ok(());
        }
    }
}

fn key(code: KeyCode, modifiers: KeyModifiers) -> Option<Key> {
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Break,
        KeyCode::Char(letter) => Key::Letter(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
