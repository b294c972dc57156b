//! The coverage page: what is served of each service, derived from the operation tables.
//!
//! `docs/operations/README.md` and the table in the README are made by this module; a test fails
//! when they are stale (`GUREUM_UPDATE=1 cargo test -p gureum` writes them anew).

use service::operation::Service;
#[cfg(test)]
use std::fmt::Write as _;

/// All services of the binary.
pub(crate) fn services() -> Vec<Service> {
    vec![
        ec2::service(),
        ec2::ebs_direct::service(),
        ec2::recycle_bin::service(),
        iam::sts_service(),
        dlm::service(),
    ]
}

/// The README's table: a line a service.
#[cfg(test)]
fn summary() -> String {
    let mut text = String::from("| service | served | of |\n| --- | --- | --- |\n");
    for service in services() {
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            service.model.service_id,
            service.operations.len(),
            service.model.operations.len()
        );
    }
    text
}

/// `docs/operations/README.md`.
#[cfg(test)]
fn page() -> String {
    let mut text = String::from(
        "# Operations\n\nGenerated from the operation tables (`GUREUM_UPDATE=1 cargo test -p gureum`). An operation that is not listed answers\n`UnsupportedOperation` and names itself; so does a parameter that is not listed with its operation.\n",
    );
    for service in services() {
        let _ = writeln!(
            text,
            "\n## {}: {} of {}\n\n| operation | parameters that have an effect |\n| --- | --- |",
            service.model.service_id,
            service.operations.len(),
            service.model.operations.len()
        );
        let mut operations = service.operations;
        operations.sort_by_key(|operation| operation.model.name);
        for operation in operations {
            let honours: Vec<String> =
                operation.honours.iter().map(|path| format!("`{path}`")).collect();
            let _ = writeln!(text, "| {} | {} |", operation.model.name, honours.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn check(file: &str, wanted: impl Fn(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = wanted(&found);
        if std::env::var_os("GUREUM_UPDATE").is_some() {
            std::fs::write(&path, wanted).unwrap();
            return;
        }
        assert!(found == wanted, "{file} is stale: GUREUM_UPDATE=1 cargo test -p gureum");
    }

    #[test]
    fn operations_page_is_current() {
        check("docs/operations/README.md", |_| page());
    }

    #[test]
    fn readme_table_is_current() {
        check("README.md", |found| {
            let (begin, end) = ("<!-- coverage: begin -->\n", "<!-- coverage: end -->");
            let start = found.find(begin).expect("README has the marks") + begin.len();
            let stop = found.find(end).expect("README has the marks");
            format!("{}{}{}", &found[..start], summary(), &found[stop..])
        });
    }

    #[test]
    fn every_honoured_path_exists_in_the_model() {
        for service in services() {
            for operation in &service.operations {
                for path in operation.honours {
                    let mut shape = operation.model.input.map(|member| member.target);
                    for name in path.trim_end_matches(".*").split('.') {
                        let members = shape.map(members_of).unwrap_or_default();
                        let member = members.iter().find(|member| member.name == name);
                        assert!(
                            member.is_some(),
                            "{} honours {path}, which its input does not have",
                            operation.model.name
                        );
                        shape = member.map(|member| member.target);
                    }
                }
            }
        }
    }

    fn members_of(shape: &'static wire::Type) -> &'static [wire::Member] {
        match shape.kind {
            wire::Kind::List(item) => members_of(item.target),
            wire::Kind::Map(_, value) => members_of(value.target),
            _ => shape.members(),
        }
    }
}
