//! The bytes of both sides. See the module above for the order in which they travel.

use std::fmt;

/// What a server's greeting begins with: `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What options begin with, and the second word of the greeting: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What replies to options begin with.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What requests begin with.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What a simple reply begins with.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// What a chunk of a structured reply begins with.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The handshake flags: fixed newstyle, and no zeroes at its end.
pub const FIXED_NEWSTYLE: u16 = 1 << 0;
/// See [`FIXED_NEWSTYLE`].
pub const NO_ZEROES: u16 = 1 << 1;

/// Longest export name or message, bytes.
pub const MAX_STRING: usize = 4096;
/// Longest data of an option that is read, bytes.
pub const MAX_OPTION: u32 = 64 << 10;
/// Longest read or write, bytes; what a server must do for a client that does not ask.
pub const MAX_REQUEST: u32 = 32 << 20;
/// Most descriptors in one reply to a status request (QEMU's own limit).
pub const MAX_DESCRIPTORS: usize = (1 << 20) / 8;

/// Options of the handshake.
pub mod option {
    /// Chooses an export in the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the handshake and the connection.
    pub const ABORT: u32 = 2;
    /// Lists the exports.
    pub const LIST: u32 = 3;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Chooses an export.
    pub const GO: u32 = 7;
    /// Switches to structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Lists metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Selects metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options. Those with the highest bit are errors.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The bit that all errors have.
    pub const ERROR: u32 = 1 << 31;
    /// Unknown option.
    pub const UNSUPPORTED: u32 = ERROR | 1;
    /// Its data cannot be understood, or it comes too early.
    pub const INVALID: u32 = ERROR | 3;
    /// No such export.
    pub const UNKNOWN: u32 = ERROR | 6;
}

/// What [`reply::INFO`] tells.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Least, best and largest size of a request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// It cannot be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// It can be flushed.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// Several connections see the same.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Requests.
pub mod command {
    /// Reads.
    pub const READ: u16 = 0;
    /// Writes; data follow.
    pub const WRITE: u16 = 1;
    /// Ends the connection.
    pub const DISCONNECT: u16 = 2;
    /// Waits until what was written is durable.
    pub const FLUSH: u16 = 3;
    /// Discards.
    pub const TRIM: u16 = 4;
    /// Writes zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Asks for metadata.
    pub const BLOCK_STATUS: u16 = 7;
    /// Flag of [`BLOCK_STATUS`]: one descriptor is enough.
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies.
pub mod chunk {
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// An offset and data.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset and a length of zeros.
    pub const OFFSET_HOLE: u16 = 2;
    /// A context's descriptors.
    pub const BLOCK_STATUS: u16 = 5;
    /// The bit that all errors have.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error and a message.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// Flag: the last of its reply.
    pub const FLAG_DONE: u16 = 1 << 0;
}

/// Errors of requests; their numbers are Linux's.
pub mod errno {
    /// Not permitted: writing what is read-only.
    pub const EPERM: u32 = 1;
    /// It cannot be read.
    pub const EIO: u32 = 5;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
}

/// The context that tells what is allocated, and its flags.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// [`BASE_ALLOCATION`]: nothing is allocated there.
pub const STATE_HOLE: u32 = 1 << 0;
/// [`BASE_ALLOCATION`]: it reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;
/// QEMU's context that tells which layer of a chain holds the data: 0 none, 1 the upper one.
pub const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";

/// Bytes that are not the protocol's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Takes numbers and strings off the front of bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("it is too short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn string(&mut self, length: usize) -> Result<&'a str, Malformed> {
        if length > MAX_STRING {
            return Err(Malformed("a string is too long"));
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))
    }

    /// A string after its length.
    fn counted_string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        self.string(length)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("it is too long")) }
    }
}

fn expect<T: PartialEq>(is: T, wanted: T) -> Result<(), Malformed> {
    if is == wanted { Ok(()) } else { Err(Malformed("it begins with the wrong magic number")) }
}

/// The server's first words.
pub fn encode_greeting(flags: u16) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&flags.to_be_bytes());
    bytes
}

/// The flags of a server's greeting.
///
/// # Errors
/// It is none, or an oldstyle one.
pub fn decode_greeting(bytes: &[u8; 18]) -> Result<u16, Malformed> {
    let mut cursor = Cursor(bytes);
    expect(cursor.u64()?, GREETING_MAGIC)?;
    expect(cursor.u64()?, OPTION_MAGIC)?;
    cursor.u16()
}

