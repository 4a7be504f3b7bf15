//! A step hears what a person says of it, and looks once more.

use serde_json::Value;

use super::{Observed, RECONCILE_TIMEOUT, Step, StepOutput, guarded};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        from_recorded,
        ledger::StepEntry,
        record::Verdict,
        resolve::{OutputSource, Word},
        to_recorded,
    },
};

impl<T: StepOutput> Step<T> {
    /// Weighs a person's word against what can be seen. Returns the output that is to be recorded.
    pub(super) async fn weigh(&mut self, path: &str, known: &StepEntry, word: Word) -> Result<(Value, OutputSource)> {
        let limit = self.timeout.unwrap_or(RECONCILE_TIMEOUT);
        let seen = match &self.reconcile {
            Some(reconcile) => match guarded(reconcile(self.cx(path, known.attempt)), limit).await {
                // What does not answer may tell later. What answers with an error tells nothing.
                Err(e) if e.kind().is_transient() => {
                    return Err(e
                        .during(format!("cannot look whether `{path}` took effect"))
                        .hint("nothing was recorded; bring back what does not answer, then say it again"));
                }
                other => other.unwrap_or_else(|e| Observed::CannotTell(e.to_string())),
            },
            None => Observed::CannotTell("the step has no way to look".into()),
        };
        match (word.verdict, seen) {
            (Verdict::Applied, Observed::NotApplied) => Err(contradicted(path, "did not take effect")),
            (Verdict::NotApplied, Observed::Applied(_)) => Err(contradicted(path, "took effect")),
            (Verdict::NotApplied, _) => match word.output {
                None => Ok((Value::Null, OutputSource::Nothing)),
                Some(_) => Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("`{path}` is said not to have taken effect, and to have returned something"),
                )),
            },
            (Verdict::Applied, seen) => match (word.output, seen) {
                (Some(given), _) => self.given(path, given),
                (None, Observed::Applied(output)) => recorded(path, &output, OutputSource::Seen),
                (None, _) => self.derived(path, known.attempt).await,
            },
        }
    }

    /// Checks the form of an output that a person typed.
    fn given(&mut self, path: &str, given: Value) -> Result<(Value, OutputSource)> {
        match serde_json::from_value::<T>(given) {
            Ok(output) => recorded(path, &output, OutputSource::Given),
            Err(e) => {
                let error =
                    Error::new(ErrorKind::InvalidInput, format!("step `{path}` returns something of another form"));
                Err(self.with_example(path, error.caused_by(e)).hint("nothing was recorded; correct `--output`"))
            }
        }
    }

    async fn derived(&mut self, path: &str, attempt: u32) -> Result<(Value, OutputSource)> {
        if let Some(derive) = &self.derive {
            let limit = self.timeout.unwrap_or(RECONCILE_TIMEOUT);
            let output = guarded(derive(self.cx(path, attempt)), limit)
                .await
                .map_err(|e| e.during(format!("cannot find out what `{path}` returned")))?;
            return recorded(path, &output, OutputSource::Derived);
        }
        if let Ok(nothing) = from_recorded::<T>(path, Value::Null) {
            return recorded(path, &nothing, OutputSource::Nothing);
        }
        let error = Error::new(
            ErrorKind::InvalidInput,
            format!("what follows `{path}` needs its output, and nothing can tell it"),
        );
        Err(self.with_example(path, error).hint("nothing was recorded; add `--output` with JSON of this form"))
    }

    /// Shows what an output looks like, where the step can predict one.
    fn with_example(&mut self, path: &str, error: Error) -> Error {
        match self.predict.take().map(|predict| to_recorded(path, &predict())) {
            Some(Ok(example)) => error.with("for example", example),
            _ => error.with("form", std::any::type_name::<T>()),
        }
    }
}

fn recorded<T: StepOutput>(path: &str, output: &T, source: OutputSource) -> Result<(Value, OutputSource)> {
    let value = to_recorded(path, output)?;
    Ok((value.clone(), if value.is_null() { OutputSource::Nothing } else { source }))
}

fn contradicted(path: &str, what: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("it can be seen that `{path}` {what}"))
        .hint("nothing was recorded; `chom-recovery resume` sees it as well, and needs nobody's word")
}
