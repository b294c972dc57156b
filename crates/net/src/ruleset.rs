//! nftables objects as values, and the batch that turns one state into the next.
//!
//! One batch is one transaction of the kernel: it happens or it does not. Base chains are never
//! deleted and made again, because between the two hooks a packet could pass neither; their rules
//! are replaced instead, and the kernel reads its generation once a chain, so a packet is judged by
//! the old rules or by the new ones.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Family and name; the table is always [`crate::names::TABLE`].
pub type Key = (Family, String);

/// The families that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// ARP packets.
    Arp,
    /// IP packets.
    Inet,
}

impl Family {
    /// As nft writes it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Arp => "arp",
            Family::Inet => "inet",
        }
    }
}

/// A chain: rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `filter hook prerouting priority -300` of a base chain.
    pub hook: Option<&'static str>,
    /// Rules as nft text.
    pub rules: Vec<String>,
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Declaration: `type ipv4_addr;` or `type ifname : verdict;`; a colon makes it a map.
    pub kind: String,
    /// Key to value; sets have empty values.
    pub elements: BTreeMap<String, String>,
}

impl Set {
    fn keyword(&self) -> &'static str {
        if self.kind.contains(':') { "map" } else { "set" }
    }

    /// Whether the kernel fills it: what it has counted must outlive a daemon.
    fn is_dynamic(&self) -> bool {
        self.kind.contains("dynamic")
    }
}

/// All chains and sets of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<Key, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Key, Set>,
}

/// What a namespace holds before a batch.
#[derive(Clone, Debug)]
pub enum Before<'a> {
    /// This, because we put it there.
    Known(&'a Ruleset),
    /// Objects of which only the names are known, because another process put them there.
    Found(&'a [Found]),
}

/// An object that stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `chain`, `set` or `map`.
    pub object: String,
    /// Family and name.
    pub key: Key,
    /// Whether it is a chain with a hook.
    pub base_chain: bool,
}

impl Ruleset {
    /// Text for `nft -f -`; empty when nothing changes.
    pub fn batch(&self, before: Before<'_>) -> String {
        let nothing = Ruleset::default();
        let mut text = String::new();
        let old = match before {
            Before::Known(old) => {
                if old.chains.is_empty() && old.sets.is_empty() {
                    add_tables(&mut text);
                }
                old
            }
            Before::Found(found) => {
                add_tables(&mut text);
                self.clear(found, &mut text);
                &nothing
            }
        };
        self.declare(old, &mut text);
        let changes = self.changed_elements(old);
        for (key, Changed { gone, .. }) in &changes {
            list(&mut text, "delete", key, gone.iter().map(|element| (*element).to_owned()));
        }
        self.fill_chains(old, &mut text);
        for (key, Changed { new, .. }) in &changes {
            let new = new.iter().map(|(element, value)| {
                if value.is_empty() {
                    (*element).to_owned()
                } else {
                    format!("{element} : {value}")
                }
            });
            list(&mut text, "add", key, new);
        }
        self.remove(old, &mut text);
        text
    }

    fn clear(&self, found: &[Found], text: &mut String) {
        for family in [Family::Inet, Family::Arp] {
            line(text, format_args!("flush table {} {}", family.name(), crate::names::TABLE));
        }
        // Maps hold references to chains: they go first.
        for wanted in ["map", "set", "chain"] {
            for Found { object, key, base_chain } in found.iter().filter(|f| f.object == wanted) {
                let counts = self.sets.get(key).is_some_and(Set::is_dynamic);
                if !(counts || *base_chain && self.chains.contains_key(key)) {
                    line(text, format_args!("delete {object} {}", target(key)));
                }
            }
        }
    }

    fn declare(&self, old: &Ruleset, text: &mut String) {
        for (key, set) in self.sets.iter().filter(|(key, _)| !old.sets.contains_key(*key)) {
            let (keyword, kind) = (set.keyword(), &set.kind);
            line(text, format_args!("add {keyword} {} {{ {kind} }}", target(key)));
        }
        for (key, chain) in self.chains.iter().filter(|(key, _)| !old.chains.contains_key(*key)) {
            let target = target(key);
            match chain.hook {
                // Policy accept: a base chain exists for an instant before its rules do.
                Some(hook) => {
                    line(text, format_args!("add chain {target} {{ type {hook}; policy accept; }}"))
                }
                None => line(text, format_args!("add chain {target}")),
            }
        }
    }

