//! Resource identifiers: a prefix and 17 hexadecimal digits (EC2 User Guide, "Resource IDs").

/// A new identifier such as `i-0123456789abcdef0`; `prefix` comes without the dash.
pub fn generate(prefix: &str, rng: &mut fastrand::Rng) -> String {
    // The first digit of what AWS issues has always been 0.
    let digits = rng.u64(..);
    format!("{prefix}-{digits:017x}")
}

/// Whether `id` is `prefix-` and 8 or 17 hexadecimal digits; 8 is the form used before 2016.
pub fn is_valid(prefix: &str, id: &str) -> bool {
    id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')).is_some_and(|digits| {
        matches!(digits.len(), 8 | 17)
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A random UUID, version 4, in lower case, as AWS's request ids are.
pub fn request_id(rng: &mut fastrand::Rng) -> String {
    let bits = (rng.u128(..) & !(0xf << 76) & !(0b11 << 62)) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_valid_and_differ() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (a, b) = (generate("vol", &mut rng), generate("vol", &mut rng));
        assert!(is_valid("vol", &a) && is_valid("vol", &b) && a != b, "{a} {b}");
        assert!(!is_valid("i", &a));
        assert!(is_valid("i", "i-12345678"));
        assert!(!is_valid("i", "i-1234567X"));
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let id = request_id(&mut rng);
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "4");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }
}
