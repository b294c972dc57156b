//! Looks into a typed input without knowing its type: which members are present, and what the few
//! generic ones say.

use base::Timestamp;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use wire::{Document, Encoder, List, Map, Member, Shape};

/// What an input says.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    /// Paths of the present members, list indexes dropped: `BlockDeviceMappings.Ebs.VolumeSize`.
    pub(crate) paths: BTreeSet<String>,
    /// The top-level `DryRun`.
    pub(crate) dry_run: bool,
    /// The value of the top-level idempotency token, if it is not empty.
    pub(crate) token: Option<String>,
    /// Every path and value but the token's and DryRun: equal for equal requests.
    pub(crate) canonical: String,
    path: String,
    token_member: &'static str,
}

/// Inspects an input of an operation whose idempotency token is the member `token_member` (empty
/// if it has none).
pub(crate) fn inspect(input: &dyn Shape, token_member: &'static str) -> Inspection {
    let mut inspection = Inspection { token_member, ..Inspection::default() };
    input.encode(&mut inspection);
    inspection
}

impl Inspection {
    fn leaf(&mut self, member: &'static Member, value: std::fmt::Arguments<'_>) {
        let length = self.enter(member);
        if !self.paths.contains(&self.path) {
            self.paths.insert(self.path.clone());
        }
        let _ = writeln!(self.canonical, "{}={value}", self.path);
        self.path.truncate(length);
    }

    /// Appends a member's name to the path; the items of a list add nothing to it.
    fn enter(&mut self, member: &'static Member) -> usize {
        let length = self.path.len();
        if !matches!(member.name, "" | "member" | "value") {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(member.name);
        }
        length
    }

    fn empty(&mut self, member: &'static Member) {
        self.leaf(member, format_args!("(empty)"));
    }
}

impl Encoder for Inspection {
    fn string(&mut self, member: &'static Member, value: &str) {
        if self.path.is_empty() && !self.token_member.is_empty() && member.name == self.token_member
        {
            if !value.is_empty() {
                self.token = Some(value.to_owned());
            }
            return;
        }
        self.leaf(member, format_args!("{value:?}"));
    }

    fn integer(&mut self, member: &'static Member, value: i64) {
        self.leaf(member, format_args!("{value}"));
    }

    fn boolean(&mut self, member: &'static Member, value: bool) {
        if self.path.is_empty() && member.name == "DryRun" {
            self.dry_run = value;
            return;
        }
        self.leaf(member, format_args!("{value}"));
    }

    fn double(&mut self, member: &'static Member, value: f64) {
        self.leaf(member, format_args!("{value}"));
    }

    fn float(&mut self, member: &'static Member, value: f32) {
        self.leaf(member, format_args!("{value}"));
    }

    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        // Bytes matter only to the comparison with the request that had the same token.
        if self.token_member.is_empty() {
            self.leaf(member, format_args!("({} bytes)", value.len()));
        } else {
            self.leaf(member, format_args!("{value:?}"));
        }
    }

    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        self.leaf(member, format_args!("{}", value.0));
    }

    fn document(&mut self, member: &'static Member, value: &Document) {
        self.leaf(member, format_args!("{value:?}"));
    }

    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        let length = self.enter(member);
        let before = self.canonical.len();
        value.encode(self);
        let path = self.path.clone();
        self.path.truncate(length);
        if self.canonical.len() == before {
            self.paths.insert(path);
        }
    }

    fn list(&mut self, member: &'static Member, value: &dyn List) {
        if value.is_empty() {
            return self.empty(member);
        }
        let length = self.enter(member);
        if let wire::Kind::List(item) = member.target.kind {
            // A blob or a nested list of lists has no name of its own; the path stays the list's.
            let mut items = Items { inspection: self, index: 0 };
            value.encode_items(item, &mut items);
        }
        self.path.truncate(length);
    }

    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        if value.is_empty() {
            return self.empty(member);
        }
        let length = self.enter(member);
        if let wire::Kind::Map(_, entry) = member.target.kind {
            let mut items = Items { inspection: self, index: 0 };
            value.encode_entries(entry, &mut items);
        }
        self.path.truncate(length);
    }

    fn key(&mut self, _: &str) {}
}

