//! Which device an engine computes on.

use crate::EngineError;
use std::fmt;
use std::str::FromStr;

/// A device as it is asked for: `auto`, `cpu`, `cuda:N`, or `candle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device where this program can use one, else the CPU.
    #[default]
    Auto,
    /// The CPU, by the engine's own kernels.
    Cpu,
    /// The CPU, by the code for devices over candle's tensors: slow, for comparison.
    Candle,
    /// A CUDA device by its number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "candle" => Ok(Self::Candle),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}`, wanted auto, cpu, cuda:N or candle")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Candle => formatter.write_str("candle"),
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

/// An opened device. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// The engine's own CPU kernels where `None`.
    pub(crate) tensors: Option<candle_core::Device>,
    /// Number and name of a CUDA device.
    cuda: Option<(usize, String)>,
}

impl Device {
    /// The CPU, by the engine's own kernels.
    pub fn cpu() -> Self {
        Self::default()
    }

    /// Opens a device.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`] when a CUDA device is asked for that is not there, or that this program cannot use.
    pub fn open(choice: DeviceChoice) -> Result<Self, EngineError> {
        match choice {
            DeviceChoice::Auto if cuda_devices() > 0 => open_cuda(0),
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Self::cpu()),
            DeviceChoice::Candle => Ok(Self { tensors: Some(candle_core::Device::Cpu), cuda: None }),
            DeviceChoice::Cuda(number) => open_cuda(number),
        }
    }

    /// Whether it is a device of its own beside the CPU.
    pub fn is_accelerator(&self) -> bool {
        self.cuda.is_some()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cuda, &self.tensors) {
            (Some((number, name)), _) => write!(formatter, "cuda:{number}, {name}"),
            (None, Some(_)) => formatter.write_str("cpu through candle"),
            (None, None) => formatter.write_str("cpu"),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    super::cuda::devices().unwrap_or(0)
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> usize {
    0
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<Device, EngineError> {
    let refuse =
        |reason: String| EngineError::NoDevice { wanted: DeviceChoice::Cuda(number).to_string(), reason };
    let found = super::cuda::devices().map_err(|error| refuse(format!("the CUDA driver says: {error}")))?;
    if number >= found {
        return Err(refuse(format!("this machine has {found} CUDA device(s), counted from 0")));
    }
    let device = candle_core::Device::new_cuda(number).map_err(|error| refuse(error.to_string()))?;
    let name = super::cuda::name(&device).map_err(|error| refuse(error.to_string()))?;
    Ok(Device { tensors: Some(device), cuda: Some((number, name)) })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(number: usize) -> Result<Device, EngineError> {
    Err(EngineError::NoDevice {
        wanted: DeviceChoice::Cuda(number).to_string(),
        reason: "this program was built without CUDA; build it with `--features cuda`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for choice in [
            DeviceChoice::Auto,
            DeviceChoice::Cpu,
            DeviceChoice::Candle,
            DeviceChoice::Cuda(0),
            DeviceChoice::Cuda(7),
        ] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = wrong.parse::<DeviceChoice>().expect_err("not a device");
            assert!(error.contains(wrong) && error.contains("cuda:N"), "{error}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_cuda_says_how_to_build_one_with_it() {
        let error = Device::open(DeviceChoice::Cuda(3)).expect_err("not built with CUDA").to_string();
        assert!(error.contains("cuda:3") && error.contains("--features cuda"), "{error}");
        assert!(!Device::open(DeviceChoice::Auto).expect("there is always a CPU").is_accelerator());
    }
}
