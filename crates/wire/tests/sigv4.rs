//! The verifier against AWS's own SigV4 vectors (from botocore's tests), and against the corpus of
//! its fuzz target.

mod botocore;
mod request_text;

use base::Timestamp;
use std::fs;
use std::path::{Path, PathBuf};
use wire::sigv4::{
    Credentials, Error, RequestParts, Rules, Signer, SigningKey, canonical_texts, parse, verify,
};

const NOW: Timestamp = Timestamp(1_440_938_160_000); // 20150830T123600Z
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// The directories of the vectors; `None` without the download.
fn vectors() -> Option<Vec<PathBuf>> {
    let root = botocore::sdist()?.join("tests/unit/auth/aws4_testsuite");
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(directory) = open.pop() {
        let entries: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
        if entries.iter().any(|path| path.extension().is_some_and(|e| e == "req")) {
            found.push(directory);
        } else {
            open.extend(entries.into_iter().filter(|path| path.is_dir()));
        }
    }
    found.sort();
    assert!(found.len() >= 31, "only {} vectors", found.len());
    Some(found)
}

fn read(directory: &Path, extension: &str) -> String {
    let name = directory.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(directory.join(format!("{name}.{extension}"))).unwrap();
    text.replace('\r', "")
}

fn check(parts: &RequestParts<'_>) -> Result<(), Error> {
    let claim = parse(parts)?;
    let key = SigningKey::derive(SECRET, claim.day(), &claim.region, &claim.service);
    verify(parts, &claim, &key, Rules::STANDARD, NOW)
}

/// AWS adds the token after signing in this one, as "some services" allow. Ours do not: a header
/// that is not signed may have been added by anyone.
const TOKEN_NOT_SIGNED: &str = "post-sts-header-after";

#[test]
fn signed_requests_verify() {
    let Some(vectors) = vectors() else { return };
    for directory in vectors {
        let name = directory.display();
        // The signature comes from the .authz file: botocore's tests read no other, and one .sreq
        // (get-vanilla-with-session-token) carries another one, which no key makes.
        let mut signed = read(&directory, "sreq");
        let line = signed.lines().find(|line| line.starts_with("Authorization:")).unwrap();
        let authorization = format!("Authorization: {}", read(&directory, "authz"));
        signed = signed.replace(line, &authorization);
        request_text::with(signed.as_bytes(), |parts| {
            let claim = parse(parts).unwrap_or_else(|e| panic!("{name}: {e}"));
            let (request, to_sign) = canonical_texts(parts, &claim, Rules::STANDARD).unwrap();
            assert_eq!(request, read(&directory, "creq"), "{name}");
            assert_eq!(to_sign, read(&directory, "sts"), "{name}");
            let expected = if directory.ends_with(TOKEN_NOT_SIGNED) {
                Err(Error::HeaderNotSigned("x-amz-security-token".to_owned()))
            } else {
                Ok(())
            };
            assert_eq!(check(parts), expected, "{name}");
        })
        .unwrap();
    }
}

#[test]
fn requests_are_signed_as_aws_signs_them() {
    let Some(vectors) = vectors() else { return };
    for directory in vectors.iter().filter(|d| !d.ends_with(TOKEN_NOT_SIGNED)) {
        let name = directory.display();
        let canonical = read(directory, "creq");
        let token = canonical.lines().find_map(|line| line.strip_prefix("x-amz-security-token:"));
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE",
            secret_access_key: SECRET,
            session_token: token,
        };
        let rules = Rules::STANDARD;
        let signer = Signer { credentials, region: "us-east-1", service: "service", rules };
        let request = read(directory, "req");
        request_text::with(request.as_bytes(), |parts| {
            let added = ["x-amz-date", "x-amz-security-token"];
            let mut headers = parts.headers.to_vec();
            headers.retain(|(key, _)| !added.contains(&key.to_ascii_lowercase().as_str()));
            let signed = signer.headers(&RequestParts { headers: &headers, ..*parts }, NOW);
            let authorization = signed.iter().find(|(key, _)| *key == "authorization").unwrap();
            assert_eq!(authorization.1, read(directory, "authz"), "{name}");
        })
        .unwrap();
    }
}

#[test]
fn the_fuzz_corpus_replays() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/sigv4");
    let mut count = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read(&path).unwrap();
        let result = request_text::with(&text, check);
        // The file's name says what becomes of it.
        let is_good = path.file_name().unwrap().to_str().unwrap().starts_with("good-");
        assert_eq!(result == Some(Ok(())), is_good, "{}: {result:?}", path.display());
        count += 1;
    }
    assert!(count >= 10, "only {count} files in {}", corpus.display());
}
