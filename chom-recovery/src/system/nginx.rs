//! Where the web server's files lie, among what is backed up.

use serde::{Deserialize, Serialize};

use super::{Component, System, TreeKind};
use crate::error::{Error, ErrorKind, Result};

/// The web server, where it is nginx. Everything is found by itself where there is no choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nginx {
    /// Component that holds its configuration. Default: the one of kind `config` whose folder is said by the web service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Component that holds its certificates and keys. Default: the one of kind `certificates`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
}

impl System {
    /// Returns the component that holds the web server's configuration.
    pub fn nginx_configuration(&self) -> Option<&Component> {
        self.named(self.nginx.configuration.as_deref(), |component| {
            component.kind == TreeKind::Config && component.service.as_ref() == Some(&self.application.web_service)
        })
    }

    /// Returns the component that holds the web server's certificates.
    pub fn nginx_certificates(&self) -> Option<&Component> {
        self.named(self.nginx.certificates.as_deref(), |component| component.kind == TreeKind::Certificates)
    }

    /// The component of that name, or the only one that fits.
    fn named(&self, name: Option<&str>, fits: impl Fn(&Component) -> bool) -> Option<&Component> {
        if let Some(name) = name {
            return self.components.iter().find(|c| c.name == name);
        }
        let mut fitting = self.components.iter().filter(|c| fits(c));
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// Refuses names of components that are not configured.
    pub(super) fn check_nginx(&self) -> Result<()> {
        for (key, name) in [("configuration", &self.nginx.configuration), ("certificates", &self.nginx.certificates)] {
            if let Some(name) = name
                && !self.components.iter().any(|c| c.name == *name)
            {
                let what = format!("configuration: `nginx.{key}` = `{name}` is none of the `components`");
                return Err(Error::new(ErrorKind::InvalidInput, what).hint("name one, or add it as `[[components]]`"));
            }
        }
        Ok(())
    }
}
