//! From a request to what a worker takes: template, tokens, limits, stop rules.

mod client_text;
mod lower;
mod model_text;
mod prompt;

pub use lower::{OutputPlan, Prepared};
pub use model_text::{ModelFiles, ModelText, ModelTextError, TemplateFile};
pub use prompt::TextTiming;
