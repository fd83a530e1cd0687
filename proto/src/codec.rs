//! A prost codec with small buffers.
//!
//! tonic gives every stream two buffers of 8 KiB. An agent's stream is idle almost always, and a server holds ten
//! thousand of them: buffers that start at 256 bytes save a fifth of the memory of a connected agent.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a buffer starts with: an acknowledgement or a progress report fits.
const INITIAL_BUFFER: usize = 256;
/// Bytes gathered before they are handed to HTTP/2.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// The codec of every `longshore.v1` service.
#[derive(Clone, Debug)]
pub struct SmallCodec<Encode, Decode>(PhantomData<(Encode, Decode)>);

impl<Encode, Decode> Default for SmallCodec<Encode, Decode> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Encode, Decode> Codec for SmallCodec<Encode, Decode>
where
    Encode: Message + Send + 'static,
    Decode: Message + Default + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = ProstEncoder<Encode>;
    type Decoder = ProstDecoder<Decode>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Encode, Decode>::raw_encoder(BufferSettings::new(INITIAL_BUFFER, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Encode, Decode>::raw_decoder(BufferSettings::new(INITIAL_BUFFER, YIELD_THRESHOLD))
    }
}
