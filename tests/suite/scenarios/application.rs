//! Faults of the application.

use std::path::PathBuf;

use chom_recovery_tests::chaos;

use crate::site::{Fault, Seen, Site};

pub(crate) const KILLED_PHP_FPM: Fault = Fault {
    name: "killed-php-fpm",
    needs_root: false,
    make: |site| chaos::kill(site.stack(), "app"),
    is_effective: |site| site.http() == Seen::Status(502),
    mend: |site| site.compose(&["start", "app"]),
};

/// The workers of php-fpm hang: its port takes connections, and nobody answers.
pub(crate) const DEAD_UPSTREAM: Fault = Fault {
    name: "dead-upstream",
    needs_root: false,
    make: |site| site.signal("app", "php-fpm", "STOP"),
    is_effective: |site| site.http() == Seen::Nothing,
    mend: |site| site.signal("app", "php-fpm", "CONT"),
};

pub(crate) const SYNTAX_ERROR: Fault = Fault {
    name: "syntax-error",
    needs_root: false,
    make: |site| {
        site.edit(&controller(site), "return response()->json([", "return response()->json([[[");
        site.compose(&["restart", "app"]);
    },
    is_effective: |site| site.http() == Seen::Status(500),
    mend: |site| {
        site.unedit(&controller(site));
        site.compose(&["restart", "app"]);
    },
};

/// A value with a space and without quotes: a slip of an editor.
pub(crate) const BROKEN_ENVIRONMENT: Fault = Fault {
    name: "broken-environment",
    needs_root: false,
    make: |site| {
        let slip = "cd /run/chom && cp -p app.env app.env.kept && printf 'APP_TITLE=two words\\n' >>app.env";
        chaos::shell(site.stack(), "app", slip);
    },
    is_effective: |site| site.http() == Seen::Status(500),
    mend: |site| {
        chaos::shell(site.stack(), "app", "cd /run/chom && cat app.env.kept >app.env && rm app.env.kept");
    },
};

fn controller(site: &Site) -> PathBuf {
    site.stack().site.join("app/app/Http/Controllers/StatusController.php")
}
