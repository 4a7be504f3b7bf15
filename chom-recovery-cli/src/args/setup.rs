//! What a system is set up with: repository, configuration, schedule; and its maintenance mode.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Repo {
    /// Make the repository and its signing key
    Init {
        /// Encryption of the backups; it must be chosen
        #[arg(long, value_enum)]
        encryption: EncryptionChoice,
        #[command(flatten)]
        keys: ReaderKeys,
        /// Pin signer and recipients in the configuration file
        #[arg(long)]
        pin: bool,
    },
    /// Make the second store, `repository.copy` of the configuration, a copy of the repository, without backups yet
    InitCopy,
    /// Change who can read the backups that are made from now on
    Recipients {
        #[command(flatten)]
        keys: ReaderKeys,
        /// Pin them in the configuration file
        #[arg(long)]
        pin: bool,
    },
}

/// Who can read.
#[derive(Debug, Args)]
pub(crate) struct ReaderKeys {
    /// age recipient (age1…) that can read every backup; give at least two
    #[arg(long = "recipient", value_name = "AGE1…")]
    pub(crate) recipients: Vec<String>,
    /// Identity file of the recipient that is kept offline: proven to open what is written, and not kept
    #[arg(long, value_name = "FILE")]
    pub(crate) escrow_identity: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EncryptionChoice {
    /// With age, for the recipients given; the host that makes backups cannot read them
    Age,
    /// Stored bytes can be read by everybody who reaches the store
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Write systemd units for this system
    Install {
        /// Only print them
        #[arg(long)]
        print: bool,
        /// Folder for the units
        #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system", conflicts_with = "print")]
        directory: PathBuf,
        /// Program that the units call [default: this one]
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// File that the metrics are written to; none: no timer writes them
        #[arg(long, value_name = "FILE")]
        textfile: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Maintenance {
    /// Switch it on and prove it from outside
    On,
    /// Switch it off
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Write a configuration from a running Compose project
    Init(ConfigInit),
    /// On a machine that has nothing: write the configuration that the newest backup holds, and make a signing key
    Recover(ConfigRecover),
    /// Try everything the configuration names
    Check,
    /// Print the configuration in force
    Show,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigRecover {
    /// Repository or its copy: file:/path, s3://bucket/prefix, sftp://host/path
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,
    /// Key whose backups are believed, in hex, as the card of the system names it; may be given more than once
    #[arg(long = "signer", value_name = "HEX")]
    pub(crate) signers: Vec<String>,
    /// System, where the repository holds several
    #[arg(long, value_name = "ID")]
    pub(crate) system: Option<String>,
    /// State directory, where it is to be another
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// File to write; an existing one is never overwritten
    #[arg(long, default_value = "chom-recovery.toml", value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigInit {
    /// Compose project
    #[arg(long)]
    pub(crate) project: String,
    /// File to write; an existing one is never overwritten
    #[arg(long, default_value = "chom-recovery.toml", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Repository: file:/path, s3://bucket/prefix, sftp://host/path
    #[arg(long, value_name = "URL")]
    pub(crate) repository: Option<String>,
    /// State directory
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// File with the password of the database account
    #[arg(long, value_name = "FILE")]
    pub(crate) database_password_file: Option<PathBuf>,
    /// URL that answers 200 when the application works
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// CA certificates to trust for it, besides the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Address to connect to instead of what the URL's name resolves to
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) connect_to: Option<SocketAddr>,
}
