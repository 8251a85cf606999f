//! Texts decoded by pure models, some of them adversarial.

mod models;
mod modes;
mod oracle;
mod reopen;
mod threshold;
mod window;
