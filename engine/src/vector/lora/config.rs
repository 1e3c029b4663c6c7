//! `adapter_config.json`: what an adapter changes, and by how much.

use super::names::{Names, Pattern, module_pattern, python_match};
use crate::EngineError;
use crate::files::JsonFile;
use serde_json::Value;
use std::path::Path;

/// The file's name in an adapter's folder.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// Fields that do not change what an adapter's merged weights are, whatever they say.
const IMMATERIAL: [&str; 21] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "enable_lora",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    // Seen in the tensors themselves.
    "bias",
    "lora_bias",
    "modules_to_tie",
    "target_modules_to_tie",
];

/// Fields that are read here.
const READ: [&str; 15] = [
    "alpha_pattern",
    "ensure_weight_tying",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
    "fan_in_fan_out",
    "use_dora",
];

/// The parts of an adapter's configuration that decide its weights.
pub(super) struct AdapterConfig {
    file: JsonFile,
    rank: usize,
    alpha: f64,
    rank_stabilised: bool,
    targets: Names,
    excluded: Option<Names>,
    /// Ends of the names of modules that are kept whole, and what keeps a module of theirs from being a target.
    saved: Vec<(String, Pattern)>,
    layers: Vec<u64>,
    layer_patterns: Vec<Pattern>,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
    /// Embedding and output head are one matrix in the adapter too.
    pub(super) ties: bool,
}

impl AdapterConfig {
    /// Reads an adapter's configuration.
    ///
    /// # Errors
    /// [`EngineError::Field`] for absent or impossible values; [`EngineError::Unsupported`] for other kinds of adapters
    /// and for whatever would make another merge than `base + scale · B·A` of it.
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        let file = JsonFile::open(&folder.join(CONFIG))?;
        match file.optional_text("peft_type")? {
            Some("LORA") => {}
            Some(_) => return Err(file.unsupported("peft_type", "\"LORA\"")),
            None => return Err(file.wrong("peft_type", "\"LORA\"")),
        }
        refuse_variants(&file)?;
        let targets = match file.get("target_modules") {
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Names::AllLinear,
            _ => names(&file, "target_modules")?
                .ok_or_else(|| file.wrong("target_modules", "a list of module names, or a pattern"))?,
        };
        let saved = texts(&file, "modules_to_save")?
            .into_iter()
            .map(|name| {
                let pattern = module_pattern(&name).map_err(|_| malformed(&file, "modules_to_save"))?;
                Ok((name, pattern))
            })
            .collect::<Result<_, EngineError>>()?;
        let mut layer_patterns: Vec<String> = texts(&file, "layers_pattern")?
            .iter()
            .map(|name| format!(r"(?:^|.*?\.){name}\.(?P<idx>\d+)\."))
            .collect();
        if layer_patterns.is_empty() {
            // The first number that has two names before it.
            layer_patterns.push(r".*?\.[^.]*\.(?P<idx>\d+)\.".to_owned());
        }
        let layer_patterns = layer_patterns
            .iter()
            .map(|pattern| python_match(pattern).map_err(|_| malformed(&file, "layers_pattern")))
            .collect::<Result<_, _>>()?;
        let rank_of = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|rank| *rank > 0);
        let alpha_of = |value: &Value| value.as_f64().filter(|alpha| alpha.is_finite());
        let alpha = file
            .get("lora_alpha")
            .and_then(alpha_of)
            .ok_or_else(|| file.wrong("lora_alpha", "a finite number"))?;
        Ok(Self {
            rank: file.size("r")?,
            alpha,
            rank_stabilised: file.flag("use_rslora")?.unwrap_or(false),
            targets,
            excluded: names(&file, "exclude_modules")?,
            saved,
            layers: layers(&file)?,
            layer_patterns,
            ranks: pattern_values(&file, "rank_pattern", "a positive integer", rank_of)?,
            alphas: pattern_values(&file, "alpha_pattern", "a finite number", alpha_of)?,
            ties: file.flag("ensure_weight_tying")?.unwrap_or(false),
            file,
        })
    }

    /// The error of a configuration that selects nothing of the base.
    pub(super) fn selects_nothing(&self, example: &str) -> EngineError {
        self.file.wrong("target_modules", &format!("modules that this base has, such as {example}"))
    }

    /// Whether a module has factors of its own, as PEFT decides it when an adapter is loaded.
    pub(super) fn targets(&self, module: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|names| names.matches(module))
            || self.saved.iter().any(|(_, pattern)| pattern.matches(module))
        {
            return false;
        }
        match &self.targets {
            Names::List(list) if list.iter().any(|name| name == module) => true,
            // The choice of layers is for modules named by their end alone.
            Names::List(_) => self.targets.matches(module) && self.has_layer(module),
            Names::Pattern(_) | Names::AllLinear => self.targets.matches(module),
        }
    }

    fn has_layer(&self, module: &str) -> bool {
        let layer = || self.layer_patterns.iter().find_map(|pattern| pattern.number(module));
        self.layers.is_empty() || layer().is_some_and(|layer| self.layers.contains(&layer))
    }

    /// Whether a tensor is kept whole: a module of its path ends like one of `modules_to_save`.
    pub(super) fn saves(&self, tensor: &str) -> bool {
        let mut modules = tensor.match_indices('.').map(|(at, _)| &tensor[..at]);
        modules.any(|module| self.saved.iter().any(|(end, _)| module.ends_with(end.as_str())))
    }

    /// Rank of a module's factors, and what their product is multiplied by.
    pub(super) fn rank_and_scale(&self, module: &str) -> (usize, f32) {
        let rank = first_match(&self.ranks, module).unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, module).unwrap_or(self.alpha);
        let by = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        (rank, (alpha / by) as f32)
    }
}