/// An option with its data.
pub fn encode_option(option: u32, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// The option and the length of its data.
///
/// # Errors
/// It is none, or longer than [`MAX_OPTION`].
pub fn decode_option(bytes: &[u8; 16]) -> Result<(u32, u32), Malformed> {
    let mut cursor = Cursor(bytes);
    expect(cursor.u64()?, OPTION_MAGIC)?;
    let (option, length) = (cursor.u32()?, cursor.u32()?);
    if length > MAX_OPTION {
        return Err(Malformed("an option is too long"));
    }
    Ok((option, length))
}

/// A reply to an option.
pub fn encode_option_reply(option: u32, reply: u32, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// The option that is replied to, the kind of the reply and the length of its data.
///
/// # Errors
/// It is none, or longer than [`MAX_OPTION`].
pub fn decode_option_reply(bytes: &[u8; 20]) -> Result<(u32, u32, u32), Malformed> {
    let mut cursor = Cursor(bytes);
    expect(cursor.u64()?, OPTION_REPLY_MAGIC)?;
    let (option, reply, length) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    if length > MAX_OPTION {
        return Err(Malformed("a reply to an option is too long"));
    }
    Ok((option, reply, length))
}

/// The data of [`option::INFO`] and [`option::GO`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export's name.
    pub name: &'a str,
    /// What is asked for, of [`info`].
    pub wanted: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(self.name, &mut out);
        out.extend_from_slice(&(self.wanted.len() as u16).to_be_bytes());
        for wanted in &self.wanted {
            out.extend_from_slice(&wanted.to_be_bytes());
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// Its lengths do not fit, or its name is no string.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(data);
        let name = cursor.counted_string()?;
        let count = usize::from(cursor.u16()?);
        if cursor.0.len() != count * 2 {
            return Err(Malformed("it does not ask for as many things as it says"));
        }
        let (wanted, _) = cursor.0.as_chunks();
        Ok(InfoRequest {
            name,
            wanted: wanted.iter().map(|two| u16::from_be_bytes(*two)).collect(),
        })
    }
}

/// The data of [`option::LIST_META_CONTEXT`] and [`option::SET_META_CONTEXT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextRequest<'a> {
    /// The export's name.
    pub name: &'a str,
    /// Names of contexts.
    pub queries: Vec<&'a str>,
}

impl<'a> ContextRequest<'a> {
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(self.name, &mut out);
        out.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            put_string(query, &mut out);
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// Its lengths do not fit, or a name is no string.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(data);
        let name = cursor.counted_string()?;
        let count = cursor.u32()? as usize;
        // Each has a length of four bytes.
        if count > cursor.0.len() / 4 {
            return Err(Malformed("it does not ask for as many contexts as it says"));
        }
        let queries = (0..count).map(|_| cursor.counted_string()).collect::<Result<_, _>>()?;
        cursor.end()?;
        Ok(ContextRequest { name, queries })
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// [`info::EXPORT`]: size in bytes and flags of [`transmission`].
pub fn encode_export_info(size: u64, flags: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
    bytes[2..10].copy_from_slice(&size.to_be_bytes());
    bytes[10..].copy_from_slice(&flags.to_be_bytes());
    bytes
}

/// [`info::BLOCK_SIZE`]: least, best and largest size of a request, bytes.
pub fn encode_block_size_info(least: u32, best: u32, largest: u32) -> [u8; 14] {
    let mut bytes = [0; 14];
    bytes[..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
    bytes[2..6].copy_from_slice(&least.to_be_bytes());
    bytes[6..10].copy_from_slice(&best.to_be_bytes());
    bytes[10..].copy_from_slice(&largest.to_be_bytes());
    bytes
}

/// What a server tells of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info {
    /// [`info::EXPORT`].
    Export {
        /// Bytes.
        size: u64,
        /// Of [`transmission`].
        flags: u16,
    },
    /// [`info::BLOCK_SIZE`], bytes.
    BlockSize {
        /// Requests are multiples of it.
        least: u32,
        /// No request is larger.
        largest: u32,
    },
    /// Something else.
    Other,
}

/// Reads the data of [`reply::INFO`].
///
/// # Errors
/// It is too short or too long.
pub fn decode_info(data: &[u8]) -> Result<Info, Malformed> {
    let mut cursor = Cursor(data);
    let info = match cursor.u16()? {
        info::EXPORT => Info::Export { size: cursor.u64()?, flags: cursor.u16()? },
        info::BLOCK_SIZE => {
            let (least, _, largest) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
            Info::BlockSize { least, largest }
        }
        _ => return Ok(Info::Other),
    };
    cursor.end()?;
    Ok(info)
}

/// Writes the data of [`reply::META_CONTEXT`].
pub fn encode_context(id: u32, name: &str) -> Vec<u8> {
    let mut data = id.to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data
}

/// Reads the data of [`reply::META_CONTEXT`]: the context's number and name.
///
/// # Errors
/// It is too short, or the name is no string.
pub fn decode_context(data: &[u8]) -> Result<(u32, &str), Malformed> {
    let mut cursor = Cursor(data);
    let id = cursor.u32()?;
    let length = cursor.0.len();
    Ok((id, cursor.string(length)?))
}

/// A request of the transmission phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of [`command`].
    pub flags: u16,
    /// Of [`command`].
    pub command: u16,
    /// What its replies carry.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// Size of a request, bytes.
pub const REQUEST_BYTES: usize = 28;

impl Request {
    /// Writes it.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// The magic number is wrong.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        expect(cursor.u32()?, REQUEST_MAGIC)?;
        Ok(Request {
            flags: cursor.u16()?,
            command: cursor.u16()?,
            cookie: cursor.u64()?,
            offset: cursor.u64()?,
            length: cursor.u32()?,
        })
    }
}

