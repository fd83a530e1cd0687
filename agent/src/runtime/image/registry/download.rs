//! One layer on its way into a file: broken off and gone on with, but never begun anew without need.

use std::fs::File;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;

use super::failure::{Failure, Tries};
use super::remote::{Remote, deepest};
use crate::runtime::image::digest::Digest;
use crate::runtime::image::error::ImageError;
use crate::runtime::image::flight::Progress;
use crate::runtime::image::manifest;

/// Connections that may fall silent within the time that a layer may go without a byte: a new one often gets through where
/// an old one does not.
const CONNECTIONS: u32 = 3;

/// A layer on its way. What has come stays through tries and from one registry to the next.
pub(super) struct Download<'a> {
    digest: &'a Digest,
    size: u64,
    progress: &'a Progress,
    file: tokio::fs::File,
    /// Bytes that are in the file, and their digest so far.
    have: u64,
    hasher: Sha256,
    /// When the last byte came, or when it was begun.
    last_byte: Instant,
    /// Whether it was gone on with after a break.
    is_resumed: bool,
}

impl<'a> Download<'a> {
    /// Nothing has come yet; `file` is empty.
    pub(super) fn new(digest: &'a Digest, size: u64, file: File, progress: &'a Progress) -> Self {
        Self {
            digest,
            size,
            progress,
            file: tokio::fs::File::from_std(file),
            have: 0,
            hasher: Sha256::new(),
            last_byte: Instant::now(),
            is_resumed: false,
        }
    }

    /// The file, from its beginning.
    pub(super) async fn into_file(mut self) -> Result<File, ImageError> {
        let write = |error| ImageError::io("write a layer", error);
        self.file.flush().await.map_err(write)?;
        self.file.rewind().await.map_err(write)?;
        Ok(self.file.into_std().await)
    }

    async fn restart(&mut self) -> Result<(), ImageError> {
        let write = |error| ImageError::io("write a layer", error);
        self.file.flush().await.map_err(write)?;
        self.file.set_len(0).await.map_err(write)?;
        self.file.rewind().await.map_err(write)?;
        self.progress.take_back(self.have);
        self.have = 0;
        self.hasher.reset();
        self.is_resumed = false;
        Ok(())
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        manifest::check_size("a layer", self.have + bytes.len() as u64, self.size)?;
        self.file.write_all(bytes).await.map_err(|error| ImageError::io("write a layer", error))?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        self.progress.add(bytes.len() as u64);
        self.last_byte = Instant::now();
        Ok(())
    }
}

impl Remote {
    /// Fetches what is missing of a layer.
    ///
    /// It is given up when there has been no byte for the time that it may go without one; so a slow one is not, however
    /// often it breaks off. A mirror, after which others are tried, is given up at its first failure.
    pub(super) async fn layer(&self, download: &mut Download<'_>) -> Result<(), ImageError> {
        download.last_byte = Instant::now();
        let mut tries = Tries::new(if self.tries == 1 { 1 } else { u32::MAX });
        loop {
            let before = download.have;
            let Err(mut failure) = self.go_on(download).await else { return Ok(()) };
            if download.have > before {
                tries.progressed();
            }
            failure.is_passing &= download.last_byte.elapsed() < self.stall_timeout;
            tries.wait_after(failure).await?;
        }
    }

    async fn go_on(&self, download: &mut Download<'_>) -> Result<(), Failure> {
        let mut response = self.unless_silent(self.blob(download.digest, download.have)).await??;
        match starts_at(&response) {
            Some(start) if start == download.have => download.is_resumed |= start > 0,
            // It knows no parts.
            Some(0) => download.restart().await?,
            _ => return Err(self.unreachable("sends another part of a layer than was asked for").into()),
        }
        while let Some(bytes) = self.unless_silent(response.chunk()).await?.map_err(|error| self.broken_off(&error))? {
            download.take(&bytes).await?;
            // What is not read fills the connection, and so slows the registry down.
            self.bandwidth.spend(bytes.len() as u64).await;
        }
        if download.have < download.size {
            return Err(Failure::passing(self.unreachable("broke off before the end of a layer")));
        }
        let found = Digest::from_hasher(download.hasher.clone());
        if found == *download.digest {
            return Ok(());
        }
        let was_resumed = download.is_resumed;
        download.restart().await?;
        let error = ImageError::Invalid(format!("the registry {} sent damaged content for {}", self.name, self.image));
        // Pieces that do not belong together may each be good.
        Err(Failure { error, is_passing: was_resumed })
    }

    async fn unless_silent<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let patience = self.stall_timeout / CONNECTIONS;
        tokio::time::timeout(patience, work).await.map_err(|_| Failure::passing(self.stalled()))
    }

    fn broken_off(&self, error: &reqwest::Error) -> Failure {
        Failure::passing(self.unreachable(&format!("broke off: {}", deepest(error))))
    }

    fn stalled(&self) -> ImageError {
        let Self { name, stall_timeout, .. } = self;
        ImageError::Stalled(format!(
            "the registry {name} sent nothing of a layer for {}, and does not refuse it either",
            longshore_model::quantity::duration::format(*stall_timeout)
        ))
    }
}

/// The byte that a response starts with; `None` if it does not say.
fn starts_at(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
