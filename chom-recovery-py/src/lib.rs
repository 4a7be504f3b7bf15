//! Python bindings: convert, release the interpreter, call [`chom_recovery::Recovery`], convert.
//!
//! Values cross the border as JSON, in the form that journals and the command line use; the Python package makes
//! typed objects of them. Nothing here decides anything.
//!
//! | module | idea |
//! |---|---|
//! | `recovery` | the facade, method by method |
//! | `ongoing` | a run in a task of its own, which Python waits for and may stop |
//! | `convert` | arguments, answers, exceptions |
//! | `process` | one Tokio runtime for one process: forks and exits |

mod convert;
mod ongoing;
mod process;
mod recovery;

use pyo3::prelude::*;

/// The compiled part of `chom_recovery`; its names may change with every release.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{ongoing::Ongoing, process::shut_down, recovery::NativeRecovery};

    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
