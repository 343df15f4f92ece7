//! A few calls to the system for the Python side.

use std::path::PathBuf;

use pyo3::prelude::*;

use plait_sys::{child, cpu, limits, mem};

/// CPUs that this process may use: affinity and container quota.
#[pyfunction]
fn usable_cpus() -> usize {
    cpu::usable_cpus()
}

/// CPU time that this process's container may use: quota and period, in nanoseconds. None without a limit. `root` is where the file
/// system begins.
#[pyfunction]
#[pyo3(signature = (root = PathBuf::from("/")))]
fn cpu_quota(root: PathBuf) -> Option<(u64, u64)> {
    let quota = cpu::cpu_quota(&root)?;
    Some((quota.us.saturating_mul(1000), quota.period_us.saturating_mul(1000)))
}

/// Bytes of memory that this process may use: the machine's, or its container's.
#[pyfunction]
fn usable_memory() -> u64 {
    limits::usable_memory()
}

/// Makes this process adopt what its descendants leave behind.
#[pyfunction]
fn become_subreaper() -> PyResult<()> {
    Ok(child::become_subreaper()?)
}

/// Has this process killed when its parent dies; False when that has happened.
#[pyfunction]
fn die_with_parent(expected_parent: u32) -> PyResult<bool> {
    Ok(child::die_with_parent(expected_parent)?)
}

/// Gives this process a group of its own.
#[pyfunction]
fn own_process_group() -> PyResult<()> {
    Ok(child::own_process_group()?)
}

/// Limits private memory, in bytes.
#[pyfunction]
fn limit_private_memory(bytes: u64) -> PyResult<()> {
    Ok(limits::limit_private_memory(bytes)?)
}

/// Private memory in use, in bytes.
#[pyfunction]
fn private_memory() -> PyResult<u64> {
    Ok(limits::private_memory()?)
}

/// Gives free memory back to the system.
#[pyfunction]
fn trim_memory() {
    mem::trim();
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(usable_cpus, module)?)?;
    module.add_function(wrap_pyfunction!(cpu_quota, module)?)?;
    module.add_function(wrap_pyfunction!(usable_memory, module)?)?;
    module.add_function(wrap_pyfunction!(become_subreaper, module)?)?;
    module.add_function(wrap_pyfunction!(die_with_parent, module)?)?;
    module.add_function(wrap_pyfunction!(own_process_group, module)?)?;
    module.add_function(wrap_pyfunction!(limit_private_memory, module)?)?;
    module.add_function(wrap_pyfunction!(private_memory, module)?)?;
    module.add_function(wrap_pyfunction!(trim_memory, module)?)
}
