//! Telling a device's lack of memory from other failures.

/// What devices say when an allocation fails. There is no kind for it that all of them share: CUDA's driver, its
/// runtime and cuBLAS each have their own words, and candle hands them on as text.
const SIGNS: [&str; 6] = [
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "memoryallocation",
    "cublas_status_alloc_failed",
    "failed to allocate",
];

/// Whether a failure's text says that the memory did not suffice.
pub(super) fn is_out_of_memory(text: &str) -> bool {
    let text = text.to_lowercase();
    SIGNS.iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_words_for_a_full_memory_are_known_and_other_failures_are_not_taken_for_it() {
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "cudaErrorMemoryAllocation",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "Metal error: failed to allocate a buffer",
        ] {
            assert!(is_out_of_memory(text), "{text}");
        }
        for text in ["CUDA_ERROR_ILLEGAL_ADDRESS", "tensor `x` has shape [3], wanted [4]"] {
            assert!(!is_out_of_memory(text), "{text}");
        }
    }
}
