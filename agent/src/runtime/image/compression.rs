//! Layers and archives come plain, gzipped or compressed by zstd; their first bytes say how, whatever their media type.

use std::io::{self, BufReader, Read};

/// How content is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

/// Bytes read at a time from what is packed.
const CHUNK: usize = 128 * 1024;
/// Bytes that tell the packing.
const MAGIC: usize = 4;

/// Reads the first bytes and returns the packing with a reader that starts from the beginning again.
pub(crate) fn detect<R: Read>(mut content: R) -> io::Result<(Packing, impl Read + use<R>)> {
    let mut magic = Vec::with_capacity(MAGIC);
    content.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
    let packing = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Packing::Zstd,
        _ => Packing::Plain,
    };
    Ok((packing, io::Cursor::new(magic).chain(content)))
}

/// A reader of the unpacked content.
pub(crate) fn unpacked<'a, R: Read + Send + 'a>(content: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let (packing, content) = detect(content)?;
    let content = BufReader::with_capacity(CHUNK, content);
    Ok(match packing {
        Packing::Plain => Box::new(content),
        // Parallel packers write several members after each other.
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(content)),
        // Its default limit of 128 MiB for the window bounds its memory.
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(content)?),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(content).unwrap();
        packer.finish().unwrap()
    }

    fn read(content: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        unpacked(content).unwrap().read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn every_packing_is_undone() {
        for content in [&b""[..], b"abc", &[0x1f], &[7; 1_000_000]] {
            assert_eq!(read(content), content);
            assert_eq!(read(&gzip(content)), content);
            assert_eq!(read(&zstd::encode_all(content, 0).unwrap()), content);
        }
        assert_eq!(read(&[gzip(b"one "), gzip(b"two")].concat()), b"one two");
    }
}
