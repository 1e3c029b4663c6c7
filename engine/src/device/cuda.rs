//! What needs CUDA itself: finding devices, their memory, and the engine's own kernels.
//!
//! They are compiled for the device at hand when the first one is launched (NVRTC, a fraction of a second).

use super::merge::{MOST_TERMS, MergeInto};
use super::store::StoreRows;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle_core::{CudaStorage, Device, Layout, Result, Storage, Tensor, bail};
use std::sync::OnceLock;

/// The kernels' source.
const SOURCE: &str = include_str!("kernels.cu");
/// What candle keeps the compiled kernels under.
const MODULE: &str = "avsweep";
/// Threads of one block.
const THREADS: u32 = 256;
/// Elements that one thread takes at a time.
const ELEMENTS: usize = 8;
/// Most blocks: enough to fill any device several times over; each thread goes on from there.
const BLOCKS: usize = 1 << 14;

/// Number of CUDA devices.
pub(super) fn devices() -> std::result::Result<usize, DriverError> {
    Ok(usize::try_from(CudaContext::device_count()?).unwrap_or(0))
}

/// The device's own name, with its memory.
pub(super) fn name(device: &Device) -> Result<String> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    let gib = context.total_mem().w()? as f64 / f64::from(1 << 30);
    Ok(format!("{}, {gib:.0} GiB", context.name().w()?))
}

/// Bytes of the device's memory that are free, and all.
pub(super) fn memory(device: &CudaDevice) -> Result<(usize, usize)> {
    // What was freed goes back from the stream's pool at the next synchronisation only, and counts as taken until then.
    device.cuda_stream().synchronize().w()?;
    device.cuda_stream().context().mem_get_info().w()
}

/// The kernel's table of terms, as `kernels.cu` has it.
#[repr(C)]
struct Terms {
    pointers: [u64; MOST_TERMS],
    factors: [f32; MOST_TERMS],
    types: [u8; MOST_TERMS],
    aligned: [u8; MOST_TERMS],
}

// SAFETY: plain integers and floats in C layout; the pointers are kept alive by whoever launches the kernel.
unsafe impl DeviceRepr for Terms {}

/// Launches the merge of one tensor.
pub(super) fn merge(operation: &MergeInto, storage: &CudaStorage, layout: &Layout) -> Result<()> {
    let device = storage.device.clone();
    let stream = device.cuda_stream();
    let length = layout.shape().elem_count();
    if operation.terms.len() > MOST_TERMS {
        bail!("a sum of {} terms, wanted at most {MOST_TERMS}", operation.terms.len());
    }
    let (out, out_type) = address(storage, layout, &stream)?;
    let held = operation.base.storage_and_layout();
    let (base, base_type) = source(&held.0, held.1, &stream)?;
    let mut terms = Terms {
        pointers: [0; MOST_TERMS],
        factors: [0.0; MOST_TERMS],
        types: [0; MOST_TERMS],
        aligned: [0; MOST_TERMS],
    };
    let mut wide = out.is_multiple_of(16) && base.is_multiple_of(16);
    // Held until the launch: another stream's release must come after it.
    let mut guards = Vec::with_capacity(operation.terms.len());
    for (index, term) in operation.terms.iter().enumerate() {
        let held = term.weights.storage_and_layout();
        let (pointer, kind) = source(&held.0, held.1, &stream)?;
        guards.push(held);
        terms.pointers[index] = pointer;
        terms.factors[index] = term.factor;
        terms.types[index] = kind as u8;
        terms.aligned[index] = u8::from(term.aligned);
        wide &= pointer.is_multiple_of(16);
    }
    let function = device.get_or_load_custom_func("merge", MODULE, ptx(&stream)?)?;
    let config = grid(length.div_ceil(ELEMENTS));
    let (count, wide, length) = (operation.terms.len() as i32, i32::from(wide), length as u64);
    let mut launch = function.builder();
    launch.arg(&out).arg(&out_type).arg(&base).arg(&base_type);
    launch.arg(&terms).arg(&count).arg(&wide).arg(&length);
    // SAFETY: every pointer comes from a live allocation on this stream's device that holds `length` elements of the
    // type passed with it; the destination is exclusively borrowed by the in-place operation.
    unsafe { launch.launch(config) }.w()?;
    Ok(())
}

