//! Lines over a Unix socket, and open files that come with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Open files of one message: the three streams of a program.
const MAX_FILES: usize = 3;
/// Bytes received at once.
const READ_SIZE: usize = 4096;

/// Sends as much as the socket takes; the files come with the first byte.
pub(super) fn send_some(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other(format!("at most {MAX_FILES} open files can be sent at once")));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives what is there, and the files that came with it.
pub(super) fn receive_some(socket: impl AsFd, buffer: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok(got.bytes)
}

/// Sends a line with files.
pub(super) async fn send(stream: &mut UnixStream, line: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = stream.async_io(Interest::WRITABLE, || send_some(&*stream, line, files)).await?;
    stream.write_all(&line[sent..]).await
}

/// Receives one line, without its end, and the files that came with it; empty where the other side has nothing to say.
pub(super) async fn receive(stream: &UnixStream, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Line::new(limit);
    loop {
        let more = stream.async_io(Interest::READABLE, || line.receive(stream)).await?;
        if !more {
            return Ok(line.whole());
        }
    }
}

/// As [`receive`]; blocks.
pub(super) fn receive_blocking(
    socket: &std::os::unix::net::UnixStream,
    limit: usize,
) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Line::new(limit);
    while line.receive(socket)? {}
    Ok(line.whole())
}

/// A line as far as it was received.
struct Line {
    limit: usize,
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Line {
    fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), files: Vec::new() }
    }

    /// Receives more; whether the end is not here yet.
    fn receive(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut buffer = [0; READ_SIZE];
        let got = receive_some(socket, &mut buffer, &mut self.files)?;
        // Nothing comes behind a line before it was answered.
        let (bytes, ends) = match buffer[..got].iter().position(|byte| *byte == b'\n') {
            Some(end) => (&buffer[..end], true),
            None => (&buffer[..got], got == 0),
        };
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.limit {
            return Err(io::Error::other(format!("a line is longer than {} bytes", self.limit)));
        }
        Ok(!ends)
    }

    fn whole(self) -> (Vec<u8>, Vec<OwnedFd>) {
        (self.bytes, self.files)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn a_line_comes_whole_and_its_files_with_it() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let line = vec![b'x'; 100_000];
        let sent = [&line[..], b"\n"].concat();
        let (bytes, mut files) = {
            let files = [writer.as_fd(), writer.as_fd()];
            let (sent, received) = tokio::join!(send(&mut ours, &sent, &files), receive(&theirs, line.len()));
            sent.unwrap();
            received.unwrap()
        };
        drop(writer);
        assert_eq!((bytes, files.len()), (line, 2));
        std::fs::File::from(files.remove(0)).write_all(b"hello").unwrap();
        drop(files);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_line_without_an_end_has_a_limit_and_a_peer_may_leave() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        send(&mut ours, b"abcdef", &[]).await.unwrap();
        receive(&theirs, 5).await.unwrap_err();
        drop(ours);
        assert!(receive(&theirs, 5).await.unwrap().0.is_empty());
    }
}
