//! Each way to be refused, and properties of sign and verify together. AWS's vectors and the fuzz
//! corpus are in `tests/sigv4.rs`.

use super::*;
use proptest::prelude::*;
use proptest::{collection, option, sample};

const NOW: Timestamp = Timestamp(1_440_938_160_000); // 20150830T123600Z
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLE==";

/// A request that owns its parts, so that a test can change them.
#[derive(Clone, Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn post() -> Self {
        Request {
            method: "POST".into(),
            path: "/".into(),
            query: String::new(),
            headers: vec![
                ("Host".into(), b"127.0.0.1:4566".to_vec()),
                ("Content-Type".into(), b"application/x-www-form-urlencoded".to_vec()),
            ],
            body: b"Action=DescribeRegions&Version=2016-11-15".to_vec(),
        }
    }

    fn with<T>(&self, then: impl FnOnce(&RequestParts<'_>) -> T) -> T {
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (n.as_str(), &v[..])).collect();
        let (method, path, query) = (&self.method, &self.path, &self.query);
        then(&RequestParts { method, path, query, headers: &headers, body: &self.body })
    }

    fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).unwrap();
        String::from_utf8(found.1.clone()).unwrap()
    }

    /// Changes the Authorization header after the fact.
    fn edit(&mut self, from: &str, to: &str) -> &mut Self {
        let value = self.header("authorization");
        assert!(value.contains(from), "{value}");
        self.set("authorization", &value.replace(from, to))
    }

    fn signed(mut self, signer: &Signer<'_>) -> Self {
        let added = self.with(|parts| signer.headers(parts, NOW));
        self.headers.extend(added.into_iter().map(|(n, v)| (n.to_owned(), v.into_bytes())));
        self
    }

    fn presigned(mut self, signer: &Signer<'_>, expires: u32) -> Self {
        self.query = self.with(|parts| signer.presign(parts, NOW, expires));
        self
    }

    fn verify_at(&self, rules: Rules, now: Timestamp) -> Result<(), Error> {
        self.with(|parts| {
            let claim = parse(parts)?;
            if claim.access_key_id != "AKIDEXAMPLE" {
                return Err(Error::UnknownAccessKey);
            }
            let key = SigningKey::derive(SECRET, claim.day(), &claim.region, &claim.service);
            verify(parts, &claim, &key, rules, now)
        })
    }

    fn verify(&self) -> Result<(), Error> {
        self.verify_at(Rules::STANDARD, NOW)
    }
}

fn signer(rules: Rules) -> Signer<'static> {
    let credentials = Credentials {
        access_key_id: "AKIDEXAMPLE",
        secret_access_key: SECRET,
        session_token: None,
    };
    Signer { credentials, region: "us-east-1", service: "ec2", rules }
}

