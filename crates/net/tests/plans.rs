//! Replays tests/plans/net-*.txt: what a plan becomes in nft's language, and what a change changes.
//!
//! A script has one statement a line: `vpc`, `ipv6`, `interface`, `group`, `ingress`, `egress`, `list`,
//! `acl`, `remove`;
//! `apply` prints the batch, `apply quietly` does not. Lines that start with `|` are what the last
//! statement printed. To accept a new output: GUREUM_UPDATE_PLANS=1 cargo test -p net --test plans

use anyhow::{Context, Result, bail, ensure};
use base::network::{
    AclRule, Holder, Interface, NetworkAcl, Peer, PrefixList, Protocol, Rule, SecurityGroup,
    Subnet, Vpc,
};
use net::ruleset::{Before, Ruleset};
use std::fs;
use std::path::Path;

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plans");
    let mut count = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("net-") {
            continue;
        }
        count += 1;
        let script = fs::read_to_string(&path).unwrap();
        let output = replay(&script).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        if std::env::var_os("GUREUM_UPDATE_PLANS").is_some() {
            fs::write(&path, output).unwrap();
        } else if let Some(line) = difference(&script, &output) {
            panic!("{name}:{line} is not what the plan becomes now:\n{output}");
        }
    }
    assert!(count > 0, "no script in {}", directory.display());
}

fn difference(script: &str, output: &str) -> Option<usize> {
    let (mut old, mut new) = (script.lines(), output.lines());
    (1..).find_map(|number| match (old.next(), new.next()) {
        (None, None) => Some(None),
        (one, other) if one != other => Some(Some(number)),
        _ => None,
    })?
}

fn replay(script: &str) -> Result<String> {
    let mut vpc = Vpc {
        id: String::new(),
        region: "us-east-1".into(),
        cidrs: Vec::new(),
        subnets: Vec::new(),
        interfaces: Vec::new(),
        groups: Vec::new(),
        ..Vpc::default()
    };
    let mut applied = Ruleset::default();
    let mut output = String::new();
    for line in script.lines().filter(|line| !line.starts_with('|')) {
        output += line;
        output += "\n";
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.starts_with('#') {
            continue;
        }
        if let ["apply", rest @ ..] = &words[..] {
            let wanted = net::rules::compile(&vpc, &net::surroundings::Surroundings::default());
            let batch = wanted.batch(Before::Known(&applied));
            applied = wanted;
            if rest.is_empty() {
                let nothing = if batch.is_empty() { "nothing\n" } else { "" };
                for line in batch.lines().chain(nothing.lines()) {
                    output += &format!("| {line}\n");
                }
            }
        } else {
            change(&mut vpc, &words).with_context(|| line.to_owned())?;
        }
    }
    Ok(output)
}

