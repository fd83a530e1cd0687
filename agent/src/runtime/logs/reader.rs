//! Reads output of an instance back, on the agent's side.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::{FILES, MAX_LINE, Selection, aside, file};
use crate::runtime::LogLine;

/// Lines read at once: bounds what one reader holds, at [`MAX_LINE`] bytes each.
pub(super) const BATCH: usize = 64;
/// Longest line of a file: text, time, stream and tag.
const MAX_RECORD: u64 = MAX_LINE as u64 + 128;
/// How often a follower looks for more.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// Streams what is wanted of the output in `directory`, where `run` is the newest of which there is a container; `None`
/// where there is nothing of it.
pub(crate) fn stream(
    directory: PathBuf,
    wanted: &Selection,
    run: Option<u32>,
) -> io::Result<Option<BoxStream<'static, LogLine>>> {
    let follow = wanted.follow;
    if let Some(name) = &wanted.file {
        return file::stream(directory.join(FILES), name.clone(), wanted.tail, follow);
    }
    if !follow && !aside(&directory, 0).exists() {
        return Ok(None);
    }
    let mut reader = if wanted.previous {
        let Some(previous) = previous(&directory, run)? else { return Ok(None) };
        let skip = wanted.tail.map_or(0, |tail| previous.lines.saturating_sub(tail.into()));
        Reader { run: Some(previous.run), skip, ..Reader::open(directory, None)? }
    } else {
        Reader::open(directory, wanted.tail)?
    };
    reader.since = wanted.since;
    Ok(Some(stream_of(reader, follow)))
}

/// What can be read a few lines at a time.
pub(super) trait Batches: Send + 'static {
    /// The next lines; none if there are no more at the moment. Blocks.
    fn batch(&mut self) -> io::Result<Vec<LogLine>>;
}

/// Streams what a reader reads, to its end or for ever.
pub(super) fn stream_of(reader: impl Batches, follow: bool) -> BoxStream<'static, LogLine> {
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
    batches.flat_map(stream::iter).boxed()
}

/// Lines of one run, which follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    /// The run; `None` where it was written before runs were told apart.
    run: Option<u32>,
    lines: u64,
}

/// What is kept of the run before `newest`, or before the last one of which anything is kept where there is none.
fn previous(directory: &Path, newest: Option<u32>) -> io::Result<Option<Stretch>> {
    let mut reader = Reader::open(directory.to_owned(), None)?;
    let (mut before, mut last): (Option<Stretch>, Option<Stretch>) = (None, None);
    loop {
        let records = reader.records()?;
        if records.is_empty() {
            break;
        }
        for Record { run, .. } in records {
            match &mut last {
                Some(stretch) if stretch.run == run => stretch.lines += 1,
                _ => before = last.replace(Stretch { run, lines: 1 }),
            }
        }
    }
    // One that has said nothing yet is not in the files.
    let is_over = newest.is_some() && last.is_some_and(|stretch| stretch.run != newest);
    Ok(if is_over { last } else { before })
}

/// A line, and the run that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    run: Option<u32>,
    line: LogLine,
}

/// A place in the files of an instance.
struct Reader {
    directory: PathBuf,
    /// The open file and its inode, by which it is found again after a rotation.
    open: Option<(BufReader<File>, u64)>,
    /// A line whose end is not there yet.
    partial: Vec<u8>,
    /// Whose lines are wanted, if not everybody's.
    run: Option<Option<u32>>,
    /// Lines of those that are passed over.
    skip: u64,
    /// Lines that are older are passed over.
    since: Option<Timestamp>,
}

impl Batches for Reader {
    fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        Ok(self.records()?.into_iter().map(|record| record.line).collect())
    }
}

