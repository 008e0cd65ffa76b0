//! `ringway completions` and `ringway man`: what shells and manual readers want to know, made from the command line itself,
//! so that neither can fall behind it.

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Arguments, Ending, out};

/// What the command line does not know of itself.
const MORE: &str = r#".SH "EXIT STATUS"
.TP
0
fine
.TP
1
failed at run time
.TP
2
wrong command line or configuration
.TP
3
cannot start: address in use, permission, io_uring refused, limits; the message names the remedy
.TP
4
a wait ran out
.SH SIGNALS
.TP
SIGTERM, SIGINT
drain: stop accepting, let sessions end, close what is left over the last fifth of shutdown_grace; a second one cuts at once
.TP
SIGHUP
read the configuration again, reopen logs
.TP
SIGUSR1
reopen logs
.TP
SIGUSR2
upgrade: a successor, of the program as it is now, takes over; this process keeps its sessions until they end
.SH FILES
.TP
config.toml
the configuration, in the working directory, if \-c names no other
.TP
/etc/ringway/config.toml
that of the installed service
.TP
admin.sock
the admin socket in $RUNTIME_DIRECTORY (of the installed service: /run/ringway) or $XDG_RUNTIME_DIR/ringway, if the
configuration names no other
.TP
operator.json
what operators changed at run time: in $STATE_DIRECTORY, else beside the admin socket as admin.sock.operator.json
"#;

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Ending> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ringway", &mut text);
    out::say(&String::from_utf8_lossy(&text));
    Ok(())
}

pub(super) fn manual() -> Result<(), Ending> {
    let written = page().map_err(|error| Ending {
        status: 1,
        sentence: format!("the manual cannot be written: {error}"),
    })?;
    out::say(&written);
    Ok(())
}

/// One page for all commands.
fn page() -> std::io::Result<String> {
    let mut command = Arguments::command();
    command = command.version(env!("CARGO_PKG_VERSION"));
    command.build();
    let subcommands: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    let mut text = Vec::new();
    let man = Man::new(command);
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    let mut page = String::from_utf8_lossy(&text).into_owned();
    page.push_str(".SH COMMANDS\n");
    for subcommand in subcommands {
        page.push_str(&section(subcommand)?);
    }
    page.push_str(MORE);
    Ok(page)
}

/// A command's part of the page: its own sections, one level down.
fn section(command: clap::Command) -> std::io::Result<String> {
    let name = command.get_name().to_owned();
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let has_options = command
        .get_arguments()
        .any(|argument| !argument.is_hide_set());
    let man = Man::new(command.disable_help_flag(true));
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    if has_options {
        man.render_options_section(&mut text)?;
    }
    let text = String::from_utf8_lossy(&text);
    // The preamble that each section brings is on the page already.
    let lines = text.lines().filter(|line| {
        !line.starts_with(".ie ") && !line.starts_with(".el ") && !line.starts_with(".SH ")
    });
    let body: Vec<&str> = lines.collect();
    Ok(format!(
        ".SS \"{name}\"\n{}\n.PP\n{about}.\n",
        body.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_command_and_option() {
        let page = page().unwrap();
        let command = Arguments::command();
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            assert!(page.contains(&format!(".SS \"{name}\"")), "{name}");
            for argument in subcommand.get_arguments() {
                if let Some(long) = argument.get_long() {
                    let shown = long.replace('-', "\\-");
                    assert!(page.contains(&shown), "{name} --{long}");
                }
            }
        }
        for part in ["EXIT STATUS", "SIGNALS", "FILES"] {
            assert!(page.contains(part), "{part}");
        }
    }
}
