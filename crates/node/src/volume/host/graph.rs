//! Which block node lies on which, as QEMU shows it.

use super::chain::{serial, volume_of};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Which block node lies on which.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) names: HashMap<u64, String>,
    /// Parent and name of the edge, to child.
    edges: HashMap<(u64, String), u64>,
}

impl Graph {
    pub(super) fn read(value: &Value) -> Graph {
        let mut graph = Graph::default();
        for node in value["nodes"].as_array().into_iter().flatten() {
            let (id, name) = (node["id"].as_u64(), node["name"].as_str());
            if let (Some(id), Some(name), true) = (id, name, node["type"] == "block-driver") {
                graph.names.insert(id, name.to_owned());
            }
        }
        for edge in value["edges"].as_array().into_iter().flatten() {
            let (parent, child) = (edge["parent"].as_u64(), edge["child"].as_u64());
            if let (Some(parent), Some(child), Some(name)) = (parent, child, edge["name"].as_str())
            {
                graph.edges.insert((parent, name.to_owned()), child);
            }
        }
        graph
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.values().any(|other| other == name)
    }

    /// Whether there is a node of the volume.
    pub(super) fn has_any(&self, volume: &str) -> bool {
        self.names.values().any(|name| volume_of(name).as_deref() == Some(volume))
    }

    /// The node that a filter lies on.
    pub(super) fn under(&self, filter: &str) -> Option<&String> {
        let (id, _) = self.names.iter().find(|(_, name)| *name == filter)?;
        self.names.get(self.edges.get(&(*id, "file".to_owned()))?)
    }

    /// Nodes that nothing lies on.
    pub(super) fn unused(&self) -> impl Iterator<Item = &String> {
        let used: HashSet<u64> = self.edges.values().copied().collect();
        self.names.iter().filter(move |(id, _)| !used.contains(id)).map(|(_, name)| name)
    }

    /// Numbers of the layers under a volume's filter, lowest first.
    pub(super) fn layers(&self, volume: &str) -> Vec<u32> {
        let filter = serial(volume);
        let prefix = format!("{filter}-");
        let mut here = self.names.iter().find(|(_, name)| **name == filter).map(|(id, _)| *id);
        let mut layers = Vec::new();
        // A chain has no more nodes than there are.
        for _ in 0..=self.names.len() {
            let Some(id) = here else { break };
            let name = self.names.get(&id).map_or("", String::as_str);
            let number = name.strip_prefix(&prefix).and_then(|number| number.parse::<u32>().ok());
            layers.extend(number);
            let child = |edge: &str| self.edges.get(&(id, edge.to_owned())).copied();
            here = match number {
                Some(_) => child("backing"),
                // A filter, ours or that of a job.
                None => child("file").or_else(|| child("backing")),
            };
        }
        layers.reverse();
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layers_are_read_off_the_graph() {
        // As QEMU shows it while a commit runs: the job's own filter lies on layer 1.
        let graph = Graph::read(&json!({
            "nodes": [
                { "id": 1, "name": "/machine/peripheral/vol0a/virtio-backend", "type": "block-backend" },
                { "id": 2, "name": "vol0a", "type": "block-driver" },
                { "id": 3, "name": "vol0a-2", "type": "block-driver" },
                { "id": 4, "name": "vol0a-2f", "type": "block-driver" },
                { "id": 5, "name": "#block123", "type": "block-driver" },
                { "id": 6, "name": "vol0a-1", "type": "block-driver" },
                { "id": 7, "name": "vol0a-0", "type": "block-driver" },
                { "id": 8, "name": "vol0a-3", "type": "block-driver" },
            ],
            "edges": [
                { "parent": 1, "child": 2, "name": "root" },
                { "parent": 2, "child": 3, "name": "file" },
                { "parent": 3, "child": 4, "name": "file" },
                { "parent": 3, "child": 5, "name": "backing" },
                { "parent": 5, "child": 6, "name": "backing" },
                { "parent": 6, "child": 7, "name": "backing" },
            ],
        }));
        assert_eq!(graph.layers("vol-0a"), [0, 1, 2]);
        assert_eq!(graph.layers("vol-0b"), [] as [u32; 0]);
        assert_eq!(graph.under("vol0a").map(String::as_str), Some("vol0a-2"));
        assert!(graph.has_any("vol-0a") && !graph.has_any("vol-0b"));
        assert_eq!(graph.unused().collect::<Vec<_>>(), ["vol0a-3"], "what a cut left");
    }
}
