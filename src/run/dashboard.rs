//! The library's dashboard, or what stands in its place without the feature.

#[cfg(feature = "dashboard")]
pub use crate::watch::Dashboard;

#[cfg(not(feature = "dashboard"))]
pub use absent::Dashboard;

#[cfg(not(feature = "dashboard"))]
mod absent {
    use std::ops::ControlFlow;

    use crate::error::{Error, Result};
    use crate::watch::Record;

    /// There is none.
    pub enum Dashboard {}

    impl Dashboard {
        pub fn new() -> Result<Self> {
            Err(Error::Unsupported {
                what: "--dashboard in this build".into(),
                instead: "build with --features dashboard".into(),
            })
        }

        pub fn title(self, _: String) -> Self {
            self
        }

        pub fn update(&mut self, _: &Record) -> Result<ControlFlow<()>> {
            match *self {}
        }

        pub fn poll(&mut self) -> Result<ControlFlow<()>> {
            match *self {}
        }
    }
}
