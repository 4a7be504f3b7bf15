//! Backups: taken, listed, proven, copied, kept, looked into.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Which;

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Take a backup of the running system
    Create {
        /// Component; may be given more than once [default: the database and every one that is configured]
        #[arg(long = "component", value_name = "NAME")]
        components: Vec<String>,
        /// Tag to find it by; may be given more than once
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// Compression of the parts
        #[arg(long, value_enum, default_value_t = CompressionChoice::Zstd)]
        compression: CompressionChoice,
        /// logical: rows and definitions, into newer servers too, and table by table; physical: the data files, much faster
        /// back, into the same release series
        #[arg(long, value_enum, default_value_t = KindChoice::Logical)]
        kind: KindChoice,
    },
    /// List backups, newest last
    List {
        /// Only those with this tag
        #[arg(long)]
        tag: Option<String>,
    },
    /// Show one backup
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Read every byte of a backup and prove it
    Verify {
        #[command(flatten)]
        which: Which,
        /// l1: hashes of the stored bytes, needs no key; l2: decrypted, decompressed and parsed to the end as well; l3: a
        /// drill, beside production
        #[arg(long, value_enum, default_value_t = Depth::L2)]
        depth: Depth,
    },
    /// List the tables, rows and other objects of a backup's database, without a server
    Contents {
        #[command(flatten)]
        which: Which,
    },
    /// Write a logical backup as a plain SQL file that `mysql` and `mariadb` read
    Export {
        #[command(flatten)]
        which: Which,
        /// File: `.sql`, `.sql.gz` or `.sql.zst`; `-` is standard output, uncompressed
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Write accounts too, as comments; they hold the hashes of passwords
        #[arg(long)]
        accounts: bool,
        /// Take the place of a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Copy backups into the second store, and read them back there; needs no key
    Copy {
        /// By id, or its unique beginning [default: all that the copy lacks]
        #[arg(long, value_name = "ID")]
        backup: Option<String>,
    },
    /// Keep a backup, whatever the policy says, until it is released
    Hold {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
    },
    /// End a hold
    Release {
        #[command(flatten)]
        which: Which,
        /// The hold that ends; needed where there are several
        #[arg(long, value_name = "ID")]
        hold: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Say whether the newest backup is young enough and verified
    Status,
}

/// For the record.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) because: String,
    /// Name of the person, for the record [default: $SUDO_USER or $USER]
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CompressionChoice {
    Zstd,
    Gzip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KindChoice {
    Logical,
    Physical,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Depth {
    L1,
    L2,
    L3,
}