fn change(vpc: &mut Vpc, words: &[&str]) -> Result<()> {
    match words {
        ["vpc", id, cidr, "subnet", subnet] => {
            vpc.id = (*id).into();
            vpc.cidrs = vec![cidr.parse()?];
            let mut subnet = Subnet::new("subnet-1", subnet.parse()?);
            subnet.network_acl = "acl-1".into();
            vpc.subnets = vec![subnet];
            vpc.network_acls = vec![open_acl()?];
        }
        ["ipv6", block, subnet] => {
            vpc.ipv6_cidrs = vec![block.parse()?];
            vpc.subnets[0].ipv6_cidr = Some(subnet.parse()?);
        }
        ["list", id, cidrs @ ..] => {
            vpc.prefix_lists.retain(|list| list.id != *id);
            let cidrs = cidrs.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
            vpc.prefix_lists.push(PrefixList { id: (*id).into(), cidrs });
        }
        ["acl", direction, number, verdict @ ("allow" | "deny"), protocol @ .., cidr] => {
            let acl = &mut vpc.network_acls[0];
            let rules = if *direction == "in" { &mut acl.ingress } else { &mut acl.egress };
            rules.push(AclRule {
                number: number.parse()?,
                allow: *verdict == "allow",
                protocol: parse_protocol(protocol)?,
                cidr: cidr.parse()?,
            });
        }
        ["interface", id, address, options @ ..] => {
            let number: u8 = address.rsplit('.').next().unwrap_or_default().parse()?;
            vpc.interfaces.retain(|interface| interface.id != *id);
            let mut interface = Interface {
                id: (*id).into(),
                holder: Holder::Machine(format!("i-{number}")),
                secondary: Vec::new(),
                prefixes: Vec::new(),
                ipv6: Vec::new(),
                ipv6_prefixes: Vec::new(),
                node: None,
                subnet_id: "subnet-1".into(),
                mac: format!("0a:00:00:00:00:{number:02x}"),
                private_ip: address.parse()?,
                public_ip: None,
                hostname: format!("ip-{}.ec2.internal", address.replace('.', "-")),
                groups: Vec::new(),
                source_dest_check: true,
            };
            for option in options {
                match option.split_once('=') {
                    Some(("public", address)) => interface.public_ip = Some(address.parse()?),
                    Some(("groups", list)) => {
                        interface.groups = list.split(',').map(str::to_owned).collect();
                    }
                    Some(("ipv6", list)) => {
                        let list = list.split(',').map(str::parse);
                        interface.ipv6 = list.collect::<Result<_, _>>()?;
                    }
                    Some(("prefix", cidr)) => interface.prefixes = vec![cidr.parse()?],
                    Some(("source-dest-check", "off")) => interface.source_dest_check = false,
                    _ => bail!("what is {option}?"),
                }
            }
            vpc.interfaces.push(interface);
        }
        ["group", id] => {
            vpc.groups.retain(|group| group.id != *id);
            let id = (*id).to_owned();
            vpc.groups.push(SecurityGroup { id, ingress: Vec::new(), egress: Vec::new() });
        }
        [direction @ ("ingress" | "egress"), protocol @ .., peer] => {
            let group = vpc.groups.last_mut().context("no group yet")?;
            let rules =
                if *direction == "ingress" { &mut group.ingress } else { &mut group.egress };
            let peer = match peer.split_once('-') {
                Some(("sg", _)) => Peer::Group((*peer).into()),
                Some(("pl", _)) => Peer::PrefixList((*peer).into()),
                _ => Peer::Cidr(peer.parse()?),
            };
            rules.push(Rule { protocol: parse_protocol(protocol)?, peer });
        }
        ["remove", id] => {
            let count = vpc.interfaces.len() + vpc.groups.len();
            vpc.interfaces.retain(|interface| interface.id != *id);
            vpc.groups.retain(|group| group.id != *id);
            ensure!(vpc.interfaces.len() + vpc.groups.len() < count, "nothing to remove");
        }
        _ => bail!("not a statement"),
    }
    Ok(())
}

/// The default one: everything passes.
fn open_acl() -> Result<NetworkAcl> {
    let rule = |number, cidr: &str| -> Result<AclRule> {
        Ok(AclRule { number, allow: true, protocol: Protocol::All, cidr: cidr.parse()? })
    };
    let rules = vec![rule(100, "0.0.0.0/0")?, rule(101, "::/0")?];
    Ok(NetworkAcl { id: "acl-1".into(), ingress: rules.clone(), egress: rules })
}

fn parse_protocol(words: &[&str]) -> Result<Protocol> {
    let ports = |text: &str| -> Result<(u16, u16)> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        Ok((from.parse()?, to.parse()?))
    };
    Ok(match words {
        ["all"] => Protocol::All,
        ["tcp", text] => {
            let (from, to) = ports(text)?;
            Protocol::Tcp { from, to }
        }
        ["udp", text] => {
            let (from, to) = ports(text)?;
            Protocol::Udp { from, to }
        }
        ["icmpv6", kind] => Protocol::Icmpv6 { kind: Some(kind.parse()?), code: None },
        ["icmp"] => Protocol::Icmp { kind: None, code: None },
        ["icmp", kind] => Protocol::Icmp { kind: Some(kind.parse()?), code: None },
        ["protocol", number] => Protocol::Number(number.parse()?),
        _ => bail!("what protocol is {words:?}?"),
    })
}