/// The items of a list or map: they have the path of the list, whatever their reference is called.
struct Items<'a> {
    inspection: &'a mut Inspection,
    index: usize,
}

impl Items<'_> {
    fn leaf(&mut self, value: std::fmt::Arguments<'_>) {
        self.index += 1;
        let path = self.inspection.path.clone();
        let _ = writeln!(self.inspection.canonical, "{path}#{}={value}", self.index);
        self.inspection.paths.insert(path);
    }
}

impl Encoder for Items<'_> {
    fn string(&mut self, _: &'static Member, value: &str) {
        self.leaf(format_args!("{value:?}"));
    }

    fn integer(&mut self, _: &'static Member, value: i64) {
        self.leaf(format_args!("{value}"));
    }

    fn boolean(&mut self, _: &'static Member, value: bool) {
        self.leaf(format_args!("{value}"));
    }

    fn double(&mut self, _: &'static Member, value: f64) {
        self.leaf(format_args!("{value}"));
    }

    fn float(&mut self, _: &'static Member, value: f32) {
        self.leaf(format_args!("{value}"));
    }

    fn blob(&mut self, _: &'static Member, value: &[u8]) {
        self.leaf(format_args!("{value:?}"));
    }

    fn timestamp(&mut self, _: &'static Member, value: Timestamp) {
        self.leaf(format_args!("{}", value.0));
    }

    fn document(&mut self, _: &'static Member, value: &Document) {
        self.leaf(format_args!("{value:?}"));
    }

    fn structure(&mut self, _: &'static Member, value: &dyn Shape) {
        self.index += 1;
        let index = self.index;
        let _ = writeln!(self.inspection.canonical, "{}#{index}", self.inspection.path);
        value.encode(self.inspection);
    }

    fn list(&mut self, _: &'static Member, value: &dyn List) {
        self.leaf(format_args!("{} items", value.len()));
    }

    fn map(&mut self, _: &'static Member, value: &dyn Map) {
        self.leaf(format_args!("{} entries", value.len()));
    }

    fn key(&mut self, key: &str) {
        let _ = writeln!(self.inspection.canonical, "{}@{key:?}", self.inspection.path);
    }
}

/// The first present path that an operation does not honour. `X.*` stands for all below X, and a
/// structure that is named honours being empty.
pub(crate) fn first_unhonoured<'a>(
    paths: &'a BTreeSet<String>,
    honours: &[&str],
) -> Option<&'a str> {
    paths.iter().map(String::as_str).find(|path| {
        !honours.iter().any(|honoured| match honoured.strip_suffix(".*") {
            Some(parent) => *path == parent || is_below(path, parent),
            None => path == honoured || is_below(honoured, path),
        })
    })
}

/// Whether `path` is that of a member in `parent`.
fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honoured_paths() {
        let paths = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<BTreeSet<_>>();
        let honours = ["ImageId", "Placement.AvailabilityZone", "Filters.*"];
        assert_eq!(first_unhonoured(&paths(&["ImageId"]), &honours), None);
        assert_eq!(first_unhonoured(&paths(&["Placement"]), &honours), None);
        assert_eq!(first_unhonoured(&paths(&["Placement.AvailabilityZone"]), &honours), None);
        assert_eq!(first_unhonoured(&paths(&["Filters.Name", "Filters"]), &honours), None);
        assert_eq!(
            first_unhonoured(&paths(&["Placement.Tenancy"]), &honours),
            Some("Placement.Tenancy")
        );
        assert_eq!(first_unhonoured(&paths(&["ImageIdX"]), &honours), Some("ImageIdX"));
    }
}
