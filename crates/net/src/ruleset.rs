//! nftables objects as values, and the batch that turns one state into the next.
//!
//! One batch is one transaction of the kernel: it happens or it does not. Base chains are never
//! deleted and made again, because between the two hooks a packet could pass neither; their rules
//! are replaced instead, and the kernel reads its generation once a chain, so a packet is judged by
//! the old rules or by the new ones.

use std::collections::BTreeMap;
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
            Before::Known(old) if old == self => return text,
            Before::Known(old) => {
                if old == &nothing {
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
        self.remove_elements(old, &mut text);
        self.fill_chains(old, &mut text);
        self.add_elements(old, &mut text);
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

    fn remove_elements(&self, old: &Ruleset, text: &mut String) {
        for (key, was) in &old.sets {
            let now = self.sets.get(key);
            if now.is_some_and(|now| now.elements == was.elements) {
                continue;
            }
            let gone = was.elements.iter().filter(|(element, value)| {
                now.is_none_or(|set| set.elements.get(*element) != Some(value))
            });
            list(text, "delete", key, gone.map(|(element, _)| element.clone()));
        }
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

    fn add_elements(&self, old: &Ruleset, text: &mut String) {
        for (key, set) in &self.sets {
            let was = old.sets.get(key);
            if was.is_some_and(|was| was.elements == set.elements) {
                continue;
            }
            let new = set.elements.iter().filter(|(element, value)| {
                was.is_none_or(|set| set.elements.get(*element) != Some(value))
            });
            list(
                text,
                "add",
                key,
                new.map(|(element, value)| {
                    if value.is_empty() { element.clone() } else { format!("{element} : {value}") }
                }),
            );
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
