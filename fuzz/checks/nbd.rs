//! Bytes as an NBD client's words, and as a server's: the handshake answers every option in its
//! terms and keeps nothing large; what decodes is what would be written.

use block::nbd::protocol::{
    self, Chunk, ContextRequest, Descriptor, Handshake, InfoRequest, MAX_OPTION, Next,
    REQUEST_BYTES, ReplyHead, Request, SIMPLE_REPLY_BYTES, option, reply,
};

/// Panics if a promise is broken.
pub(crate) fn check(data: &[u8]) {
    client(data);
    server(data);
}

/// Flags, options until one ends the handshake, then requests.
fn client(data: &[u8]) {
    let Some((flags, mut rest)) = data.split_first_chunk() else { return };
    let Ok(mut handshake) = Handshake::new(1 << 40, u32::from_be_bytes(*flags)) else { return };
    loop {
        let Some((head, after)) = rest.split_first_chunk() else { return };
        let Ok((number, length)) = protocol::decode_option(head) else { return };
        assert!(length <= MAX_OPTION);
        let Some((words, after)) = after.split_at_checked(length as usize) else { return };
        rest = after;
        let mut answer = Vec::new();
        let next = handshake.answer(number, words, &mut answer);
        assert!(answer.len() < 256, "an answer is small, whatever was asked");
        assert!(handshake.structured || !handshake.allocation);
        if number != option::EXPORT_NAME {
            assert_eq!(last_reply(&answer).0, number);
        }
        match next {
            Next::Option => {}
            Next::Transmission => break,
            Next::Close => return,
        }
    }
    let (requests, _) = rest.as_chunks::<REQUEST_BYTES>();
    for bytes in requests {
        let Ok(request) = Request::decode(bytes) else { return };
        assert_eq!(request.encode(), *bytes);
    }
}

/// The option and the kind of the last reply, which ends an answer.
fn last_reply(mut answer: &[u8]) -> (u32, u32) {
    loop {
        let (head, rest) = answer.split_first_chunk().expect("an answer");
        let (option, kind, length) = protocol::decode_option_reply(head).expect("a reply");
        answer = &rest[length as usize..];
        if answer.is_empty() {
            assert!(kind == reply::ACK || kind & reply::ERROR != 0);
            return (option, kind);
        }
    }
}

/// Whatever a decoder of the client makes of them.
fn server(data: &[u8]) {
    if let Ok(request) = InfoRequest::decode(data) {
        assert_eq!(request.encode(), data);
    }
    if let Ok(request) = ContextRequest::decode(data) {
        assert_eq!(request.encode(), data);
    }
    if let Ok((id, name)) = protocol::decode_context(data) {
        assert_eq!(protocol::encode_context(id, name), data);
    }
    if let Ok((id, descriptors)) = protocol::decode_block_status(data) {
        assert!(descriptors.iter().all(|Descriptor { length, .. }| *length > 0));
        assert_eq!(protocol::encode_block_status(id, &descriptors), data);
    }
    let _ = protocol::decode_info(data);
    if let Ok((_, message)) = protocol::decode_error(data) {
        // What is not UTF-8 becomes replacement characters of three bytes.
        assert!(message.len() <= 3 * data.len());
    }
    if let Some((bytes, _)) = data.split_first_chunk()
        && let Ok(flags) = protocol::decode_greeting(bytes)
    {
        assert_eq!(protocol::encode_greeting(flags), *bytes);
    }
    let Some((bytes, _)) = data.split_first_chunk::<SIMPLE_REPLY_BYTES>() else { return };
    let mut written = Vec::new();
    match protocol::decode_reply_head(bytes) {
        Ok(ReplyHead::Simple { error, cookie }) => {
            protocol::encode_simple_reply(error, cookie, &mut written);
        }
        Ok(ReplyHead::Chunk(head)) => Chunk::encode(&head, &mut written),
        Err(_) => return,
    }
    assert_eq!(written[..SIMPLE_REPLY_BYTES], *bytes);
}
