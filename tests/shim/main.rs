//! The shim inside real programs: compiled here, run natively and under the shim, compared.

mod binary;
mod launch;
mod programs;