fn first_match<T: Copy>(patterns: &[(Pattern, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value)
}

/// Refuses what would silently be merged in another way than PEFT merges it.
fn refuse_variants(file: &JsonFile) -> Result<(), EngineError> {
    if file.flag("use_dora")? == Some(true) {
        return Err(
            file.unsupported("use_dora", "false: DoRA's magnitudes cannot be scaled by a coefficient")
        );
    }
    if file.flag("fan_in_fan_out")? == Some(true) {
        return Err(file.unsupported("fan_in_fan_out", "false: this base's matrices are [outputs, inputs]"));
    }
    match file.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(kind)) if ["gaussian", "eva", "orthogonal"].contains(&kind.as_str()) => {}
        Some(_) => {
            return Err(file.unsupported(
                "init_lora_weights",
                "true, false, \"gaussian\", \"eva\" and \"orthogonal\"; others change the base's weights too: \
                 convert the adapter to plain LoRA when saving it (path_initial_model_for_weight_conversion)",
            ));
        }
    }
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let known = |field: &str| IMMATERIAL.contains(&field) || READ.contains(&field);
    match file.fields().find(|(field, value)| !known(field) && !empty(value)) {
        None => Ok(()),
        Some((field, _)) => Err(file.unsupported(field, "null, false or empty: plain LoRA")),
    }
}

fn malformed(file: &JsonFile, field: &str) -> EngineError {
    file.wrong(field, "a well-formed regular expression where it is a pattern")
}

/// A list of names, or a pattern over whole names; `None` when absent or empty.
fn names(file: &JsonFile, field: &str) -> Result<Option<Names>, EngineError> {
    match file.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => {
            let pattern = Pattern::whole(text).map_err(|_| malformed(file, field))?;
            Ok(Some(Names::Pattern(pattern)))
        }
        Some(_) => {
            let list = texts(file, field)?;
            Ok((!list.is_empty()).then_some(Names::List(list)))
        }
    }
}

/// A string or a list of strings; empty when absent.
fn texts(file: &JsonFile, field: &str) -> Result<Vec<String>, EngineError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = match file.get(field) {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(value) => text(value).map(|one| vec![one]),
    };
    texts.ok_or_else(|| file.wrong(field, "a list of names"))
}

fn layers(file: &JsonFile) -> Result<Vec<u64>, EngineError> {
    let layers = match file.get("layers_to_transform") {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(Value::as_u64).collect(),
        Some(value) => value.as_u64().map(|layer| vec![layer]),
    };
    layers.ok_or_else(|| file.wrong("layers_to_transform", "a layer's number or a list of them"))
}

fn pattern_values<T>(
    file: &JsonFile,
    field: &str,
    wanted: &str,
    value_of: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Pattern, T)>, EngineError> {
    let wrong = || file.wrong(field, &format!("an object from module names or patterns to {wanted}"));
    let Some(value) = file.get(field) else { return Ok(Vec::new()) };
    let entries = value.as_object().ok_or_else(wrong)?;
    entries
        .iter()
        .map(|(key, value)| {
            // PEFT lets a pattern stand for the end of a name, from a dot on.
            let pattern = python_match(&format!(r"(.*\.)?({key})$")).map_err(|_| malformed(file, field))?;
            Ok((pattern, value_of(value).ok_or_else(wrong)?))
        })
        .collect()
}
