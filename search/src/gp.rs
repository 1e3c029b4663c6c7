//! A Gaussian process with many outputs that share one kernel.
//!
//! The kernel is Matérn-5/2 with a length per coefficient and a nugget; its parameters maximise the marginal likelihood
//! of all outputs at once. The outputs' covariance is free (the intrinsic coregionalisation model): it is estimated
//! from the residuals, has at most as many dimensions as there are points, and is never formed.

mod binomial;
mod fit;
mod kernel;
mod minimise;
mod posterior;

pub use binomial::{BinomialGp, BinomialKernel, LatentDraws, Sites, Threshold, fit as fit_binomial};
pub use fit::fit;
pub(crate) use fit::{fit_some, spread};
pub use kernel::Kernel;
pub(crate) use kernel::exp_of_negative;
pub(crate) use posterior::conditioned;
pub use posterior::{Gp, GpError, Prediction};
