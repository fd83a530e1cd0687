//! Reads a file of logs that an app writes by itself, on the agent's side.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::reader::{BATCH, Batches, stream_of};
use super::{MAX_LINE, directory};
use crate::runtime::LogLine;

/// Streams the lines of the file `name` in `directory`; `None` where there is no such file.
pub(super) fn stream(
    directory: PathBuf,
    name: String,
    tail: Option<u32>,
    follow: bool,
) -> io::Result<Option<BoxStream<'static, LogLine>>> {
    let Some(file) = directory::open_file(&directory, &name)? else { return Ok(None) };
    let mut reader = FileReader { directory, name, file: BufReader::new(file), partial: Vec::new(), follow };
    reader.begin(tail)?;
    Ok(Some(stream_of(reader, follow)))
}

/// A place in a file.
struct FileReader {
    directory: PathBuf,
    name: String,
    file: BufReader<File>,
    /// A line whose end is not there yet.
    partial: Vec<u8>,
    follow: bool,
}

impl FileReader {
    /// Goes to the first line that is wanted.
    fn begin(&mut self, tail: Option<u32>) -> io::Result<()> {
        let start = self.file.stream_position()?;
        // What was given back to the disk ends anywhere in a line.
        if start > 0 {
            self.file.skip_until(b'\n')?;
        }
        let Some(tail) = tail else { return Ok(()) };
        let start = self.file.stream_position()?;
        let mut lines: u64 = 0;
        while self.file.skip_until(b'\n')? > 0 {
            lines += 1;
        }
        self.file.seek(SeekFrom::Start(start))?;
        for _ in 0..lines.saturating_sub(tail.into()) {
            self.file.skip_until(b'\n')?;
        }
        Ok(())
    }

    /// Passes over what was given back to the disk meanwhile, and begins anew where the app has emptied or replaced its file;
    /// false if there is nothing more at the moment.
    fn catch_up(&mut self) -> io::Result<bool> {
        let (position, meta) = (self.file.stream_position()?, self.file.get_ref().metadata()?);
        if meta.len() < position {
            self.partial.clear();
            self.file.seek(SeekFrom::Start(0))?;
            return Ok(meta.len() > 0);
        }
        if meta.len() > position {
            let start = directory::data_from(self.file.get_ref(), position)?;
            self.file.seek(SeekFrom::Start(start))?;
            if start > position {
                self.partial.clear();
                self.file.skip_until(b'\n')?;
            }
            return Ok(true);
        }
        let Some(newer) = directory::open_file(&self.directory, &self.name)? else { return Ok(false) };
        let is_same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if is_same(&newer.metadata()?, &meta) {
            return Ok(false);
        }
        self.partial.clear();
        self.file = BufReader::new(newer);
        Ok(true)
    }

    fn line(&mut self) -> LogLine {
        // A file's lines have no times of their own.
        LogLine { time: Timestamp::UNIX_EPOCH, stderr: false, text: Bytes::from(std::mem::take(&mut self.partial)) }
    }
}

impl Batches for FileReader {
    fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        if !self.catch_up()? {
            return Ok(lines);
        }
        while lines.len() < BATCH {
            // With its line feed a line of the greatest length is still whole.
            let room = (MAX_LINE + 1).saturating_sub(self.partial.len()) as u64;
            let read = self.file.by_ref().take(room).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                lines.push(self.line());
            } else if self.partial.len() > MAX_LINE {
                let rest = self.partial.split_off(MAX_LINE);
                lines.push(self.line());
                self.partial = rest;
            } else if read == 0 {
                // The app may still be writing it.
                if !self.follow && !self.partial.is_empty() {
                    lines.push(self.line());
                }
                break;
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::io::Write;

    use futures::StreamExt;

    use super::super::Rotation;
    use super::*;

    fn text(line: LogLine) -> String {
        String::from_utf8(line.text.to_vec()).unwrap()
    }

    async fn lines(directory: &std::path::Path, tail: Option<u32>) -> Vec<String> {
        let stream = stream(directory.to_owned(), "a.log".to_owned(), tail, false).unwrap().unwrap();
        stream.map(text).collect().await
    }

    #[tokio::test]
    async fn lines_are_read_from_the_first_whole_one_that_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        fs::write(&path, "one\n\ntwo\nno end").unwrap();
        assert_eq!(lines(directory.path(), None).await, ["one", "", "two", "no end"]);
        assert_eq!(lines(directory.path(), Some(2)).await, ["two", "no end"]);
        fs::write(&path, vec![b'x'; MAX_LINE + 1]).unwrap();
        let lengths: Vec<_> = lines(directory.path(), None).await.iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE, 1]);
        let mut file = File::create(&path).unwrap();
        for n in 0..50_000 {
            writeln!(file, "line {n}").unwrap();
        }
        directory::bound(directory.path(), Rotation { max_bytes: 64 * 1024, max_files: 1 }).unwrap();
        let kept = lines(directory.path(), None).await;
        let first: usize = kept[0].strip_prefix("line ").unwrap().parse().unwrap();
        assert_eq!(kept.len(), 50_000 - first);
        assert_eq!(kept.last().unwrap(), "line 49999");
    }

    #[tokio::test]
    async fn a_follower_goes_on_when_the_file_is_emptied_replaced_or_shortened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut file = File::create(&path).unwrap();
        writeln!(file, "one").unwrap();
        let mut stream = stream(directory.path().to_owned(), "a.log".to_owned(), Some(1), true).unwrap().unwrap();
        assert_eq!(text(stream.next().await.unwrap()), "one");
        write!(file, "tw").unwrap();
        writeln!(file, "o, longer").unwrap();
        assert_eq!(text(stream.next().await.unwrap()), "two, longer");
        // As programs do that rotate their files by themselves.
        fs::rename(&path, directory.path().join("a.log.1")).unwrap();
        let mut file = File::create(&path).unwrap();
        writeln!(file, "three, in another file").unwrap();
        assert_eq!(text(stream.next().await.unwrap()), "three, in another file");
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        writeln!(file, "four").unwrap();
        assert_eq!(text(stream.next().await.unwrap()), "four");
        for n in 0..50_000 {
            writeln!(file, "line {n}").unwrap();
        }
        directory::bound(directory.path(), Rotation { max_bytes: 64 * 1024, max_files: 1 }).unwrap();
        writeln!(file, "five").unwrap();
        let mut last = String::new();
        while last != "five" {
            last = text(stream.next().await.unwrap());
            assert!(!last.contains('\0'), "what is gone is passed over");
        }
    }
}
