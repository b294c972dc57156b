//! What the model demands of an input: required members, enums, ranges and lengths.
//!
//! Patterns are not checked: they would need a regular-expression engine, and the handlers check
//! the identifiers that matter with AWS's own words. The first violation in member order is
//! answered by EC2, all of them (up to ten) by the others.

use crate::schema::{Constraints, Kind, Member, Protocol, Type, flag};
use crate::shape::{Encoder, List, Map, Shape};
use crate::{Document, Error};
use base::Timestamp;
use std::fmt::Write as _;

/// Checks an input; the error is the one that a service with that protocol answers.
pub fn validate(protocol: Protocol, input: &dyn Shape) -> Result<(), Error> {
    let mut checker = Checker { protocol, path: Vec::new(), violations: Vec::new(), map_key: None };
    checker.members(input);
    if checker.violations.is_empty() {
        return Ok(());
    }
    Err(match protocol {
        Protocol::Ec2 => checker.ec2_error(),
        _ => checker.validation_error(),
    })
}

/// A step on the way to a value.
enum Step {
    Member(&'static Member),
    Index(usize),
    Key(String),
}

enum Broken {
    Missing,
    Enum(&'static [&'static str]),
    AtLeast(f64),
    AtMost(f64),
    LengthAtLeast(f64),
    LengthAtMost(f64),
}

struct Violation {
    path: String,
    /// The innermost member's name, as EC2 writes it in messages.
    parameter: String,
    /// The value, shortened; empty if it is a secret.
    value: String,
    broken: Broken,
}

struct Checker {
    protocol: Protocol,
    path: Vec<Step>,
    violations: Vec<Violation>,
    map_key: Option<String>,
}

/// EC2's messages name parameters with a small first letter: `imageId`.
fn ec2_parameter(member: &Member) -> String {
    let mut name = member.wire_name().to_owned();
    // DNSName and the like stay.
    let is_word = name.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase);
    if let (true, Some(first)) = (is_word, name.get_mut(..1)) {
        first.make_ascii_lowercase();
    }
    name
}

/// The query services name members with a small first letter: `instanceIds.1.member`.
fn lower_first(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}

impl Checker {
    fn members(&mut self, shape: &dyn Shape) {
        for (index, member) in shape.schema().members().iter().enumerate() {
            if member.has(flag::REQUIRED) && !shape.slot(index).is_present() {
                self.path.push(Step::Member(member));
                self.report(String::new(), false, Broken::Missing);
                self.path.pop();
            }
        }
        shape.encode(self);
    }

