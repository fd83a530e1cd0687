//! The only module that prints.
//!
//! Results go to standard output, in the form that was asked for; progress, notes and errors go to standard error, so
//! that `-o json` gives a script nothing but JSON.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use longshore_proto::v1::WatchJobResponse;

use crate::error::Error;
use crate::exit::Exit;
use crate::json::Json;
use crate::progress::View;

/// Lines of live progress: few enough to leave what was there before in sight.
const PROGRESS_LINES: usize = 10;

/// In which form results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Where everything is printed.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    progress: Option<MultiProgress>,
    bars: Vec<ProgressBar>,
}

/// Prints what clap has to say: help and version to standard output, mistakes to standard error.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    // Nothing is left to be done when even this cannot be written.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}

impl Output {
    /// Live progress is drawn when standard error is a terminal.
    pub(crate) fn new(format: Format) -> Self {
        let progress =
            io::stderr().is_terminal().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { format, progress, bars: Vec::new() }
    }

    /// Whether somebody sits in front of it who can press Ctrl-C.
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Whether results are for people.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Shows a result in the form that was asked for.
    pub(crate) fn show(&mut self, json: impl FnOnce() -> Json, text: impl FnOnce() -> String) -> Result<(), Error> {
        let document = match self.format {
            Format::Table => text(),
            Format::Json => serde_json::to_string_pretty(&json()).map_err(|error| Error::new(error.to_string()))?,
            Format::Yaml => serde_saphyr::to_string(&json()).map_err(|error| Error::new(error.to_string()))?,
        };
        self.line(document.trim_end())
    }

    /// A part of a result for people that is best read as YAML.
    pub(crate) fn yaml(&self, part: &Json) -> Result<String, Error> {
        serde_saphyr::to_string(part).map_err(|error| Error::new(error.to_string()))
    }

    /// Shows one of many results as it comes: JSON on a line of its own, YAML as a document of its own.
    pub(crate) fn show_item(
        &mut self,
        json: impl FnOnce() -> Json,
        text: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), Error> {
        match self.format {
            Format::Table => self.write(&text()),
            Format::Json => self.line(&serde_json::to_string(&json()).map_err(|error| Error::new(error.to_string()))?),
            Format::Yaml => {
                let document = serde_saphyr::to_string(&json()).map_err(|error| Error::new(error.to_string()))?;
                self.line(&format!("---\n{}", document.trim_end()))
            }
        }
    }

    /// Prints a line of a result.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Error> {
        self.write(line.as_bytes())
    }

    /// Passes on what a command inside an app has written to its standard output, as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error::Output)
    }

    /// The same for its standard error.
    pub(crate) fn raw_error(&mut self, bytes: &[u8]) {
        // Where standard error is closed nobody wants it.
        let _ = io::stderr().lock().write_all(bytes);
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(line).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
        written.map_err(Error::Output)
    }

    /// Prints advice of the server.
    pub(crate) fn warn<'a>(&mut self, warnings: impl IntoIterator<Item = &'a String>) {
        for warning in warnings {
            self.note(&format!("warning: {warning}"));
        }
    }

    /// Prints a line that is no result: what goes on, or what to do next.
    pub(crate) fn note(&mut self, line: &str) {
        let print = || {
            // Where standard error is closed nobody wants notes.
            let _ = writeln!(io::stderr().lock(), "{line}");
        };
        match &self.progress {
            Some(progress) => progress.suspend(print),
            None => print(),
        }
    }

    /// Shows how a job goes on: drawn in place on a terminal, else a line for each change.
    pub(crate) fn progress(&mut self, view: &mut View, message: WatchJobResponse) {
        let lines = view.take(message);
        if self.progress.is_some() {
            self.redraw(view);
        } else {
            for line in lines {
                self.note(&line);
            }
        }
    }

    /// Draws the progress again, since time has passed; does nothing without a terminal.
    pub(crate) fn redraw(&mut self, view: &View) {
        let Some(progress) = &self.progress else { return };
        let lines = view.screen(PROGRESS_LINES, Timestamp::now());
        while self.bars.len() < lines.len() {
            let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            self.bars.push(progress.add(ProgressBar::no_length().with_style(style)));
        }
        for bar in self.bars.drain(lines.len()..) {
            progress.remove(&bar);
        }
        for (bar, line) in self.bars.iter().zip(lines) {
            bar.set_message(line);
        }
    }

    /// Wipes the live progress away; what is to stay is printed as a result or note.
    pub(crate) fn end_progress(&mut self) {
        for bar in self.bars.drain(..) {
            bar.finish_and_clear();
        }
    }

    /// Prints an error and answers its exit code.
    pub(crate) fn fail(&mut self, error: &Error) -> Exit {
        self.end_progress();
        let text = error.text();
        if !text.is_empty() {
            self.note(&format!("error: {text}"));
        }
        error.exit()
    }
}
