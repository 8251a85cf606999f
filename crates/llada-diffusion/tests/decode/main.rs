//! Texts decoded by pure models, some of them adversarial.

mod models;
mod modes;
mod oracle;
mod threshold;
mod window;
