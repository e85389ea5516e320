//! The streams, terminals and variables of a process, or a test's stand-ins for them.

use std::{
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::Error;
use crate::{config, model::Secret};

pub struct Io {
    pub stdin: Box<dyn BufRead>,
    pub stdout: Box<dyn Write>,
    pub stderr: Box<dyn Write>,
    pub env: Vec<(String, String)>,
    pub stdin_is_terminal: bool,
    pub stdout_is_terminal: bool,
    pub stderr_is_terminal: bool,
}

impl Io {
    pub fn process() -> Self {
        Self {
            stdin: Box::new(BufReader::new(io::stdin())),
            stdout: Box::new(BufWriter::new(io::stdout())),
            stderr: Box::new(io::stderr()),
            env: config::process_env().collect(),
            stdin_is_terminal: io::stdin().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// A variable that is filled in.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        let (_, value) = self.env.iter().find(|(known, _)| known == name)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }

    pub(super) fn colour(&self) -> bool {
        self.stdout_is_terminal && self.var("NO_COLOR").is_none() && self.var("TERM") != Some("dumb")
    }

    pub(super) fn print(&mut self, text: &str) -> Result<(), Error> {
        self.stdout.write_all(text.as_bytes()).map_err(|error| Error::output(&error))
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Error> {
        self.print(text)?;
        self.print("\n")
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stdout.write_all(bytes).map_err(|error| Error::output(&error))
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.stdout.flush().map_err(|error| Error::output(&error))
    }

    /// A line for people on stderr; one that cannot be written is no reason to fail.
    pub(super) fn note(&mut self, text: &str) {
        let _ = self.stdout.flush();
        let _ = writeln!(self.stderr, "{text}");
        let _ = self.stderr.flush();
    }

    /// All of stdin, when it is not longer than `limit` bytes.
    pub(super) fn read_stdin(&mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.stdin.by_ref().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::failed(format!("cannot read stdin: {error}")))?;
        if bytes.len() as u64 > limit {
            return Err(Error::failed(format!("stdin holds more than {limit} bytes; send it in parts")));
        }
        Ok(bytes)
    }

    /// The arguments, with what stands on stdin in the place of `-`.
    pub(super) fn words(&mut self, arguments: &[String]) -> Result<Vec<String>, Error> {
        let mut words = Vec::new();
        for argument in arguments {
            match argument.as_str() {
                "-" => words.extend(self.read_words()?),
                word => words.push(word.to_owned()),
            }
        }
        if words.is_empty() {
            return Err(Error::usage("stdin holds no ids"));
        }
        Ok(words)
    }

    /// The words of stdin, one or more a line.
    pub(super) fn read_words(&mut self) -> Result<Vec<String>, Error> {
        const LIMIT: u64 = 64 << 20;
        let text = String::from_utf8(self.read_stdin(LIMIT)?)
            .map_err(|_| Error::failed("stdin is not UTF-8 text"))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// A line typed at the terminal, unseen.
    pub(super) fn ask_hidden(&mut self, question: &str) -> Result<Secret, Error> {
        let _ = write!(self.stderr, "{question}");
        let _ = self.stderr.flush();
        let mut line = String::new();
        let read = {
            let _hidden = Hidden::start()?;
            self.stdin.read_line(&mut line)
        };
        let _ = writeln!(self.stderr);
        read.map_err(|error| Error::failed(format!("cannot read from the terminal: {error}")))?;
        Ok(Secret::new(line.trim()))
    }

    /// A bar on a terminal, nothing elsewhere.
    pub(super) fn progress(&self, total: u64, what: &'static str, unit: Unit) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), self.draw_target());
        let counted = match unit {
            Unit::Items => "{human_pos}/{human_len}",
            Unit::Bytes => "{decimal_bytes}/{decimal_total_bytes}",
        };
        let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {counted} {{eta}}"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        bar
    }

    pub(super) fn spinner(&self, what: &'static str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.draw_target());
        bar.set_message(what);
        if self.stderr_is_terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    fn draw_target(&self) -> ProgressDrawTarget {
        if self.stderr_is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
    }
}

pub(super) enum Unit {
    Items,
    Bytes,
}

/// The terminal of stdin without echo, until dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn start() -> Result<Self, Error> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let fail =
            |error| Error::failed(format!("cannot hide what is typed ({error}); pass \"-\" and use stdin"));
        let before = tcgetattr(io::stdin()).map_err(fail)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).map_err(fail)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let now = rustix::termios::OptionalActions::Now;
        let _ = rustix::termios::tcsetattr(io::stdin(), now, &self.0);
    }
}
