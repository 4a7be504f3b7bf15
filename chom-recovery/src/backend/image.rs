//! Images: what containers are made from, and how a service is held to one.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// An image on the Engine's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Id: the digest of its configuration, or of its manifest where the Engine keeps images in containerd.
    pub id: String,
    /// Names by which a registry gives out the same bytes, as `repository@sha256:…`; empty for one that was built here.
    pub digests: Vec<String>,
}

/// Images that services are held to, whatever the project's own files say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// Compose file that is written for it. The containers' labels name it from then on.
    pub file: PathBuf,
    /// Service to image id.
    pub images: BTreeMap<String, String>,
}

impl Pins {
    /// What such files are called: one that is gone is not missed in a project's list of files.
    pub const FILE: &str = "chom-recovery-images.yaml";

    /// Returns the content of the file. Nothing is pulled, and nothing built.
    pub(crate) fn text(&self) -> String {
        let services: BTreeMap<_, _> = self
            .images
            .iter()
            .map(|(service, image)| (service, serde_json::json!({ "image": image, "pull_policy": "never" })))
            .collect();
        // YAML takes JSON, and no name can end a string in it.
        serde_json::json!({ "services": services }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_held_to_an_image_that_is_never_pulled() {
        let images = [("app".to_owned(), "sha256:00".to_owned())].into();
        let pins = Pins { file: Pins::FILE.into(), images };
        assert_eq!(pins.text(), r#"{"services":{"app":{"image":"sha256:00","pull_policy":"never"}}}"#);
    }
}