    fn report(&mut self, value: String, sensitive: bool, broken: Broken) {
        let mut path = String::new();
        let mut parameter = String::new();
        for step in &self.path {
            match step {
                Step::Member(member) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&lower_first(member.name));
                    parameter = ec2_parameter(member);
                }
                Step::Index(index) => {
                    let _ = write!(path, ".{index}.member");
                }
                Step::Key(key) => {
                    let _ = write!(path, ".{key}.member");
                }
            }
        }
        let mut value = if sensitive { "***".to_owned() } else { value };
        if let Some((end, _)) = value.char_indices().nth(256) {
            value.truncate(end);
        }
        self.violations.push(Violation { path, parameter, value, broken });
    }

    fn step(&mut self, member: &'static Member) {
        let step = match (self.path.last_mut(), self.map_key.take()) {
            (_, Some(key)) => Step::Key(key),
            (Some(Step::Index(index)), None) => {
                *index += 1;
                Step::Index(*index)
            }
            _ => Step::Member(member),
        };
        self.path.push(step);
    }

    /// Checks one value. `text` is called only for a violation.
    fn check(&mut self, member: &'static Member, size: Size<'_>, text: &dyn Fn() -> String) {
        self.step(member);
        self.check_here(member.target, member.is_sensitive(), size, text);
        self.path.pop();
    }

    fn check_here(
        &mut self,
        target: &'static Type,
        sensitive: bool,
        size: Size<'_>,
        text: &dyn Fn() -> String,
    ) {
        let Some(Constraints { values, min, max, .. }) = target.constraints else { return };
        let (number, is_length) = match size {
            Size::Enum(value) => {
                if !values.is_empty() && !values.contains(&value) {
                    self.report(text(), sensitive, Broken::Enum(values));
                }
                (value.chars().count() as f64, true)
            }
            Size::Number(number) => (number, false),
            Size::Length(length) => (length as f64, true),
        };
        if let Some(min) = min.filter(|min| number < *min) {
            let broken = if is_length { Broken::LengthAtLeast(min) } else { Broken::AtLeast(min) };
            self.report(text(), sensitive, broken);
        }
        if let Some(max) = max.filter(|max| number > *max) {
            let broken = if is_length { Broken::LengthAtMost(max) } else { Broken::AtMost(max) };
            self.report(text(), sensitive, broken);
        }
    }

    fn ec2_error(&self) -> Error {
        // What is missing is said before what is wrong.
        let missing = self.violations.iter().find(|v| matches!(v.broken, Broken::Missing));
        let Some(first) = missing.or(self.violations.first()) else {
            return Error::new("InternalError", "no violation").with_status(500);
        };
        let Violation { parameter, value, broken, .. } = first;
        let invalid = |why: String| {
            let text = format!("Value ({value}) for parameter {parameter} is invalid. {why}");
            Error::new("InvalidParameterValue", text)
        };
        match broken {
            Broken::Missing => Error::new(
                "MissingParameter",
                format!("The request must contain the parameter {parameter}"),
            ),
            Broken::Enum(values) => {
                invalid(format!("Valid values are: {}.", shorten(&values.join(", "))))
            }
            Broken::AtLeast(min) => invalid(format!("The value must be at least {min}.")),
            Broken::AtMost(max) => invalid(format!("The value must be at most {max}.")),
            Broken::LengthAtLeast(min) => invalid(format!("The length must be at least {min}.")),
            Broken::LengthAtMost(max) => invalid(format!("The length must be at most {max}.")),
        }
    }

    fn validation_error(&self) -> Error {
        let count = self.violations.len();
        let plural = if count == 1 { "" } else { "s" };
        let mut message = format!("{count} validation error{plural} detected: ");
        for (index, Violation { path, value, broken, .. }) in self.violations.iter().enumerate() {
            if index == 10 {
                break;
            }
            if index > 0 {
                message.push_str("; ");
            }
            let value = match broken {
                Broken::Missing => "null".to_owned(),
                _ => format!("'{value}'"),
            };
            let _ = write!(message, "Value {value} at '{path}' failed to satisfy constraint: ");
            let _ = match broken {
                Broken::Missing => write!(message, "Member must not be null"),
                Broken::Enum(values) => {
                    let values = values.join(", ");
                    write!(message, "Member must satisfy enum value set: [{values}]")
                }
                Broken::AtLeast(min) => {
                    write!(message, "Member must have value greater than or equal to {min}")
                }
                Broken::AtMost(max) => {
                    write!(message, "Member must have value less than or equal to {max}")
                }
                Broken::LengthAtLeast(min) => {
                    write!(message, "Member must have length greater than or equal to {min}")
                }
                Broken::LengthAtMost(max) => {
                    write!(message, "Member must have length less than or equal to {max}")
                }
            };
        }
        let code = match self.protocol {
            Protocol::Query => "ValidationError",
            _ => "ValidationException",
        };
        Error::new(code, message)
    }
}

fn shorten(text: &str) -> &str {
    match text.char_indices().nth(500) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

enum Size<'a> {
    Enum(&'a str),
    Number(f64),
    Length(usize),
}

impl Encoder for Checker {
    fn string(&mut self, member: &'static Member, value: &str) {
        self.check(member, Size::Enum(value), &|| value.to_owned());
    }
    fn integer(&mut self, member: &'static Member, value: i64) {
        self.check(member, Size::Number(value as f64), &|| value.to_string());
    }
    fn boolean(&mut self, member: &'static Member, _: bool) {
        self.step(member);
        self.path.pop();
    }
    fn double(&mut self, member: &'static Member, value: f64) {
        self.check(member, Size::Number(value), &|| value.to_string());
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        self.check(member, Size::Number(f64::from(value)), &|| value.to_string());
    }
    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        self.check(member, Size::Length(value.len()), &String::new);
    }
    fn timestamp(&mut self, member: &'static Member, _: Timestamp) {
        self.step(member);
        self.path.pop();
    }
    fn document(&mut self, member: &'static Member, _: &Document) {
        self.step(member);
        self.path.pop();
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        self.step(member);
        self.members(value);
        self.path.pop();
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        let Kind::List(item) = member.target.kind else { return };
        self.step(member);
        let describe = || format!("[{} items]", value.len());
        self.check_here(member.target, member.is_sensitive(), Size::Length(value.len()), &describe);
        self.path.push(Step::Index(0));
        value.encode_items(item, self);
        self.path.pop();
        self.path.pop();
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        let Kind::Map(_, item) = member.target.kind else { return };
        self.step(member);
        let describe = || format!("{{{} entries}}", value.len());
        self.check_here(member.target, member.is_sensitive(), Size::Length(value.len()), &describe);
        value.encode_entries(item, self);
        self.path.pop();
    }
    fn key(&mut self, key: &str) {
        self.map_key = Some(key.to_owned());
    }
}
