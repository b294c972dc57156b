//! What a shape says about itself: static descriptions that the generated model fills in and every
//! codec reads.
//!
//! One [`Type`] per shape of the AWS model, one [`Member`] per reference to a shape. They carry the
//! facts a protocol may need (wire names, locations, timestamp formats, constraints) and no
//! behaviour. They hold no documentation text and no examples.

/// A shape of the model.
#[derive(Debug)]
pub struct Type {
    /// The shape's name in the model, such as `RunInstancesRequest`.
    pub name: &'static str,
    /// What kind of value it is.
    pub kind: Kind,
    /// Enum values, range, length and pattern, if there are any.
    pub constraints: Option<&'static Constraints>,
    /// Facts that only some structures have.
    pub traits: Option<&'static StructureTraits>,
    /// A list or map whose entries stand beside each other, without an element around them.
    pub flattened: bool,
    /// Must not be printed.
    pub sensitive: bool,
}

/// The kinds of value in the model.
#[derive(Debug)]
pub enum Kind {
    /// `String`; enums too.
    String,
    /// `i32`.
    Integer,
    /// `i64`.
    Long,
    /// `bool`.
    Boolean,
    /// `f64`.
    Double,
    /// `f32`.
    Float,
    /// `Vec<u8>`.
    Blob,
    /// [`base::Timestamp`].
    Timestamp,
    /// Free-form JSON, [`crate::Document`].
    Document,
    /// A generated struct; members in the order in which they are encoded.
    Structure(&'static [Member]),
    /// `Vec` of the member.
    List(&'static Member),
    /// `BTreeMap<String, _>`: key and value.
    Map(&'static Member, &'static Member),
}

/// A reference to a shape: from a structure's member, a list, a map or an operation.
#[derive(Debug)]
pub struct Member {
    /// The name in the model, such as `ImageId`.
    pub name: &'static str,
    /// `locationName`; empty if the model gives none.
    pub location_name: &'static str,
    /// `queryName` (requests of the ec2 protocol only); empty if the model gives none.
    pub query_name: &'static str,
    /// The shape.
    pub target: &'static Type,
    /// `xmlNamespace` of this reference.
    pub namespace: Option<&'static Namespace>,
    /// Which part of the HTTP message carries it.
    pub location: Location,
    /// How a timestamp is written here.
    pub timestamp: TimestampFormat,
    /// Bits of [`flag`].
    pub flags: u16,
}

/// Bits of [`Member::flags`].
pub mod flag {
    /// The member must be present.
    pub const REQUIRED: u16 = 1;
    /// A client fills it in with a random token.
    pub const IDEMPOTENCY_TOKEN: u16 = 1 << 1;
    /// The list or map has no element around it.
    pub const FLATTENED: u16 = 1 << 2;
    /// An XML attribute of the structure's element.
    pub const XML_ATTRIBUTE: u16 = 1 << 3;
    /// A blob that is streamed.
    pub const STREAMING: u16 = 1 << 4;
    /// Must not be printed.
    pub const SENSITIVE: u16 = 1 << 5;
    /// JSON in a string (a header: base64 of JSON).
    pub const JSON_VALUE: u16 = 1 << 6;
    /// The payload of an event of an event stream.
    pub const EVENT_PAYLOAD: u16 = 1 << 7;
    /// Part of the host name.
    pub const HOST_LABEL: u16 = 1 << 8;
}

/// Which part of an HTTP message carries a member. All but `Body` occur in the REST protocols only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// The body, as part of the document or as the whole payload.
    Body,
    /// One header.
    Header,
    /// All headers with a prefix, as a map.
    Headers,
    /// One query parameter, or all of them for a map.
    QueryString,
    /// A label of the path.
    Uri,
    /// The status of the response.
    StatusCode,
}

/// How a timestamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampFormat {
    /// As the protocol and the location say.
    Default,
    /// `2026-11-21T10:00:23Z`
    Iso8601,
    /// `Sat, 21 Nov 2026 10:00:23 GMT`
    Rfc822,
    /// Seconds since 1970, possibly with a fraction.
    UnixTimestamp,
}

