//! A bell of the prober: a worker rings it after something that the prober should see soon. Many rings before it looks
//! cost one system call.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::Doorbell;

#[derive(Debug)]
pub struct Bell {
    pub doorbell: Doorbell,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> std::io::Result<Bell> {
        Ok(Bell {
            doorbell: Doorbell::new()?,
            rung: AtomicBool::new(false),
        })
    }

    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.doorbell.ring();
        }
    }

    /// The prober is about to look at everything.
    pub fn silence(&self) {
        self.doorbell.silence();
        self.rung.store(false, Ordering::Release);
    }
}