impl Reader {
    fn open(directory: PathBuf, tail: Option<u32>) -> io::Result<Self> {
        let mut reader = Self { directory, open: None, partial: Vec::new(), run: None, skip: 0, since: None };
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
                    reader.pass_over(lines.saturating_sub(wanted))?;
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

    fn pass_over(&mut self, lines: u64) -> io::Result<()> {
        for _ in 0..lines {
            if let Some((file, _)) = &mut self.open {
                file.skip_until(b'\n')?;
            }
        }
        Ok(())
    }

    /// Whether a record is among those that are asked for.
    fn wants(&mut self, record: &Record) -> bool {
        if self.run.is_some_and(|run| run != record.run) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.since.is_none_or(|since| record.line.time >= since)
    }

    /// The next records; none if there are no more at the moment.
    fn records(&mut self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        while records.len() < BATCH {
            let Some((file, _)) = &mut self.open else {
                if !self.advance()? {
                    break;
                }
                continue;
            };
            let room = MAX_RECORD.saturating_sub(self.partial.len() as u64);
            let read = file.by_ref().take(room).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') || self.partial.len() as u64 >= MAX_RECORD {
                let record = parse(&self.partial);
                self.partial.clear();
                records.extend(record.filter(|record| self.wants(record)));
            } else if read == 0 && !self.advance()? {
                break;
            }
        }
        Ok(records)
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

/// Reads `<time> <stream> <tags> <text>`; what a crash left half is skipped.
fn parse(record: &[u8]) -> Option<Record> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let mut fields = record.splitn(4, |&b| b == b' ');
    let time: Timestamp = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stderr = match fields.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let tags = std::str::from_utf8(fields.next()?).ok()?;
    let run = tags.split(':').nth(1).and_then(|run| run.parse().ok());
    let line = LogLine { time, stderr, text: Bytes::copy_from_slice(fields.next()?) };
    Some(Record { run, line })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::super::{LogWriter, Rotation, Splitter};
    use super::*;
    use crate::runtime::files;

    fn write(writer: &mut LogWriter, lines: std::ops::Range<u32>) {
        write_as(1, writer, lines);
    }

    /// Writes lines of a run, each of the second that is its number.
    fn write_as(run: u32, writer: &mut LogWriter, lines: std::ops::Range<u32>) {
        let mut splitter = Splitter::new("stdout", run);
        for n in lines {
            let mut out = Vec::new();
            splitter.push(format!("line {n}\n").as_bytes(), Timestamp::from_second(n.into()).unwrap(), &mut out);
            writer.append(&out).unwrap();
        }
    }

    async fn texts(directory: &Path, tail: Option<u32>) -> Vec<String> {
        chosen(directory, &Selection { tail, ..Selection::default() }, None).await
    }

    async fn chosen(directory: &Path, wanted: &Selection, run: Option<u32>) -> Vec<String> {
        let Some(stream) = stream(directory.to_owned(), wanted, run).unwrap() else { return Vec::new() };
        stream.map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect().await
    }

    #[tokio::test]
    async fn tail_goes_back_over_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        assert!(stream(directory.path().to_owned(), &Selection::default(), None).unwrap().is_none());
        // Each line takes some 50 bytes in the file: about ten in each, and three files.
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
    async fn what_is_read_can_be_of_a_time_or_of_the_run_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let rotation = Rotation { max_bytes: 500, max_files: 5 };
        let older = "1970-01-01T00:00:00.000000000Z stdout F from before runs were told apart\n";
        fs::write(aside(path, 0), older).unwrap();
        for (run, lines) in [(3, 0..15), (4, 15..17), (6, 17..20)] {
            write_as(run, &mut LogWriter::open(path, rotation).unwrap(), lines);
        }
        let since = |second| Selection { since: Some(Timestamp::from_second(second).unwrap()), ..Selection::default() };
        assert_eq!(chosen(path, &since(18), None).await, ["line 18", "line 19"]);
        assert_eq!(chosen(path, &Selection { tail: Some(1), ..since(0) }, None).await, ["line 19"]);
        assert_eq!(chosen(path, &Selection { tail: Some(1), ..since(20) }, None).await, [""; 0]);

        let previous = Selection { previous: true, ..Selection::default() };
        for newest in [None, Some(6)] {
            assert_eq!(chosen(path, &previous, newest).await, ["line 15", "line 16"]);
        }
        let silent = Some(7);
        assert_eq!(chosen(path, &previous, silent).await, ["line 17", "line 18", "line 19"], "it has said nothing yet");
        let wanted = Selection { tail: Some(2), ..previous.clone() };
        assert_eq!(chosen(path, &wanted, silent).await, ["line 18", "line 19"]);
        let wanted = Selection { tail: Some(2), previous: true, ..since(19) };
        assert_eq!(chosen(path, &wanted, silent).await, ["line 19"]);

        let alone = tempfile::tempdir().unwrap();
        write(&mut LogWriter::open(alone.path(), rotation).unwrap(), 0..3);
        assert!(stream(alone.path().to_owned(), &previous, Some(1)).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_revision_that_keeps_fewer_files_removes_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let rotation = Rotation { max_bytes: 500, max_files: 6 };
        write(&mut LogWriter::open(directory.path(), rotation).unwrap(), 0..60);
        assert!(aside(directory.path(), 5).exists());
        drop(LogWriter::open(directory.path(), Rotation { max_files: 2, ..rotation }).unwrap());
        let left = files::names(directory.path()).unwrap();
        assert_eq!(left, ["output.log", "output.log.1"]);
    }

    #[tokio::test]
    async fn a_follower_sees_every_line_across_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let rotation = Rotation { max_bytes: 500, max_files: 4 };
        let mut writer = LogWriter::open(directory.path(), rotation).unwrap();
        let mut stream = stream(directory.path().to_owned(), &Selection { follow: true, ..Selection::default() }, None)
            .unwrap()
            .unwrap();
        for n in 0..10 {
            write(&mut writer, n * 12..(n + 1) * 12);
            for expected in n * 12..(n + 1) * 12 {
                assert_eq!(stream.next().await.unwrap().text, format!("line {expected}"));
            }
        }
    }

    #[test]
    fn long_lines_are_cut_and_last_ones_ended() {
        let mut splitter = Splitter::new("stderr", 1);
        let mut out = Vec::new();
        splitter.push(&vec![b'x'; MAX_LINE + 3], Timestamp::UNIX_EPOCH, &mut out);
        splitter.push(b"\n\ntail", Timestamp::UNIX_EPOCH, &mut out);
        splitter.finish(Timestamp::UNIX_EPOCH, &mut out);
        let lines: Vec<_> = out.split_inclusive(|&b| b == b'\n').filter_map(parse).map(|record| record.line).collect();
        let lengths: Vec<usize> = lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [MAX_LINE, 3, 0, 4]);
        assert!(lines.iter().all(|line| line.stderr));
    }
}
