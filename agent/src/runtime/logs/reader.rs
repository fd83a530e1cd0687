//! Reads output of an instance back, on the agent's side.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::{MAX_LINE, aside};
use crate::runtime::LogLine;

/// Lines read at once: bounds what one reader holds, at [`MAX_LINE`] bytes each.
const BATCH: usize = 64;
/// Longest line of a file: text, time, stream and tag.
const MAX_RECORD: u64 = MAX_LINE as u64 + 128;
/// How often a follower looks for more.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// Streams the output in `directory`; `None` where there never was any.
pub(crate) fn stream(
    directory: PathBuf,
    tail: Option<u32>,
    follow: bool,
) -> io::Result<Option<BoxStream<'static, LogLine>>> {
    if !follow && !aside(&directory, 0).exists() {
        return Ok(None);
    }
    let reader = Reader::open(directory, tail)?;
    let batches = stream::unfold(Some(reader), move |state| async move {
        let mut reader = state?;
        loop {
            let read = tokio::task::spawn_blocking(move || reader.batch().map(|lines| (lines, reader))).await;
            match read {
                Ok(Ok((lines, next))) if !lines.is_empty() => return Some((lines, Some(next))),
                Ok(Ok((_, next))) if follow => {
                    reader = next;
                    tokio::time::sleep(FOLLOW_POLL).await;
                }
                Ok(Ok(_)) => return None,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "reading a container's output failed");
                    return None;
                }
                Err(_) => return None,
            }
        }
    });
    Ok(Some(batches.flat_map(stream::iter).boxed()))
}

/// A place in the files of an instance.
struct Reader {
    directory: PathBuf,
    /// The open file and its inode, by which it is found again after a rotation.
    open: Option<(BufReader<File>, u64)>,
    /// A line whose end is not there yet.
    partial: Vec<u8>,
}

impl Reader {
    fn open(directory: PathBuf, tail: Option<u32>) -> io::Result<Self> {
        let mut reader = Self { directory, open: None, partial: Vec::new() };
        let ages = reader.ages();
        let Some(tail) = tail else {
            reader.open = ages.last().map(|&age| open(&aside(&reader.directory, age))).transpose()?.flatten();
            return Ok(reader);
        };
        let mut wanted = u64::from(tail);
        for (position, &age) in ages.iter().enumerate() {
            let Some((mut file, inode)) = open(&aside(&reader.directory, age))? else { continue };
            let lines = count_lines(&mut file)?;
            if lines >= wanted || position + 1 == ages.len() {
                reader.open = open(&aside(&reader.directory, age))?;
                // Between the two a rotation may have put another file there: then that one is read whole.
                if reader.open.as_ref().is_some_and(|(_, now)| *now == inode) {
                    reader.skip(lines.saturating_sub(wanted))?;
                }
                break;
            }
            wanted -= lines;
        }
        Ok(reader)
    }

    /// Files that exist, newest first.
    fn ages(&self) -> Vec<u32> {
        (0..).take_while(|&age| age == 0 || aside(&self.directory, age).exists()).collect()
    }

    fn skip(&mut self, lines: u64) -> io::Result<()> {
        for _ in 0..lines {
            if let Some((file, _)) = &mut self.open {
                file.skip_until(b'\n')?;
            }
        }
        Ok(())
    }

