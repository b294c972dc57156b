//! Whether this process may and can change the machine's network.

use crate::{Error, command};
use std::fs;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Says in one error what is missing.
pub(crate) fn check() -> Result<(), Error> {
    let status =
        fs::read_to_string("/proc/self/status").map_err(Error::io("read /proc/self/status"))?;
    let effective = effective(&status).unwrap_or(0);
    for (bit, capability) in [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")] {
        if effective & (1 << bit) == 0 {
            return Err(Error::Privilege { capability });
        }
    }
    command::find("ip", "iproute2")?;
    command::find("nft", "nftables")?;
    let tun = "open /dev/net/tun (is the kernel module tun loaded?)";
    fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(Error::io(tun))?;
    Ok(())
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(super::effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(super::effective("Name:\tx\n"), None);
    }
}
