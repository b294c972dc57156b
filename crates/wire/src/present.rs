//! Which members of an input are present: what the rule "a parameter that is not honoured is
//! refused" is checked with.

use crate::Document;
use crate::form::{FormStyle, request_name};
use crate::schema::{Kind, Member, Type};
use crate::shape::{Encoder, List, Map, Shape};
use base::Timestamp;

/// The present members as paths of member names, `BlockDeviceMappings.Ebs.VolumeSize`: indexes of
/// lists and keys of maps are left out. Only the ends of the tree are listed, sorted, each once. A
/// structure or list without anything in it is an end.
pub fn paths(shape: &dyn Shape) -> Vec<String> {
    let mut recorder = Recorder { path: String::new(), found: Vec::new(), unnamed: false };
    shape.encode(&mut recorder);
    recorder.found.sort();
    recorder.found.dedup();
    recorder.found
}

/// A path of [`paths`] as an EC2 request and the API reference write it:
/// `BlockDeviceMapping.Ebs.VolumeSize`. `schema` is the input's.
pub fn request_path(style: FormStyle, schema: &Type, path: &str) -> String {
    let mut out = String::new();
    let mut within = schema;
    for name in path.split('.') {
        while let Kind::List(item) | Kind::Map(_, item) = within.kind {
            within = item.target;
        }
        if !out.is_empty() {
            out.push('.');
        }
        match within.members().iter().find(|member| member.name == name) {
            Some(member) => {
                out.push_str(&request_name(style, member));
                within = member.target;
            }
            None => out.push_str(name),
        }
    }
    out
}

struct Recorder {
    path: String,
    found: Vec<String>,
    /// The next value is an item of a list or map, which adds nothing to the path.
    unnamed: bool,
}

impl Recorder {
    fn end(&mut self, member: &'static Member) {
        self.below(member, |_| {});
    }

    /// Runs `inside` with the member's path; records it if nothing below is recorded.
    fn below(&mut self, member: &'static Member, inside: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        let unnamed = self.unnamed;
        if !unnamed {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(member.name);
        }
        let before = self.found.len();
        inside(self);
        if self.found.len() == before {
            self.found.push(self.path.clone());
        }
        self.unnamed = unnamed;
        self.path.truncate(length);
    }
}

impl Encoder for Recorder {
    fn string(&mut self, member: &'static Member, _: &str) {
        self.end(member);
    }
    fn integer(&mut self, member: &'static Member, _: i64) {
        self.end(member);
    }
    fn boolean(&mut self, member: &'static Member, _: bool) {
        self.end(member);
    }
    fn double(&mut self, member: &'static Member, _: f64) {
        self.end(member);
    }
    fn float(&mut self, member: &'static Member, _: f32) {
        self.end(member);
    }
    fn blob(&mut self, member: &'static Member, _: &[u8]) {
        self.end(member);
    }
    fn timestamp(&mut self, member: &'static Member, _: Timestamp) {
        self.end(member);
    }
    fn document(&mut self, member: &'static Member, _: &Document) {
        self.end(member);
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        self.below(member, |recorder| {
            recorder.unnamed = false;
            value.encode(recorder);
        });
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        let Kind::List(item) = member.target.kind else { return };
        self.below(member, |recorder| {
            recorder.unnamed = true;
            value.encode_items(item, recorder);
        });
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        let Kind::Map(_, item) = member.target.kind else { return };
        self.below(member, |recorder| {
            recorder.unnamed = true;
            value.encode_entries(item, recorder);
        });
    }
    fn key(&mut self, _: &str) {}
}