fn with_token(mut signer: Signer<'static>) -> Signer<'static> {
    signer.credentials.session_token = Some(TOKEN);
    signer
}

fn signed() -> Request {
    Request::post().signed(&signer(Rules::STANDARD))
}

fn incomplete(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Incomplete(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn refused(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_names_what_the_secret_is_looked_up_by() {
    let request = Request::post().signed(&with_token(signer(Rules::STANDARD)));
    request.with(|parts| {
        let claim = parse(parts).unwrap();
        assert_eq!(claim.access_key_id, "AKIDEXAMPLE");
        assert_eq!((&*claim.region, &*claim.service), ("us-east-1", "ec2"));
        assert_eq!(claim.session_token.as_deref(), Some(TOKEN));
        assert_eq!((claim.date, claim.day()), (NOW, "20150830"));
        assert!(!claim.is_presigned());
        let list = "content-type;host;x-amz-date;x-amz-security-token";
        assert_eq!(claim.signed_headers, list);
    });
    let signer = with_token(signer(Rules::STANDARD));
    Request::post().presigned(&signer, 60).with(|parts| {
        let claim = parse(parts).unwrap();
        assert_eq!((&*claim.access_key_id, &*claim.region), ("AKIDEXAMPLE", "us-east-1"));
        assert_eq!(claim.session_token.as_deref(), Some(TOKEN));
        assert_eq!(claim.expires_seconds, Some(60));
    });
}

#[test]
fn no_signature() {
    assert_eq!(Request::post().verify(), Err(Error::MissingAuthenticationToken));
}

#[test]
fn a_wrong_secret_or_scope_does_not_match() {
    let mut other = signer(Rules::STANDARD);
    other.credentials.secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEX";
    assert_eq!(Request::post().signed(&other).verify(), Err(Error::SignatureDoesNotMatch));
    for (from, to) in [("us-east-1", "us-east-2"), ("/ec2/", "/sts/"), ("=content-type;h", "=h")] {
        assert_eq!(signed().edit(from, to).verify(), Err(Error::SignatureDoesNotMatch), "{to}");
    }
    // A header that is signed and was taken away on the way.
    let mut request = signed();
    request.headers.retain(|(name, _)| name != "Content-Type");
    assert_eq!(request.verify(), Err(Error::SignatureDoesNotMatch));
}

#[test]
fn clock_skew_of_five_minutes() {
    let skew = 5 * 60_000;
    for (offset, is_good) in [(skew, true), (skew + 1, false), (-skew, true), (-skew - 1, false)] {
        let result = signed().verify_at(Rules::STANDARD, NOW.plus_millis(offset));
        assert_eq!(result.is_ok(), is_good, "{offset}: {result:?}");
    }
    let late = signed().verify_at(Rules::STANDARD, NOW.plus_millis(600_000)).unwrap_err();
    assert_eq!(
        late.to_string(),
        "Signature expired: 20150830T123600Z is now earlier than 20150830T124100Z \
         (20150830T124600Z - 5 min.)"
    );
    let early = signed().verify_at(Rules::STANDARD, NOW.plus_millis(-600_000)).unwrap_err();
    assert_eq!(
        early.to_string(),
        "Signature not yet current: 20150830T123600Z is still later than 20150830T123100Z \
         (20150830T122600Z + 5 min.)"
    );
}

#[test]
fn a_presigned_url_lives_until_it_expires() {
    let request = Request::post().presigned(&signer(Rules::STANDARD), 3600);
    assert_eq!(request.verify_at(Rules::STANDARD, NOW.plus_millis(3_600_000)), Ok(()));
    let late = request.verify_at(Rules::STANDARD, NOW.plus_millis(3_600_001));
    assert_eq!(late, Err(Error::PresignedExpired));
    let early = request.verify_at(Rules::STANDARD, NOW.plus_millis(-300_001));
    assert!(matches!(early, Err(Error::NotYetCurrent { .. })), "{early:?}");
    for (seconds, is_good) in [("0", false), ("1", true), ("604800", true), ("604801", false)] {
        let mut request = request.clone();
        request.query = request.query.replace("Expires=3600", &format!("Expires={seconds}"));
        let result = request.with(|parts| parse(parts).map(drop));
        assert_eq!(result, if is_good { Ok(()) } else { Err(Error::ExpiresOutOfRange) });
        assert!(request.verify().is_err(), "the expiry is signed");
    }
}

#[test]
fn half_an_authorization_header() {
    let only = |value: &str| incomplete(signed().set("authorization", value).verify());
    assert_eq!(
        only("AWS4-HMAC-SHA256"),
        "Authorization header requires 'Credential' parameter. Authorization header requires \
         'Signature' parameter. Authorization header requires 'SignedHeaders' parameter."
    );
    assert!(only("AWS4-HMAC-SHA256 Credential").contains("missing equal-sign"));
    assert!(only("AWS4-HMAC-SHA256 Signature=1,Signature=2").contains("more than one"));
    assert!(incomplete(signed().edit("/us-east-1", "").verify()).contains("exactly 5"));
    assert!(incomplete(signed().edit("/us-east-1", "/").verify()).contains("exactly 5"));
    assert!(incomplete(signed().edit("type;host", "type;Host").verify()).contains("lower case"));
    assert!(incomplete(signed().edit("type;host", "type;host;host").verify()).contains("sorted"));

    let mut request = signed();
    request.headers.retain(|(name, _)| name != "x-amz-date");
    assert!(incomplete(request.verify()).contains("either a 'X-Amz-Date' or a 'Date' header"));
    assert!(incomplete(request.set("x-amz-date", "today").verify()).contains("Got 'today'"));
    let mut request = signed();
    request.headers.push(("Authorization".into(), request.header("authorization").into()));
    assert!(incomplete(request.verify()).contains("two 'Authorization' headers"));
}

#[test]
fn half_a_presigned_query() {
    let request = Request::post().presigned(&signer(Rules::STANDARD), 60);
    for name in ["Credential", "Date", "Expires", "SignedHeaders", "Signature", "Algorithm"] {
        let name = format!("X-Amz-{name}");
        let mut without = request.clone();
        let kept = request.query.split('&').filter(|p| !p.starts_with(&format!("{name}=")));
        without.query = kept.collect::<Vec<_>>().join("&");
        assert!(incomplete(without.verify()).contains(&format!("'{name}'")), "{name}");
    }
    let mut twice = request.clone();
    twice.query.push_str("&X-Amz-Expires=604800");
    assert!(incomplete(twice.verify()).contains("more than one 'X-Amz-Expires'"));
    let both = request.clone().signed(&signer(Rules::STANDARD));
    assert!(incomplete(both.verify()).contains("Only one auth mechanism"));
}

#[test]
fn scope_must_fit_the_request() {
    let text = refused(signed().edit("aws4_request", "aws5_request").verify());
    assert!(text.contains("valid terminator: 'aws4_request', not 'aws5_request'"), "{text}");
    let text = refused(signed().edit("/20150830/", "/20150831/").verify());
    assert!(text.ends_with("'20150831' != '20150830', from '20150830T123600Z'."), "{text}");
}

#[test]
fn the_date_header_will_do() {
    for date in ["Sun, 30 Aug 2015 12:36:00 GMT", "20150830T123600Z"] {
        let mut request = signed();
        request.headers.retain(|(name, _)| name != "x-amz-date");
        request.set("date", date).edit(";x-amz-date", "");
        // What is signed is the date in its basic form, whatever the header's.
        request.edit("content-type;host", "content-type;date;host");
        let text = request.with(|p| canonical_texts(p, &parse(p).unwrap(), Rules::STANDARD));
        let key = SigningKey::derive(SECRET, "20150830", "us-east-1", "ec2");
        let signature = key.signature_hex(text.unwrap().1.as_bytes());
        let old = request.header("authorization").split_once("Signature=").unwrap().1.to_owned();
        request.edit(&old, std::str::from_utf8(&signature).unwrap());
        assert_eq!(request.verify(), Ok(()), "{date}");
    }
}

#[test]
fn older_and_other_algorithms() {
    let mut request = Request::post();
    request.set("authorization", "AWS AKIDEXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=");
    assert_eq!(request.verify(), Err(Error::SignatureVersion2));
    let mut request = Request::post();
    request.query = "AWSAccessKeyId=AKIDEXAMPLE&SignatureVersion=2&Signature=x".into();
    assert_eq!(request.verify(), Err(Error::SignatureVersion2));
    let mut request = Request::post();
    request.body = b"Action=X&SignatureVersion=2&AWSAccessKeyId=AKIDEXAMPLE".to_vec();
    assert_eq!(request.verify(), Err(Error::SignatureVersion2));
    let result = signed().edit("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256").verify();
    assert_eq!(result, Err(Error::UnsupportedAlgorithm("AWS4-ECDSA-P256-SHA256".into())));
}

#[test]
fn what_must_be_signed() {
    let result = signed().set("X-Amz-Target", "Other.Operation").verify();
    assert_eq!(result, Err(Error::HeaderNotSigned("x-amz-target".into())));
    let result = signed().set("x-amz-security-token", TOKEN).verify();
    assert_eq!(result, Err(Error::HeaderNotSigned("x-amz-security-token".into())));
    assert!(refused(signed().edit(";host;", ";").verify()).contains("'Host'"));
    let mut request = signed();
    request.headers.push(("host".into(), b"elsewhere".to_vec()));
    assert!(refused(request.verify()).contains("more than one Host"));
    // What proxies add is nobody's business.
    assert_eq!(signed().set("x-amzn-trace-id", "Root=1").set("via", "1.1 proxy").verify(), Ok(()));
}

#[test]
fn the_stated_body_hash_must_be_true() {
    let state = |value: &str, rules: Rules| {
        let mut request = Request::post();
        request.set("x-amz-content-sha256", value);
        let standard =
            Signer { rules: Rules { unsigned_payload: false, ..rules }, ..signer(rules) };
        // The signer hashes the body, so only a refusal for another reason shows here.
        request.signed(&standard).verify_at(rules, NOW)
    };
    let hash = |body: &[u8]| String::from_utf8(sha256_hex(body).to_vec()).unwrap();
    let (object, standard) = (Rules::OBJECT_STORAGE, Rules::STANDARD);
    assert_eq!(state(&hash(&Request::post().body), standard), Ok(()));
    assert_eq!(state(&hash(b"other"), standard), Err(Error::ContentHashMismatch));
    assert_eq!(state(UNSIGNED_PAYLOAD, standard), Err(Error::UnsignedPayload));
    assert_eq!(state(UNSIGNED_PAYLOAD, object), Err(Error::SignatureDoesNotMatch));
    for value in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        assert_eq!(state(value, object), Err(Error::StreamingPayload));
    }
    assert_eq!(state("e3b0", standard), Err(Error::ContentHashInvalid));
}

#[test]
fn object_storage_takes_paths_as_they_are_and_bodies_unsigned() {
    let rules = Rules::OBJECT_STORAGE;
    let mut request = Request::post();
    request.path = "/bucket/a//b/../c%20d%2Fe".into();
    let texts = |request: &Request, rules| {
        request.with(|p| canonical_texts(p, &parse(p).unwrap(), rules).unwrap().0)
    };
    let header = request.clone().signed(&signer(rules));
    assert_eq!(header.verify_at(rules, NOW), Ok(()));
    assert!(texts(&header, rules).starts_with("POST\n/bucket/a//b/../c%20d/e\n"));
    let standard = texts(&request.clone().signed(&signer(Rules::STANDARD)), Rules::STANDARD);
    assert!(standard.starts_with("POST\n/bucket/a/c%2520d%252Fe\n"), "{standard}");

    let mut url = request.presigned(&signer(rules), 60);
    url.body = b"anything".to_vec();
    assert_eq!(url.verify_at(rules, NOW), Ok(()));
    assert_eq!(url.verify(), Err(Error::SignatureDoesNotMatch));
}

#[test]
fn equal_requests_have_one_canonical_form() {
    let mut request = Request::post();
    request.query = "b=2&a=1&a=%7e&c".into();
    let mut request = request.signed(&signer(Rules::STANDARD));
    request.query = "c=&a=~&&a=1&b=2".into();
    request.path = "/x/.././/".into();
    request.set("CONTENT-TYPE", "  application/x-www-form-urlencoded ");
    assert_eq!(request.verify(), Ok(()));
}

#[test]
fn answers_in_each_flavour() {
    let answer = |error: Error, flavour| {
        let answer = error.answer(flavour);
        (answer.code, answer.status, answer.message.into_owned())
    };
    let unknown = "The security token included in the request is invalid.";
    let expired = Error::Expired { signed: NOW, now: NOW.plus_millis(600_000), minutes: 5 };
    let table = [
        (
            Error::UnknownAccessKey,
            Flavour::Ec2,
            ("AuthFailure", 401, "AWS was not able to validate the provided access credentials"),
        ),
        (Error::UnknownAccessKey, Flavour::Query, ("InvalidClientTokenId", 403, unknown)),
        (Error::UnknownAccessKey, Flavour::Json, ("UnrecognizedClientException", 400, unknown)),
        (
            Error::MissingAuthenticationToken,
            Flavour::Ec2,
            ("MissingAuthenticationToken", 403, "Request is missing Authentication Token"),
        ),
        (expired.clone(), Flavour::Ec2, ("RequestExpired", 400, "Request has expired.")),
        (
            expired,
            Flavour::Query,
            (
                "SignatureDoesNotMatch",
                403,
                "Signature expired: 20150830T123600Z is now earlier than 20150830T124100Z \
                 (20150830T124600Z - 5 min.)",
            ),
        ),
        (
            Error::SignatureDoesNotMatch,
            Flavour::Ec2,
            (
                "SignatureDoesNotMatch",
                403,
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. Consult the service \
                 documentation for details.",
            ),
        ),
        (
            Error::PresignedExpired,
            Flavour::ObjectStorage,
            ("AccessDenied", 403, "Request has expired"),
        ),
        (Error::Incomplete("x".into()), Flavour::Query, ("IncompleteSignature", 400, "x")),
        (Error::Incomplete("x".into()), Flavour::Json, ("IncompleteSignatureException", 400, "x")),
    ];
    for (error, flavour, (code, status, message)) in table {
        assert_eq!(answer(error, flavour), (code, status, message.to_owned()));
    }
    assert_eq!(
        Error::SignatureDoesNotMatch.answer(Flavour::Json).code,
        "InvalidSignatureException"
    );
}

#[test]
fn nothing_secret_is_printed() {
    let request = Request::post().signed(&with_token(signer(Rules::STANDARD)));
    let signature = request.header("authorization").split_once("Signature=").unwrap().1.to_owned();
    let printed = request.with(|parts| {
        let claim = parse(parts).unwrap();
        let cache = SigningKeyCache::new(16);
        let key = cache.get(&claim, SECRET);
        format!("{parts:?} {claim:?} {cache:?} {key:?} {:?}", signer(Rules::STANDARD))
    });
    for secret in [SECRET, TOKEN, &signature] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[test]
fn the_cache_is_bounded_and_forgets_replaced_secrets() {
    let cache = SigningKeyCache::new(64);
    signed().with(|parts| {
        let mut claim = parse(parts).unwrap();
        let first = cache.get(&claim, SECRET);
        assert!(std::sync::Arc::ptr_eq(&first, &cache.get(&claim, SECRET)));
        assert_eq!(verify(parts, &claim, &first, Rules::STANDARD, NOW), Ok(()));
        let other = cache.get(&claim, "another secret");
        let result = verify(parts, &claim, &other, Rules::STANDARD, NOW);
        assert_eq!(result, Err(Error::SignatureDoesNotMatch));
        for index in 0..1000 {
            claim.region = format!("region-{index}").into();
            cache.get(&claim, SECRET);
        }
        assert!(cache.len() <= 64, "{}", cache.len());
    });
}

fn word() -> impl Strategy<Value = String> {
    "[A-Za-z0-9]{1,8}"
}

prop_compose! {
    fn any_request()(
        method in sample::select(vec!["GET", "POST", "PUT", "DELETE"]),
        path in collection::vec(word(), 0..4),
        query in collection::vec((word(), "[a-zA-Z0-9]{0,6}"), 0..4),
        headers in collection::btree_map("[a-wyz][a-z-]{0,10}[0-9]", "[a-zA-Z0-9]{1,12}", 0..4),
        target in option::of(word()),
        body in collection::vec(any::<u8>(), 0..64),
    ) -> Request {
        let mut request = Request {
            method: method.to_owned(),
            path: format!("/{}", path.join("/")),
            query: query.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&"),
            headers: vec![("host".to_owned(), b"localhost".to_vec())],
            body,
        };
        for (name, value) in headers {
            request.set(&name, &value);
        }
        if let Some(target) = target {
            request.set("X-Amz-Target", &target);
        }
        request
    }
}

fn any_signed() -> impl Strategy<Value = (Request, Rules)> {
    let rules = sample::select(vec![Rules::STANDARD, Rules::OBJECT_STORAGE]);
    (any_request(), rules, any::<bool>(), any::<bool>()).prop_map(
        |(request, rules, has_token, is_presigned)| {
            let signer = if has_token { with_token(signer(rules)) } else { signer(rules) };
            let signed =
                if is_presigned { request.presigned(&signer, 60) } else { request.signed(&signer) };
            (signed, rules)
        },
    )
}

/// Flips a bit of a text, from byte `from` on, and leaves it ASCII.
fn flip_text(text: &mut String, from: usize, at: sample::Index, bit: u8) {
    let mut bytes = std::mem::take(text).into_bytes();
    flip(&mut bytes, from, at, bit % 7);
    *text = String::from_utf8(bytes).unwrap();
}

fn flip(bytes: &mut [u8], from: usize, at: sample::Index, bit: u8) {
    if bytes.len() > from {
        let at = from + at.index(bytes.len() - from);
        // `%2F` and `%2f` are the same byte.
        let is_escape = bytes[at.saturating_sub(2)..at].contains(&b'%');
        bytes[at] ^= 1 << if is_escape && bit == 5 { 4 } else { bit };
    }
}

proptest! {
    #[test]
    fn what_was_signed_verifies((request, rules) in any_signed()) {
        prop_assert_eq!(request.verify_at(rules, NOW), Ok(()));
    }

    #[test]
    fn any_flipped_bit_of_what_is_signed_is_noticed(
        (original, rules) in any_signed(),
        place in 0..5,
        at in any::<sample::Index>(),
        which in any::<sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut request = original.clone();
        let is_presigned = request.query.contains("X-Amz-Signature");
        let which = which.index(request.headers.len());
        match place {
            0 => flip_text(&mut request.method, 0, at, bit),
            // A path starts with a slash, or it is none.
            1 => flip_text(&mut request.path, 1, at, bit),
            2 => flip_text(&mut request.query, 0, at, bit),
            3 if is_presigned && rules.unsigned_payload => prop_assume!(false),
            3 => flip(&mut request.body, 0, at, bit),
            _ => flip(&mut request.headers[which].1, 0, at, bit),
        }
        // Nothing to flip: an empty body, query or path.
        prop_assume!(request != original);
        prop_assert!(request.verify_at(rules, NOW).is_err(), "{request:?}");
    }

    #[test]
    fn no_input_panics(
        head in "\\PC{0,40}",
        credential in "[ -~]{0,60}",
        query in "[ -~]{0,80}",
        value in collection::vec(any::<u8>(), 0..40),
    ) {
        let mut request = Request::post();
        request.path = head;
        request.query = query;
        request.headers.push(("x-amz-date".into(), value.clone()));
        request.set("authorization", &format!("AWS4-HMAC-SHA256 Credential={credential}"));
        let _ = request.verify();
        request.headers.retain(|(name, _)| name != "authorization");
        let _ = request.verify();
        request.headers.push(("authorization".into(), value));
        let _ = request.verify();
    }

    #[test]
    fn encoding_is_undone_by_decoding(bytes in collection::vec(any::<u8>(), 0..40)) {
        let mut text = Vec::new();
        canonical::encode(&mut text, &bytes);
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(&canonical::decode(&text, true)[..], &bytes[..]);
        prop_assert_eq!(&canonical::decode(&text, false)[..], &bytes[..]);
    }
}