/// An XML namespace.
#[derive(Debug)]
pub struct Namespace {
    /// The URI.
    pub uri: &'static str,
    /// The prefix; empty for the default namespace.
    pub prefix: &'static str,
}

/// What the model demands of a value beyond its type.
#[derive(Debug)]
pub struct Constraints {
    /// The values of an enum; empty if it is none, or is not to be checked.
    pub values: &'static [&'static str],
    /// Smallest value of a number, smallest length of anything else.
    pub min: Option<f64>,
    /// Largest value of a number, largest length of anything else.
    pub max: Option<f64>,
    /// A regular expression, as the model writes it; empty if there is none.
    pub pattern: &'static str,
}

/// Facts that only some structures have.
#[derive(Debug)]
pub struct StructureTraits {
    /// The member that is the whole body (REST); empty if there is none.
    pub payload: &'static str,
    /// The element's name where the reference gives none.
    pub location_name: &'static str,
    /// `xmlNamespace` of the shape.
    pub namespace: Option<&'static Namespace>,
    /// Exactly one member is set.
    pub union: bool,
    /// The members are events.
    pub event_stream: bool,
    /// The code and status of a modelled exception.
    pub error: Option<ErrorTraits>,
}

/// A modelled exception.
#[derive(Clone, Copy, Debug)]
pub struct ErrorTraits {
    /// The code on the wire, where it differs from the shape's name.
    pub code: &'static str,
    /// HTTP status, 0 if the model gives none.
    pub status: u16,
    /// Whether the client is to blame.
    pub sender: bool,
}

/// An operation.
#[derive(Debug)]
pub struct OperationModel {
    /// Such as `RunInstances`.
    pub name: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// Path template and fixed query, such as `/{Bucket}?acl`.
    pub uri: &'static str,
    /// Status of a successful response.
    pub status: u16,
    /// The input, `None` if there is none.
    pub input: Option<&'static Member>,
    /// The output, `None` if there is none.
    pub output: Option<&'static Member>,
    /// The element around the result (query).
    pub result_wrapper: &'static str,
    /// How its answer is divided into pages.
    pub paginator: Option<&'static Paginator>,
    /// The member of the input that makes a retry safe; empty if there is none.
    pub idempotency_token: &'static str,
    /// Whether the input has a `DryRun` member.
    pub has_dry_run: bool,
    /// The modelled exceptions.
    pub errors: &'static [&'static Type],
}

/// How an answer is divided into pages. Names are member names; a path is written `A.B`.
#[derive(Debug)]
pub struct Paginator {
    /// Members of the input that carry the position.
    pub input_token: &'static [&'static str],
    /// Members of the output that carry the next position.
    pub output_token: &'static [&'static str],
    /// The member of the input with the size of a page; empty if there is none.
    pub limit_key: &'static str,
    /// The members of the output that are divided.
    pub result_key: &'static [&'static str],
}

/// The protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `ec2`: form in, XML out.
    Ec2,
    /// `query`: form in, XML out, with a result wrapper.
    Query,
    /// JSON, the operation in `X-Amz-Target`.
    Json10,
    /// As `Json10`, with another content type.
    Json11,
    /// JSON over paths and methods.
    RestJson,
    /// XML over paths and methods.
    RestXml,
    /// CBOR.
    RpcV2Cbor,
}

/// A service.
#[derive(Debug)]
pub struct ServiceModel {
    /// The name of its module in `model`, such as `ec2`.
    pub name: &'static str,
    /// `serviceId`, such as `EC2` or `Auto Scaling`.
    pub service_id: &'static str,
    /// Every protocol that it speaks, the preferred one first.
    pub protocols: &'static [Protocol],
    /// Such as `2016-11-15`.
    pub api_version: &'static str,
    /// Namespace of XML answers; empty if there is none.
    pub xml_namespace: &'static str,
    /// The service in a credential scope, such as `ec2`.
    pub signing_name: &'static str,
    /// The first label of its host name.
    pub endpoint_prefix: &'static str,
    /// What stands before the operation in `X-Amz-Target`; empty if there is none.
    pub target_prefix: &'static str,
    /// Every operation, sorted by name.
    pub operations: &'static [&'static OperationModel],
}