    /// The next lines; none if there are no more at the moment.
    fn batch(&mut self) -> io::Result<VecDeque<LogLine>> {
        let mut lines = VecDeque::new();
        while lines.len() < BATCH {
            let Some((file, _)) = &mut self.open else {
                if !self.advance()? {
                    break;
                }
                continue;
            };
            let room = MAX_RECORD.saturating_sub(self.partial.len() as u64);
            let read = file.by_ref().take(room).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') || self.partial.len() as u64 >= MAX_RECORD {
                lines.extend(parse(&self.partial));
                self.partial.clear();
            } else if read == 0 && !self.advance()? {
                break;
            }
        }
        Ok(lines)
    }

    /// Goes on to the file after the open one; false if that is the newest.
    fn advance(&mut self) -> io::Result<bool> {
        let ages = self.ages();
        let mut inodes = Vec::new();
        for age in ages {
            match fs::metadata(aside(&self.directory, age)) {
                Ok(meta) => inodes.push((age, meta.ino())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let next = match &self.open {
            None => inodes.last(),
            Some((_, inode)) => match inodes.iter().position(|(_, i)| i == inode) {
                Some(0) => None,
                Some(position) => inodes.get(position - 1),
                // Ours was rotated away while we slept: the oldest that is left comes next.
                None => inodes.last(),
            },
        };
        let Some(&(age, inode)) = next else { return Ok(false) };
        let Some((file, found)) = open(&aside(&self.directory, age))? else { return Ok(false) };
        if found != inode {
            // Rotated in this very moment: the next attempt sees it right.
            return Ok(false);
        }
        self.partial.clear();
        self.open = Some((file, inode));
        Ok(true)
    }
}

fn open(path: &Path) -> io::Result<Option<(BufReader<File>, u64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let inode = file.metadata()?.ino();
    Ok(Some((BufReader::new(file), inode)))
}

fn count_lines(file: &mut impl BufRead) -> io::Result<u64> {
    let mut count = 0;
    while file.skip_until(b'\n')? > 0 {
        count += 1;
    }
    Ok(count)
}

/// Reads `<time> <stream> <tag> <text>`; what a crash left half is skipped.
fn parse(record: &[u8]) -> Option<LogLine> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let mut fields = record.splitn(4, |&b| b == b' ');
    let time: Timestamp = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stderr = match fields.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let _tag = fields.next()?;
    Some(LogLine { time, stderr, text: Bytes::copy_from_slice(fields.next()?) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::super::{LogWriter, Rotation, Splitter};
    use super::*;

    fn write(writer: &mut LogWriter, lines: std::ops::Range<u32>) {
        let mut splitter = Splitter::new("stdout");
        for n in lines {
            let mut out = Vec::new();
            splitter.push(format!("line {n}\n").as_bytes(), Timestamp::UNIX_EPOCH, &mut out);
            writer.append(&out).unwrap();
        }
    }

    async fn texts(directory: &Path, tail: Option<u32>) -> Vec<String> {
        let Some(stream) = stream(directory.to_owned(), tail, false).unwrap() else { return Vec::new() };
        stream.map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect().await
    }

    #[tokio::test]
    async fn tail_goes_back_over_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        assert!(stream(directory.path().to_owned(), None, false).unwrap().is_none());
        // Each line takes 47 bytes in the file: about ten in each, and three files.
        let rotation = Rotation { max_bytes: 500, max_files: 3 };
        write(&mut LogWriter::open(directory.path(), rotation).unwrap(), 0..25);
        assert_eq!(texts(directory.path(), Some(2)).await, ["line 23", "line 24"]);
        assert_eq!(texts(directory.path(), Some(12)).await.first().unwrap(), "line 13");
        assert_eq!(texts(directory.path(), Some(0)).await, [""; 0]);
        assert_eq!(texts(directory.path(), None).await.len(), 25);
        write(&mut LogWriter::open(directory.path(), rotation).unwrap(), 25..100);
        let kept = texts(directory.path(), None).await;
        assert_eq!(kept.last().unwrap(), "line 99");
        assert!(kept.len() < 35, "{kept:?}");
        assert_eq!(texts(directory.path(), Some(1000)).await, kept);
    }

    #[tokio::test]
    async fn a_follower_sees_every_line_across_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let rotation = Rotation { max_bytes: 500, max_files: 4 };
        let mut writer = LogWriter::open(directory.path(), rotation).unwrap();
        let mut stream = stream(directory.path().to_owned(), None, true).unwrap().unwrap();
        for n in 0..10 {
            write(&mut writer, n * 12..(n + 1) * 12);
            for expected in n * 12..(n + 1) * 12 {
                assert_eq!(stream.next().await.unwrap().text, format!("line {expected}"));
            }
        }
    }

    #[test]
    fn long_lines_are_cut_and_last_ones_ended() {
        let mut splitter = Splitter::new("stderr");
        let mut out = Vec::new();
        splitter.push(&vec![b'x'; MAX_LINE + 3], Timestamp::UNIX_EPOCH, &mut out);
        splitter.push(b"\n\ntail", Timestamp::UNIX_EPOCH, &mut out);
        splitter.finish(Timestamp::UNIX_EPOCH, &mut out);
        let lines: Vec<LogLine> = out.split_inclusive(|&b| b == b'\n').filter_map(parse).collect();
        let lengths: Vec<usize> = lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [MAX_LINE, 3, 0, 4]);
        assert!(lines.iter().all(|line| line.stderr));
    }
}
