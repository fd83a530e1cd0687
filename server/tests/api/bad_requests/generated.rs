//! Requests made from the descriptors alone: for each field of each request, values that its type allows and its meaning
//! does not, and bytes that its type does not allow.

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{Answers, OF_AGENTS};
use crate::harness::{As, World, soon};

/// How far messages within messages are gone into: a spec's ports are that deep.
const DEPTH: usize = 6;

/// Sends and receives bytes as they are.
#[derive(Clone, Copy)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(into, &item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; bytes::Buf::remaining(from)];
        bytes::Buf::copy_to_slice(from, &mut item);
        Ok(Some(item))
    }
}

fn varint(number: u64, into: &mut Vec<u8>) {
    prost::encoding::encode_varint(number, into);
}

/// A field with a number as its value.
fn number(field: i32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(u64::from(field.unsigned_abs()) << 3, &mut bytes);
    varint(value, &mut bytes);
    bytes
}

/// A field with bytes as its value.
fn delimited(field: i32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint((u64::from(field.unsigned_abs()) << 3) | 2, &mut bytes);
    varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

/// What the field can hold and should not, each as the bytes of a whole message.
fn spoilt(set: &FileDescriptorSet, field: &FieldDescriptorProto, depth: usize) -> Vec<Vec<u8>> {
    let at = field.number();
    match field.r#type() {
        Type::Message => {
            let inner = message(set, field.type_name());
            let inner = inner.map(|inner| requests(set, inner, depth - 1)).unwrap_or_default();
            inner.iter().map(|inner| delimited(at, inner)).chain([number(at, 1)]).collect()
        }
        Type::String | Type::Bytes => {
            vec![delimited(at, "\0\u{202e}".as_bytes()), delimited(at, &[0xff, 0xfe]), number(at, 1)]
        }
        Type::Bool => vec![delimited(at, &[1, 2, 3])],
        // Numbers in a row, of which the last does not end.
        _ if field.label() == Label::Repeated => vec![delimited(at, &[0xff; 11])],
        _ => vec![number(at, u64::MAX), number(at, 99), delimited(at, &[1, 2, 3])],
    }
}

fn message<'a>(set: &'a FileDescriptorSet, name: &str) -> Option<&'a DescriptorProto> {
    let messages = set.file.iter().flat_map(|file| {
        file.message_type.iter().map(move |message| (format!(".{}.{}", file.package(), message.name()), message))
    });
    messages.into_iter().find(|(known, _)| known == name).map(|(_, message)| message)
}

fn requests(set: &FileDescriptorSet, message: &DescriptorProto, depth: usize) -> Vec<Vec<u8>> {
    if depth == 0 {
        return Vec::new();
    }
    message.field.iter().flat_map(|field| spoilt(set, field, depth)).collect()
}

/// Sends all of them; what is no mistake after all may do what it says.
pub(super) async fn send(world: &World, answers: &mut Answers) {
    let set = FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap();
    let channel = world.channel();
    for service in set.file.iter().flat_map(|file| &file.service) {
        if OF_AGENTS.contains(&service.name()) {
            continue;
        }
        for method in &service.method {
            let path = format!("/longshore.v1.{}/{}", service.name(), method.name());
            let path = http::uri::PathAndQuery::try_from(path).unwrap();
            let mut bodies = requests(&set, message(&set, method.input_type()).unwrap(), DEPTH);
            bodies.push(vec![0xff; 20]);
            for body in bodies {
                let mut raw = tonic::client::Grpc::new(channel.clone());
                soon(raw.ready()).await.unwrap();
                let mut request =
                    As("user/admin/bob".to_owned()).call(Request::new(())).unwrap().map(|()| body.clone());
                // A watch or a wait that begins after all is not followed to its end.
                request.set_timeout(std::time::Duration::from_secs(5));
                let sent = format!("{body:02x?}");
                if method.server_streaming() {
                    let result = soon(raw.server_streaming(request, path.clone(), AsIs)).await;
                    answers.of_stream(method.name(), &sent, result).await;
                } else {
                    let result = soon(raw.unary(request, path.clone(), AsIs)).await;
                    answers.of(method.name(), &sent, result);
                }
            }
        }
    }
}