    /// Elements to delete from sets and to add to them.
    fn changed_elements<'a>(&'a self, old: &'a Ruleset) -> BTreeMap<&'a Key, Changed<'a>> {
        static NOTHING: BTreeMap<String, String> = BTreeMap::new();
        let keys: BTreeSet<&Key> = old.sets.keys().chain(self.sets.keys()).collect();
        let elements = |rules: &'a Ruleset, key: &Key| {
            rules.sets.get(key).map_or(&NOTHING, |set| &set.elements)
        };
        keys.into_iter()
            .map(|key| (key, Changed::between(elements(old, key), elements(self, key))))
            .collect()
    }

    fn fill_chains(&self, old: &Ruleset, text: &mut String) {
        let changed =
            |key: &Key, chain: &Chain| old.chains.get(key).map(|c| &c.rules) != Some(&chain.rules);
        for (key, chain) in self.chains.iter().filter(|(key, chain)| changed(key, chain)) {
            if old.chains.contains_key(key) {
                line(text, format_args!("flush chain {}", target(key)));
            }
            for rule in &chain.rules {
                line(text, format_args!("add rule {} {rule}", target(key)));
            }
        }
    }

    fn remove(&self, old: &Ruleset, text: &mut String) {
        let chains: Vec<_> =
            old.chains.keys().filter(|key| !self.chains.contains_key(*key)).collect();
        for key in &chains {
            line(text, format_args!("flush chain {}", target(key)));
        }
        for key in &chains {
            line(text, format_args!("delete chain {}", target(key)));
        }
        for (key, set) in old.sets.iter().filter(|(key, _)| !self.sets.contains_key(*key)) {
            line(text, format_args!("delete {} {}", set.keyword(), target(key)));
        }
    }
}

/// What a set loses and gets; an element with another value does both.
#[derive(Default)]
struct Changed<'a> {
    gone: Vec<&'a str>,
    new: Vec<(&'a str, &'a str)>,
}

impl<'a> Changed<'a> {
    /// One walk along both, since they are in the same order and mostly the same.
    fn between(old: &'a BTreeMap<String, String>, new: &'a BTreeMap<String, String>) -> Self {
        let mut changed = Changed::default();
        let (mut was, mut now) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (was.peek(), now.peek()) {
                (None, None) => return changed,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let gone = if order.is_le() { was.next() } else { None };
            let came = if order.is_ge() { now.next() } else { None };
            if gone.map(|(_, value)| value) != came.map(|(_, value)| value) {
                changed.gone.extend(gone.map(|(element, _)| element.as_str()));
                changed.new.extend(came.map(|(element, value)| (element.as_str(), value.as_str())));
            }
        }
    }
}

fn add_tables(text: &mut String) {
    for family in [Family::Inet, Family::Arp] {
        line(text, format_args!("add table {} {}", family.name(), crate::names::TABLE));
    }
}

fn target((family, name): &Key) -> String {
    format!("{} {} {name}", family.name(), crate::names::TABLE)
}

fn list(text: &mut String, verb: &str, key: &Key, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        line(text, format_args!("{verb} element {} {{ {} }}", target(key), elements.join(", ")));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

/// The objects in the answer of `nft -j -t list ruleset` that belong to our table.
pub fn parse_found(json: &str) -> Result<Vec<Found>, serde_json::Error> {
    let document: serde_json::Value = serde_json::from_str(json)?;
    let mut found = Vec::new();
    for entry in document["nftables"].as_array().into_iter().flatten() {
        for object in ["chain", "set", "map"] {
            let body = &entry[object];
            let (Some(family), Some(name)) = (body["family"].as_str(), body["name"].as_str())
            else {
                continue;
            };
            let family = match family {
                "inet" => Family::Inet,
                "arp" => Family::Arp,
                _ => continue,
            };
            if body["table"] == crate::names::TABLE {
                found.push(Found {
                    object: object.to_owned(),
                    key: (family, name.to_owned()),
                    base_chain: body["hook"].is_string(),
                });
            }
        }
    }
    Ok(found)
}
