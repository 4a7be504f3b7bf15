//! Fixtures that the real-stack tests share.
