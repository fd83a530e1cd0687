//! Writes output of a container, on the shim's side.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{CURRENT, MAX_LINE, Rotation, aside, current};
use crate::runtime::LogLine;
use crate::runtime::files;

/// Appends lines and rotates.
#[derive(Debug)]
pub(crate) struct LogWriter {
    directory: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
}

impl LogWriter {
    /// Goes on where an earlier run of the instance ended.
    pub(crate) fn open(directory: &Path, rotation: Rotation) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        remove_beyond(directory, rotation.max_files)?;
        let (file, size) = append_to(&current(directory))?;
        Ok(Self { directory: directory.to_owned(), rotation, file, size })
    }

    /// Appends whole lines in the file's format.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > self.rotation.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.rotation.max_files.saturating_sub(1);
        for age in (0..oldest).rev() {
            ignore_missing(fs::rename(aside(&self.directory, age), aside(&self.directory, age + 1)))?;
        }
        if oldest == 0 {
            ignore_missing(fs::remove_file(current(&self.directory)))?;
        }
        (self.file, self.size) = append_to(&current(&self.directory))?;
        Ok(())
    }
}

/// Removes files that an earlier revision of the app has kept more of.
fn remove_beyond(directory: &Path, max_files: u32) -> io::Result<()> {
    for name in files::names(directory)? {
        let age =
            name.strip_prefix(CURRENT).and_then(|rest| rest.strip_prefix('.')).and_then(|age| age.parse::<u32>().ok());
        if age.is_some_and(|age| age >= max_files) {
            ignore_missing(fs::remove_file(directory.join(name)))?;
        }
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens for appending; a line that a crash left half is ended first.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// Adds a line of a run to `out` in the file's format.
pub(crate) fn record(line: &LogLine, run: u32, out: &mut Vec<u8>) {
    let stream = if line.stderr { "stderr" } else { "stdout" };
    out.extend_from_slice(format!("{:.9} {stream} F:{run} ", line.time).as_bytes());
    out.extend_from_slice(&line.text[..line.text.len().min(MAX_LINE)]);
    out.push(b'\n');
}

/// Cuts one stream of a container's output into lines of the file's format.
#[derive(Debug)]
pub(crate) struct Splitter {
    name: &'static str,
    run: u32,
    line: Vec<u8>,
}

impl Splitter {
    /// For the stream of that name, `stdout` or `stderr`, of this run.
    pub(crate) fn new(name: &'static str, run: u32) -> Self {
        Self { name, run, line: Vec::new() }
    }

    /// Takes what was read at `now`, and adds each line that it ends to `out`.
    pub(crate) fn push(&mut self, mut input: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while !input.is_empty() {
            let room = MAX_LINE - self.line.len();
            let window = &input[..input.len().min(room)];
            if let Some(end) = window.iter().position(|&b| b == b'\n') {
                self.line.extend_from_slice(&window[..end]);
                input = &input[end + 1..];
                self.emit('F', now, out);
            } else {
                self.line.extend_from_slice(window);
                input = &input[window.len()..];
                // A line of exactly the limit is whole if its line feed is the next byte.
                if self.line.len() == MAX_LINE && input.first() != Some(&b'\n') {
                    self.emit('P', now, out);
                } else if self.line.len() == MAX_LINE {
                    input = &input[1..];
                    self.emit('F', now, out);
                }
            }
        }
    }

    /// Ends a last line that has no line feed.
    pub(crate) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            self.emit('F', now, out);
        }
    }

    fn emit(&mut self, tag: char, now: Timestamp, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{now:.9} {} {tag}:{} ", self.name, self.run).as_bytes());
        out.append(&mut self.line);
        out.push(b'\n');
        // A burst of long lines must not leave its buffer with an idle shim.
        self.line.shrink_to(0);
    }
}
