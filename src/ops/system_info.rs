//! The record of the machine and program of a run, made from facts that the caller has gathered.

use crate::domain::snapshot::SystemInfo;

/// Makes the record. `os_release` is the text of `/etc/os-release`, where there is one.
pub fn system_info(host: &str, user: &str, os_release: Option<&str>) -> SystemInfo {
    SystemInfo {
        host: host.to_owned(),
        user: user.to_owned(),
        os: std::env::consts::OS.to_owned(),
        os_version: os_release.and_then(pretty_name).unwrap_or_default(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// `PRETTY_NAME`, or else `NAME` and `VERSION_ID`, of an os-release file.
fn pretty_name(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        os_release.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix('=')?.trim();
            let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
            Some(quoted.unwrap_or(value).to_owned()).filter(|v| !v.is_empty())
        })
    };
    field("PRETTY_NAME").or_else(|| match (field("NAME"), field("VERSION_ID")) {
        (Some(name), Some(version)) => Some(format!("{name} {version}")),
        (name, _) => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let debian = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n";
        let info = system_info("web1", "app", Some(debian));
        assert_eq!(info.os_version, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!((info.host.as_str(), info.user.as_str(), info.os.as_str()), ("web1", "app", std::env::consts::OS));
        assert_eq!(info.tool_version, env!("CARGO_PKG_VERSION"));
        assert_eq!(system_info("h", "u", Some("NAME=Alpine\nVERSION_ID=3.20")).os_version, "Alpine 3.20");
        assert_eq!(system_info("h", "u", Some("NAME=Void")).os_version, "Void");
        assert_eq!(system_info("h", "u", None).os_version, "");
    }
}