/// The head of a reply, by its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHead {
    /// A whole reply without data.
    Simple {
        /// 0, or of [`errno`].
        error: u32,
        /// The request's.
        cookie: u64,
    },
    /// A chunk; its payload follows.
    Chunk(Chunk),
}

/// The head of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of [`chunk`].
    pub flags: u16,
    /// Of [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes of its payload.
    pub length: u32,
}

/// Size of a simple reply, bytes.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Size of a chunk's head, bytes: four more than a simple reply.
pub const CHUNK_BYTES: usize = 20;

/// Writes a simple reply's head; data follow when it replies to a read.
pub fn encode_simple_reply(error: u32, cookie: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

impl Chunk {
    /// Writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&CHUNK_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }
}

/// Reads the first [`SIMPLE_REPLY_BYTES`] of a reply; `rest` reads the four more that a chunk has.
///
/// # Errors
/// The magic number is none of a reply's.
pub fn decode_reply_head(bytes: &[u8; SIMPLE_REPLY_BYTES]) -> Result<ReplyHead, Malformed> {
    let mut cursor = Cursor(bytes);
    match cursor.u32()? {
        SIMPLE_REPLY_MAGIC => Ok(ReplyHead::Simple { error: cursor.u32()?, cookie: cursor.u64()? }),
        CHUNK_MAGIC => Ok(ReplyHead::Chunk(Chunk {
            flags: cursor.u16()?,
            kind: cursor.u16()?,
            cookie: cursor.u64()?,
            length: 0,
        })),
        _ => Err(Malformed("a reply begins with the wrong magic number")),
    }
}

/// Writes the payload of [`chunk::ERROR`].
pub fn encode_error(error: u32, message: &str) -> Vec<u8> {
    let mut length = message.len().min(MAX_STRING);
    while !message.is_char_boundary(length) {
        length -= 1;
    }
    let mut data = error.to_be_bytes().to_vec();
    data.extend_from_slice(&(length as u16).to_be_bytes());
    data.extend_from_slice(&message.as_bytes()[..length]);
    data
}

/// Reads the payload of any error chunk: the error and its message.
///
/// # Errors
/// It is too short.
pub fn decode_error(data: &[u8]) -> Result<(u32, String), Malformed> {
    let mut cursor = Cursor(data);
    let error = cursor.u32()?;
    let length = usize::from(cursor.u16()?);
    Ok((error, String::from_utf8_lossy(cursor.take(length)?).into_owned()))
}

/// Some bytes that are alike in one metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes.
    pub length: u32,
    /// What they are; the context says what this means.
    pub flags: u32,
}

/// Writes the payload of [`chunk::BLOCK_STATUS`].
pub fn encode_block_status(context: u32, descriptors: &[Descriptor]) -> Vec<u8> {
    let mut data = Vec::with_capacity(4 + descriptors.len() * 8);
    data.extend_from_slice(&context.to_be_bytes());
    for descriptor in descriptors {
        data.extend_from_slice(&descriptor.length.to_be_bytes());
        data.extend_from_slice(&descriptor.flags.to_be_bytes());
    }
    data
}

/// Reads the payload of [`chunk::BLOCK_STATUS`]: the context's number and what it says of the bytes
/// from the request's offset on.
///
/// # Errors
/// It has no whole number of descriptors, or none, or one of no bytes.
pub fn decode_block_status(data: &[u8]) -> Result<(u32, Vec<Descriptor>), Malformed> {
    let mut cursor = Cursor(data);
    let context = cursor.u32()?;
    let (pairs, rest) = cursor.0.as_chunks::<8>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(Malformed("a block status has no whole number of descriptors"));
    }
    let mut descriptors = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let mut cursor = Cursor(pair);
        let descriptor = Descriptor { length: cursor.u32()?, flags: cursor.u32()? };
        if descriptor.length == 0 {
            return Err(Malformed("a block status has a descriptor of no bytes"));
        }
        descriptors.push(descriptor);
    }
    Ok((context, descriptors))
}

