use super::*;
use proptest::prelude::*;

/// The replies of a handshake: what they reply to, their kind and data.
fn replies(mut bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let (option, kind, length) = decode_option_reply(head).unwrap();
        let (data, rest) = rest.split_at(length as usize);
        replies.push((option, kind, data.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    replies
}

fn answer(handshake: &mut Handshake, option: u32, data: &[u8]) -> (Next, Vec<(u32, Vec<u8>)>) {
    let mut out = Vec::new();
    let next = handshake.answer(option, data, &mut out);
    let replies = replies(&out).into_iter().map(|(of, kind, data)| {
        assert_eq!(of, option);
        (kind, data)
    });
    (next, replies.collect())
}

fn kinds(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(kind, _)| *kind).collect()
}

#[test]
fn a_client_finds_the_export_and_goes() {
    let mut handshake = Handshake::new(1 << 30, 3).unwrap();
    let (next, list) = answer(&mut handshake, option::LIST, &[]);
    assert_eq!((next, kinds(&list)), (Next::Option, vec![reply::SERVER, reply::ACK]));
    let request = InfoRequest { name: "", wanted: vec![info::BLOCK_SIZE, 77] }.encode();
    for (option, then) in [(option::INFO, Next::Option), (option::GO, Next::Transmission)] {
        let (next, told) = answer(&mut handshake, option, &request);
        assert_eq!((next, kinds(&told)), (then, vec![reply::INFO, reply::INFO, reply::ACK]));
        let flags = Handshake::flags();
        assert_eq!(decode_info(&told[0].1), Ok(Info::Export { size: 1 << 30, flags }));
        let sizes = Info::BlockSize { least: 1, largest: MAX_REQUEST };
        assert_eq!(decode_info(&told[1].1), Ok(sizes));
    }
    let other = InfoRequest { name: "other", wanted: vec![] }.encode();
    let (next, told) = answer(&mut handshake, option::GO, &other);
    assert_eq!((next, kinds(&told)), (Next::Option, vec![reply::UNKNOWN]));
    assert_eq!(answer(&mut handshake, option::ABORT, &[]).0, Next::Close);
    assert_eq!(answer(&mut handshake, 5, &[]).1[0].0, reply::UNSUPPORTED, "STARTTLS");
}

#[test]
fn contexts_are_selected_after_structured_replies_and_anew_each_time() {
    let mut handshake = Handshake::new(1, 1).unwrap();
    let ask =
        |queries: &[&'static str]| ContextRequest { name: "", queries: queries.to_vec() }.encode();
    let both = ask(&["x:y", BASE_ALLOCATION]);
    let (_, early) = answer(&mut handshake, option::SET_META_CONTEXT, &both);
    assert_eq!(kinds(&early), [reply::INVALID]);
    answer(&mut handshake, option::STRUCTURED_REPLY, &[]);
    let (_, set) = answer(&mut handshake, option::SET_META_CONTEXT, &both);
    assert_eq!(kinds(&set), [reply::META_CONTEXT, reply::ACK]);
    assert_eq!(decode_context(&set[0].1), Ok((ALLOCATION_ID, BASE_ALLOCATION)));
    assert!(handshake.allocation && handshake.structured);
    for query in [&[][..], &["base:"], &[BASE_ALLOCATION]] {
        let (_, list) = answer(&mut handshake, option::LIST_META_CONTEXT, &ask(query));
        assert_eq!(kinds(&list), [reply::META_CONTEXT, reply::ACK], "{query:?}");
    }
    assert!(handshake.allocation, "listing selects nothing and drops nothing");
    let (_, none) = answer(&mut handshake, option::SET_META_CONTEXT, &ask(&["base:"]));
    assert_eq!(kinds(&none), [reply::ACK]);
    assert!(!handshake.allocation);
}

#[test]
fn the_old_way_to_go_has_zeroes_unless_they_are_not_wanted() {
    for (flags, length) in [(0, 134), (1, 134), (3, 10)] {
        let mut out = Vec::new();
        let mut handshake = Handshake::new(7, flags).unwrap();
        assert_eq!(handshake.answer(option::EXPORT_NAME, b"", &mut out), Next::Transmission);
        assert_eq!(out.len(), length);
        assert_eq!(out[..8], 7_u64.to_be_bytes());
        assert_eq!(handshake.answer(option::EXPORT_NAME, b"x", &mut out), Next::Close);
    }
    assert!(Handshake::new(7, 4).is_err());
}

#[test]
fn long_messages_are_cut_between_characters() {
    let text = "é".repeat(MAX_STRING);
    let (code, message) = decode_error(&encode_error(5, &text)).unwrap();
    assert_eq!((code, message.len()), (5, MAX_STRING));
    let (_, odd) = decode_error(&encode_error(5, &format!("a{text}"))).unwrap();
    assert_eq!(odd.len(), MAX_STRING - 1);
}

fn name() -> impl Strategy<Value = String> {
    "[a-zé:]{0,12}"
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = InfoRequest::decode(&data);
        let _ = ContextRequest::decode(&data);
        let _ = decode_info(&data);
        let _ = decode_context(&data);
        let _ = decode_error(&data);
        if let Ok((_, descriptors)) = decode_block_status(&data) {
            prop_assert!(descriptors.len() * 8 < data.len());
        }
        if let Some((head, _)) = data.split_first_chunk() {
            let _ = decode_option(head);
        }
        if let Some((head, _)) = data.split_first_chunk() {
            let _ = decode_option_reply(head);
        }
        if let Some((head, _)) = data.split_first_chunk() {
            let _ = decode_greeting(head);
        }
        if let Some((head, _)) = data.split_first_chunk() {
            let _ = decode_reply_head(head);
        }
        if let Some((head, _)) = data.split_first_chunk() {
            let _ = Request::decode(head);
        }
    }

    #[test]
    fn no_options_make_the_handshake_panic_or_answer_much(
        flags in 0_u32..4,
        options in proptest::collection::vec(
            (0_u32..14, proptest::collection::vec(0_u8..40, 0..40)), 0..8),
    ) {
        let mut handshake = Handshake::new(1 << 40, flags).unwrap();
        for (option, data) in options {
            let mut out = Vec::new();
            let next = handshake.answer(option, &data, &mut out);
            prop_assert!(out.len() < 256);
            prop_assert!(!out.is_empty() || next == Next::Close);
            prop_assert!(handshake.structured || !handshake.allocation);
            if option != option::EXPORT_NAME {
                let kinds: Vec<u32> = replies(&out).iter().map(|reply| reply.1).collect();
                let last = *kinds.last().unwrap();
                prop_assert!(last == reply::ACK || last & reply::ERROR != 0);
            }
        }
    }

    #[test]
    fn what_is_written_is_read(
        name in name(), queries in proptest::collection::vec(name(), 0..4),
        wanted in proptest::collection::vec(any::<u16>(), 0..5),
        (flags, command, cookie, offset, length) in any::<(u16, u16, u64, u64, u32)>(),
        pairs in proptest::collection::vec((1_u32.., any::<u32>()), 1..9),
    ) {
        let info = InfoRequest { name: &name, wanted };
        let bytes = info.encode();
        prop_assert_eq!(InfoRequest::decode(&bytes), Ok(info.clone()));
        let queries = queries.iter().map(String::as_str).collect();
        let contexts = ContextRequest { name: &name, queries };
        let bytes = contexts.encode();
        prop_assert_eq!(ContextRequest::decode(&bytes), Ok(contexts.clone()));
        let request = Request { flags, command, cookie, offset, length };
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        let bytes = encode_context(length, &name);
        prop_assert_eq!(decode_context(&bytes), Ok((length, &*name)));
        prop_assert_eq!(decode_error(&encode_error(length, &name)), Ok((length, name.clone())));
        let descriptors: Vec<_> =
            pairs.into_iter().map(|(length, flags)| Descriptor { length, flags }).collect();
        let status = encode_block_status(command.into(), &descriptors);
        prop_assert_eq!(decode_block_status(&status), Ok((command.into(), descriptors)));
        let mut bytes = Vec::new();
        Chunk { flags, kind: command, cookie, length }.encode(&mut bytes);
        let head = decode_reply_head(bytes.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(head, ReplyHead::Chunk(Chunk { flags, kind: command, cookie, length: 0 }));
        prop_assert_eq!(&bytes[SIMPLE_REPLY_BYTES..], &length.to_be_bytes());
        bytes.clear();
        encode_simple_reply(length, cookie, &mut bytes);
        let head = decode_reply_head(bytes.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(head, ReplyHead::Simple { error: length, cookie });
        prop_assert_eq!(decode_greeting(&encode_greeting(flags)), Ok(flags));
        bytes.clear();
        encode_option(length, name.as_bytes(), &mut bytes);
        let head = decode_option(bytes.first_chunk().unwrap());
        prop_assert_eq!(head, Ok((length, name.len() as u32)));
    }
}
