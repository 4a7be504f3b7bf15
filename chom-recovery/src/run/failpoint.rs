//! Places where a test may end the process.
//!
//! Without feature `testing` a place is nothing at all.

/// Passes a named place.
#[cfg(not(feature = "testing"))]
#[inline]
pub(crate) fn hit(_place: &str) {}

/// Passes a named place: calls the hook that a test installed.
#[cfg(feature = "testing")]
pub fn hit(place: &str) {
    let hook = HOOK.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(hook) = hook.as_ref() {
        hook(place);
    }
}

#[cfg(feature = "testing")]
type Hook = Box<dyn Fn(&str) + Send + Sync>;

#[cfg(feature = "testing")]
static HOOK: std::sync::RwLock<Option<Hook>> = std::sync::RwLock::new(None);

/// Installs what every place of this process calls.
#[cfg(feature = "testing")]
pub fn install(hook: impl Fn(&str) + Send + Sync + 'static) {
    *HOOK.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Box::new(hook));
}
