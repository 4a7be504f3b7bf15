//! Arguments, answers and exceptions.

use chom_recovery::{Error, ErrorKind, ErrorRecord, Result};
use pyo3::{intern, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

/// Reads an argument.
///
/// # Errors
/// `InvalidInput`: it is not of the right form.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, format!("{what} is not of the right form: {e}")))
}

/// Writes an answer.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Failed, "an answer cannot be written as JSON").caused_by(e))
}

/// Makes the Python exception of an error. The classes are Python's: see `chom_recovery/exceptions.py`.
pub(crate) fn raise(error: &ErrorRecord) -> PyErr {
    let text = match serde_json::to_string(error) {
        Ok(text) => text,
        Err(e) => return pyo3::exceptions::PyRuntimeError::new_err(e.to_string()),
    };
    Python::attach(|py| {
        py.import(intern!(py, "chom_recovery.exceptions"))
            .and_then(|module| module.call_method1(intern!(py, "from_json"), (text,)))
            .map_or_else(|e| e, PyErr::from_value)
    })
}

/// Makes an answer or an exception of a result.
pub(crate) fn answer(result: Result<impl Serialize>) -> PyResult<String> {
    result.and_then(|value| to_json(&value)).map_err(|e| raise(&e.to_record()))
}
