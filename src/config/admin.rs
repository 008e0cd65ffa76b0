//! Reads `[admin]`, and knows where the admin socket is when the file does not say: office and commands must agree on it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::desk::Desk;
use super::measure::Refusal;
use super::place::http_bind;
use super::plan::AdminPlan;
use super::section::{Section, Value};

/// sun_path of unix(7), with the closing zero.
const PATH_BYTES_MAX: usize = 107;

pub(super) fn read_admin(desk: &mut Desk<'_>, mut table: Section) -> AdminPlan {
    let default = Some((Ipv4Addr::LOCALHOST, 9901).into());
    let plan = AdminPlan {
        bind: table.read(desk, "bind", http_bind).unwrap_or(default),
        socket: table.read(desk, "socket", socket).flatten(),
    };
    table.finish(desk);
    plan
}

fn socket(value: &Value) -> Result<Option<PathBuf>, Refusal> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text)
            if text.starts_with('/')
                && !text.ends_with('/')
                && !text.contains('\0')
                && text.len() <= PATH_BYTES_MAX =>
        {
            Ok(Some(PathBuf::from(text)))
        }
        _ => Refusal::allowed(format!(
            "a path that begins with / and has at most {PATH_BYTES_MAX} bytes, or \"\" for the usual place"
        )),
    }
}

/// Where the admin socket is: where the file says, else `admin.sock` in `$RUNTIME_DIRECTORY` (systemd's `RuntimeDirectory=`;
/// the first, if there are several), else in `$XDG_RUNTIME_DIR/ringway`, else nowhere.
#[must_use]
pub fn admin_socket(
    plan: &AdminPlan,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    if let Some(path) = &plan.socket {
        return Some(path.clone());
    }
    let folder = |name: &str| environment(name).filter(|value| value.starts_with('/'));
    let service =
        folder("RUNTIME_DIRECTORY").and_then(|value| value.split(':').next().map(PathBuf::from));
    let user = || folder("XDG_RUNTIME_DIR").map(|value| PathBuf::from(value).join("ringway"));
    let folder = service.or_else(user)?;
    Some(folder.join("admin.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_first_then_the_service_then_the_user() {
        let all = |name: &str| match name {
            "RUNTIME_DIRECTORY" => Some("/run/ringway:/run/other".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".to_owned()),
            _ => None,
        };
        let user = |name: &str| all(name).filter(|_| name == "XDG_RUNTIME_DIR");
        let mut plan = AdminPlan::default();
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(admin_socket(&plan, &all), path("/run/ringway/admin.sock"));
        assert_eq!(
            admin_socket(&plan, &user),
            path("/run/user/1000/ringway/admin.sock")
        );
        assert_eq!(admin_socket(&plan, &|_| None), None);
        assert_eq!(admin_socket(&plan, &|_| Some(String::new())), None);
        plan.socket = path("/x.sock");
        assert_eq!(admin_socket(&plan, &all), path("/x.sock"));
    }
}