impl Type {
    /// A value without members.
    pub const fn simple(name: &'static str, kind: Kind) -> Self {
        Type { name, kind, constraints: None, traits: None, flattened: false, sensitive: false }
    }

    /// A structure.
    pub const fn structure(name: &'static str, members: &'static [Member]) -> Self {
        Type::simple(name, Kind::Structure(members))
    }

    /// A list.
    pub const fn list(name: &'static str, item: &'static Member) -> Self {
        Type::simple(name, Kind::List(item))
    }

    /// A map.
    pub const fn map(name: &'static str, key: &'static Member, value: &'static Member) -> Self {
        Type::simple(name, Kind::Map(key, value))
    }

    /// Sets the constraints.
    pub const fn limited(mut self, constraints: &'static Constraints) -> Self {
        self.constraints = Some(constraints);
        self
    }

    /// Sets the structure traits.
    pub const fn with(mut self, traits: &'static StructureTraits) -> Self {
        self.traits = Some(traits);
        self
    }

    /// Marks a flattened list or map.
    pub const fn flattened(mut self) -> Self {
        self.flattened = true;
        self
    }

    /// Marks a secret.
    pub const fn sensitive(mut self) -> Self {
        self.sensitive = true;
        self
    }

    /// The members of a structure; empty for every other kind.
    pub const fn members(&self) -> &'static [Member] {
        match self.kind {
            Kind::Structure(members) => members,
            _ => &[],
        }
    }
}

impl Member {
    /// A reference without traits.
    pub const fn new(name: &'static str, target: &'static Type) -> Self {
        Member {
            name,
            location_name: "",
            query_name: "",
            target,
            namespace: None,
            location: Location::Body,
            timestamp: TimestampFormat::Default,
            flags: 0,
        }
    }

    /// Sets `locationName`.
    pub const fn at(mut self, location_name: &'static str) -> Self {
        self.location_name = location_name;
        self
    }

    /// Sets `queryName`.
    pub const fn query(mut self, query_name: &'static str) -> Self {
        self.query_name = query_name;
        self
    }

    /// Sets the location.
    pub const fn in_(mut self, location: Location) -> Self {
        self.location = location;
        self
    }

    /// Sets the timestamp format.
    pub const fn time(mut self, format: TimestampFormat) -> Self {
        self.timestamp = format;
        self
    }

    /// Sets the XML namespace.
    pub const fn namespace(mut self, namespace: &'static Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Adds bits of [`flag`].
    pub const fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Whether all `bits` are set.
    pub const fn has(&self, bits: u16) -> bool {
        self.flags & bits == bits
    }

    /// The name in XML and JSON: `locationName`, else the member's own.
    pub const fn wire_name(&self) -> &'static str {
        if self.location_name.is_empty() { self.name } else { self.location_name }
    }

    /// Whether the list or map stands without an element around it.
    pub const fn is_flattened(&self) -> bool {
        self.has(flag::FLATTENED) || self.target.flattened
    }

    /// Whether it must not be printed.
    pub const fn is_sensitive(&self) -> bool {
        self.has(flag::SENSITIVE) || self.target.sensitive
    }
}

impl ServiceModel {
    /// The operation of that name.
    pub fn operation(&self, name: &str) -> Option<&'static OperationModel> {
        let found = self.operations.binary_search_by(|operation| operation.name.cmp(name));
        found.ok().map(|index| self.operations[index])
    }
}

/// The name of a kind for a message, such as `integer`.
pub(crate) fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::String => "string",
        Kind::Integer => "integer",
        Kind::Long => "long",
        Kind::Boolean => "boolean",
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Blob => "blob",
        Kind::Timestamp => "timestamp",
        Kind::Document => "document",
        Kind::Structure(_) => "structure",
        Kind::List(_) => "list",
        Kind::Map(..) => "map",
    }
}