/// The server's side of the handshake after the client's flags, for one read-only export whose name
/// is empty. It does no input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Bytes of the export.
    pub size: u64,
    /// The client wants no zeroes after [`option::EXPORT_NAME`].
    pub no_zeroes: bool,
    /// Structured replies were negotiated.
    pub structured: bool,
    /// [`BASE_ALLOCATION`] was selected.
    pub allocation: bool,
}

/// What follows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another option.
    Option,
    /// Requests.
    Transmission,
    /// The end of the connection.
    Close,
}

/// The number that [`BASE_ALLOCATION`] gets.
pub const ALLOCATION_ID: u32 = 1;

impl Handshake {
    /// Begins it with the client's flags.
    ///
    /// # Errors
    /// The client sets flags that the greeting did not offer.
    pub fn new(size: u64, client_flags: u32) -> Result<Self, Malformed> {
        if client_flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(Malformed("the client's flags are unknown"));
        }
        let no_zeroes = client_flags & u32::from(NO_ZEROES) != 0;
        Ok(Handshake { size, no_zeroes, structured: false, allocation: false })
    }

    /// What the export can do.
    pub fn flags() -> u16 {
        transmission::HAS_FLAGS
            | transmission::READ_ONLY
            | transmission::SEND_FLUSH
            | transmission::CAN_MULTI_CONN
    }

    /// Answers one option.
    pub fn answer(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let refuse = |reply: u32, message: &str, out: &mut Vec<u8>| {
            encode_option_reply(option, reply, message.as_bytes(), out);
            Next::Option
        };
        let acknowledge = |out: &mut Vec<u8>| encode_option_reply(option, reply::ACK, &[], out);
        match option {
            // It has no way to say no.
            option::EXPORT_NAME if !data.is_empty() => return Next::Close,
            option::EXPORT_NAME => {
                out.extend_from_slice(&self.size.to_be_bytes());
                out.extend_from_slice(&Self::flags().to_be_bytes());
                if !self.no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
                return Next::Transmission;
            }
            option::ABORT => {
                acknowledge(out);
                return Next::Close;
            }
            option::LIST | option::STRUCTURED_REPLY if !data.is_empty() => {
                return refuse(reply::INVALID, "it has no data", out);
            }
            option::LIST => {
                encode_option_reply(option, reply::SERVER, &0_u32.to_be_bytes(), out);
            }
            option::STRUCTURED_REPLY => self.structured = true,
            option::INFO | option::GO => {
                let wanted = match InfoRequest::decode(data) {
                    Ok(InfoRequest { name: "", wanted }) => wanted,
                    Ok(_) => return refuse(reply::UNKNOWN, "there is no such export", out),
                    Err(error) => return refuse(reply::INVALID, error.0, out),
                };
                let export = encode_export_info(self.size, Self::flags());
                encode_option_reply(option, reply::INFO, &export, out);
                if wanted.contains(&info::BLOCK_SIZE) {
                    let best = base::volume::BLOCK_BYTES as u32;
                    let sizes = encode_block_size_info(1, best, MAX_REQUEST);
                    encode_option_reply(option, reply::INFO, &sizes, out);
                }
                acknowledge(out);
                let go = option == option::GO;
                return if go { Next::Transmission } else { Next::Option };
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                let set = option == option::SET_META_CONTEXT;
                if set {
                    self.allocation = false;
                }
                if !self.structured {
                    return refuse(reply::INVALID, "structured replies come first", out);
                }
                let queries = match ContextRequest::decode(data) {
                    Ok(ContextRequest { name: "", queries }) => queries,
                    Ok(_) => return refuse(reply::UNKNOWN, "there is no such export", out),
                    Err(error) => return refuse(reply::INVALID, error.0, out),
                };
                let named = queries.contains(&BASE_ALLOCATION);
                let listed = !set && (queries.is_empty() || queries.contains(&"base:"));
                if named || listed {
                    let id = if set { ALLOCATION_ID } else { 0 };
                    let context = encode_context(id, BASE_ALLOCATION);
                    encode_option_reply(option, reply::META_CONTEXT, &context, out);
                }
                self.allocation |= set && named;
            }
            _ => return refuse(reply::UNSUPPORTED, "the option is not supported", out),
        }
        acknowledge(out);
        Next::Option
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
