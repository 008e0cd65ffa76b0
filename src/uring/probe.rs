//! Which of the kernel's features this process may use: tried on a throwaway ring, since a probe tells opcodes, not
//! flags. What the floor (Linux 6.1) has is required; what came later is used where it is found, unless masked.

use io_uring::IoUring;

use super::door::StartError;
use super::ops;

/// A comma-separated list of feature names that are treated as absent, for tests.
pub const MASK_VARIABLE: &str = "RINGWAY_MASK";

/// Optional features of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `no-sqarray` (6.6): submissions without an index array.
    pub no_sqarray: bool,
    /// `no-iowait` (6.15): a worker that waits for clients is idle, and does not show as a core that waits for a disk.
    pub no_iowait: bool,
    /// `min-wait` (6.12): a wait for several answers that ends after a while with one.
    pub min_wait: bool,
}

impl Features {
    /// Name and presence of each, for people.
    #[must_use]
    pub fn list(&self) -> [(&'static str, bool); 3] {
        [
            ("no-sqarray", self.no_sqarray),
            ("no-iowait", self.no_iowait),
            ("min-wait", self.min_wait),
        ]
    }

    /// What this kernel has, less what [`MASK_VARIABLE`] takes away.
    ///
    /// # Errors
    /// As [`probe`].
    pub fn found() -> Result<Features, StartError> {
        let mask = std::env::var(MASK_VARIABLE).unwrap_or_default();
        probe().map(|features| features.without(&mask))
    }

    /// What is left after `mask`, a comma-separated list of names.
    #[must_use]
    pub fn without(self, mask: &str) -> Features {
        let masked = |name: &str| mask.split(',').any(|word| word.trim() == name);
        Features {
            no_sqarray: self.no_sqarray && !masked("no-sqarray"),
            no_iowait: self.no_iowait && !masked("no-iowait"),
            min_wait: self.min_wait && !masked("min-wait"),
        }
    }
}

/// Tries the features on a ring of a few entries.
///
/// # Errors
/// If a ring, or something that every supported kernel has, cannot be had.
pub fn probe() -> Result<Features, StartError> {
    let mut builder = IoUring::builder();
    super::build::required_flags(&mut builder);
    let ring = builder
        .build(8)
        .map_err(StartError::at("setting up a ring"))?;
    let mut opcodes = io_uring::Probe::new();
    ring.submitter()
        .register_probe(&mut opcodes)
        .map_err(StartError::at("probing operations"))?;
    if let Some(missing) = ops::OPCODES
        .iter()
        .find(|&&code| !opcodes.is_supported(code))
    {
        let cause = std::io::Error::other(format!("operation {missing} is unknown"));
        return Err(StartError {
            step: "probing operations",
            cause,
        });
    }
    super::build::required_flags(&mut builder);
    builder.setup_no_sqarray();
    let no_sqarray = builder.build(8).is_ok();
    Ok(Features {
        no_sqarray,
        no_iowait: ring.params().is_feature_no_iowait(),
        min_wait: ring.params().is_feature_min_timeout(),
    })
}

/// The running kernel's release, as uname tells it.
#[must_use]
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_the_floor_has() {
        probe().expect("io_uring works where these tests run");
    }

    #[test]
    fn a_mask_takes_features_away_by_name() {
        let all = Features {
            no_sqarray: true,
            no_iowait: true,
            min_wait: true,
        };
        assert_eq!(
            all.without("no-sqarray"),
            Features {
                no_sqarray: false,
                ..all
            }
        );
        let each = "no-sqarray, no-iowait,min-wait";
        assert_eq!(all.without(each), Features::default());
        assert_eq!(all.without(""), all);
    }
}