/// Launches the copy of rows into a cache.
pub(super) fn store_rows(operation: &StoreRows, storage: &CudaStorage, layout: &Layout) -> Result<()> {
    let device = storage.device.clone();
    let stream = device.cuda_stream();
    let (out, out_type) = address(storage, layout, &stream)?;
    let held = [&operation.source, &operation.from, &operation.to].map(Tensor::storage_and_layout);
    let (rows, kind) = source(&held[0].0, held[0].1, &stream)?;
    if kind != out_type {
        bail!("rows are stored between tensors of one type");
    }
    let from = indices(&held[1].0, held[1].1, &stream)?;
    let to = indices(&held[2].0, held[2].1, &stream)?;
    let width = (operation.width()? * if kind == 0 { 2 } else { 1 }) as u64;
    let count = operation.count()? as u64;
    let function = device.get_or_load_custom_func("store_rows", MODULE, ptx(&stream)?)?;
    let mut launch = function.builder();
    launch.arg(&out).arg(&rows).arg(&from).arg(&to).arg(&count).arg(&width);
    // SAFETY: the pointers come from live allocations on this stream's device, the indices from the cache's own plan
    // of its rows; the destination is exclusively borrowed by the in-place operation.
    unsafe { launch.launch(grid((count * width) as usize)) }.w()?;
    Ok(())
}

/// Enough blocks for so many threads' work, within bounds: each thread goes on from its first piece.
fn grid(pieces: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (pieces.div_ceil(THREADS as usize).clamp(1, BLOCKS) as u32, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// The kernels for this device, compiled once per process: all devices of a machine are taken to be of one kind, and
/// what is compiled for one runs on newer ones.
fn ptx(stream: &CudaStream) -> Result<&'static str> {
    static COMPILED: OnceLock<String> = OnceLock::new();
    if let Some(compiled) = COMPILED.get() {
        return Ok(compiled);
    }
    let (major, minor) = stream.context().compute_capability().w()?;
    let options = CompileOptions {
        fmad: Some(false),
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        name: Some("kernels.cu".to_owned()),
        ..CompileOptions::default()
    };
    let compiled = compile_ptx_with_opts(SOURCE, options).w()?.to_src();
    Ok(COMPILED.get_or_init(|| compiled))
}

fn source(storage: &Storage, layout: &Layout, stream: &CudaStream) -> Result<(u64, i32)> {
    match storage {
        Storage::Cuda(storage) => address(storage, layout, stream),
        _ => bail!("merge wants weights on one device"),
    }
}

/// Where u32 indices lie.
fn indices(storage: &Storage, layout: &Layout, stream: &CudaStream) -> Result<u64> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cuda(CudaStorage { slice: CudaStorageSlice::U32(slice), .. }), Some((start, _))) => {
            Ok(first(slice, start, stream))
        }
        _ => bail!("indices are contiguous u32 on the device"),
    }
}

/// The address of an element.
fn first<T>(slice: &CudaSlice<T>, start: usize, stream: &CudaStream) -> u64 {
    // The event that the guard records is for other streams; candle works on one.
    let (pointer, _guard) = slice.device_ptr(stream);
    pointer + (start * size_of::<T>()) as u64
}

/// Where a contiguous tensor's elements lie, and the kernel's number for their type.
fn address(storage: &CudaStorage, layout: &Layout, stream: &CudaStream) -> Result<(u64, i32)> {
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("merge wants contiguous weights") };
    match &storage.slice {
        CudaStorageSlice::F32(slice) => Ok((first(slice, start, stream), 0)),
        CudaStorageSlice::BF16(slice) => Ok((first(slice, start, stream), 1)),
        CudaStorageSlice::F16(slice) => Ok((first(slice, start, stream), 2)),
        _ => bail!("merge wants weights of type f32, bf16 or f16"),
    }
}
