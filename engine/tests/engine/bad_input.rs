//! Law 7: bad input gets an error that names file, field or tensor, the value found and the value wanted.

use crate::common::{RandomFamily, Shape, random_weights, write_tensors};
use crate::{SMALL, change_config};
use avsweep_engine::{AlignmentVector, BaseModel, Coefficient, Engine, WeightType};
use serde_json::{Value, json};

/// The complaint about a base whose configuration was changed.
fn with_config(change: impl FnOnce(&mut Value)) -> String {
    let family = RandomFamily::new(&SMALL, 0);
    change_config(&family.base, change);
    BaseModel::open(&family.base).unwrap_err().to_string()
}

/// The complaint about a vector with changed tensors.
fn with_vector(change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) -> String {
    let family = RandomFamily::new(&SMALL, 1);
    let mut weights = random_weights(&SMALL, 7, 0.1);
    change(&mut weights);
    write_tensors(&family.vectors[0], &weights);
    let base = BaseModel::open(&family.base).unwrap();
    AlignmentVector::open(&family.vectors[0], &base).unwrap_err().to_string()
}

/// The complaint about one coefficient.
fn with_pattern(pattern: &str) -> String {
    let family = RandomFamily::new(&SMALL, 1);
    let base = BaseModel::open(&family.base).unwrap();
    let vector = AlignmentVector::open(&family.vectors[0], &base).unwrap();
    let coefficient =
        Coefficient { name: "alpha".to_owned(), vector: 0, tensors: Some(vec![pattern.to_owned()]) };
    Engine::load(base, vec![vector], &[coefficient], WeightType::F32).unwrap_err().to_string()
}

#[track_caller]
fn assert_names(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn unsupported_models_are_refused_by_name() {
    assert_names(
        &with_config(|config| config["architectures"] = json!(["MambaForCausalLM"])),
        &["config.json", "architectures", "MambaForCausalLM", "LlamaForCausalLM"],
    );
    assert_names(
        &with_config(|config| config["rope_scaling"] = json!({"type": "mrope", "mrope_section": [2, 1, 1]})),
        &["config.json", "rope_scaling.type", "mrope", "llama3"],
    );
    assert_names(
        &with_config(|config| {
            config["rope_parameters"] = json!({"rope_type": "proportional", "rope_theta": 1e4});
        }),
        &["rope_parameters.rope_type", "proportional"],
    );
    assert_names(
        &with_config(|config| config["quantization_config"] = json!({"bits": 4})),
        &["quantization_config", "unquantised"],
    );
    assert_names(&with_config(|config| config["mlp_bias"] = json!(true)), &["mlp_bias"]);
    assert_names(
        &with_config(|config| config["hidden_act"] = json!("gelu")),
        &["hidden_act", "\"gelu\"", "silu"],
    );
}

#[test]
fn impossible_fields_are_named_with_value_and_wish() {
    assert_names(
        &with_config(|config| config["hidden_size"] = json!("big")),
        &["config.json", "hidden_size", "\"big\"", "positive integer"],
    );
    assert_names(
        &with_config(|config| config["num_key_value_heads"] = json!(3)),
        &["num_key_value_heads", "3", "divisor of the 4"],
    );
    assert_names(
        &with_config(|config| config["head_dim"] = json!(2_147_483_646)),
        &["head_dim", "2147483646", "at most 65536"],
    );
    assert_names(
        &with_config(|config| config["eos_token_id"] = json!(5000)),
        &["eos_token_id", "5000", "101"],
    );
    assert_names(&with_config(|config| config["rms_norm_eps"] = json!(null)), &["rms_norm_eps", "absent"]);
}

#[test]
fn stop_strings_that_would_stop_everything_are_refused() {
    let family = RandomFamily::new(&SMALL, 0);
    let path = family.base.join("generation_config.json");
    for (value, wanted) in [(json!(["."]), None), (json!("."), None), (json!([""]), Some("not empty"))] {
        std::fs::write(&path, json!({"stop_strings": value}).to_string()).unwrap();
        match (BaseModel::open(&family.base), wanted) {
            (opened, None) => assert_eq!(opened.unwrap().config().stop_strings, ["."]),
            (opened, Some(wanted)) => {
                let error = opened.unwrap_err().to_string();
                assert_names(&error, &["generation_config.json", "stop_strings", wanted]);
            }
        }
    }
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_refused() {
    let large = RandomFamily::new(&Shape { vocab: 150, ..SMALL }, 0);
    let family = RandomFamily::new(&SMALL, 0);
    std::fs::copy(large.base.join("tokenizer.json"), family.base.join("tokenizer.json")).unwrap();
    let error = BaseModel::open(&family.base).unwrap_err().to_string();
    assert_names(&error, &["tokenizer.json", "id 149", "101"]);
}

#[test]
fn missing_files_are_named() {
    for (file, named) in [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("tokenizer_config.json", "chat template"),
        ("model.safetensors", "model.safetensors"),
    ] {
        let family = RandomFamily::new(&SMALL, 0);
        std::fs::remove_file(family.base.join(file)).unwrap();
        assert_names(&BaseModel::open(&family.base).unwrap_err().to_string(), &["base", named]);
    }
}

#[test]
fn a_file_cut_short_is_told_from_a_whole_one_wherever_it_is_cut() {
    let family = RandomFamily::new(&SMALL, 1);
    let base = BaseModel::open(&family.base).unwrap();
    let whole = std::fs::read(&family.vectors[0]).unwrap();
    for length in [0, 5, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&family.vectors[0], &whole[..length]).unwrap();
        let error = AlignmentVector::open(&family.vectors[0], &base).unwrap_err().to_string();
        assert_names(&error, &["vector0.safetensors"]);
        if length >= 8 {
            assert_names(&error, &[&format!("has {length} bytes"), "cut short"]);
        }
    }
    let mut longer = whole;
    longer.push(0);
    std::fs::write(&family.vectors[0], &longer).unwrap();
    let error = AlignmentVector::open(&family.vectors[0], &base).unwrap_err().to_string();
    assert_names(
        &error,
        &["vector0.safetensors", &longer.len().to_string(), &(longer.len() - 1).to_string()],
    );
}

#[test]
fn tensors_missing_misshapen_unknown_or_not_finite_are_named() {
    let name = SMALL.tensors()[3].0.clone();
    assert_names(&with_vector(|weights| drop(weights.remove(3))), &["vector0", &name, "missing", "[20, 40]"]);
    assert_names(
        &with_vector(|weights| weights[3].1 = vec![40, 20]),
        &["vector0", &name, "[40, 20]", "[20, 40]"],
    );
    assert_names(
        &with_vector(|weights| weights.push(("model.extra.weight".to_owned(), vec![1], vec![0.0]))),
        &["vector0", "model.extra.weight", "model.layers.0.self_attn.q_proj.weight"],
    );
    assert_names(
        &with_vector(|weights| weights[3].2[77] = f32::NAN),
        &["vector0", &name, "NaN", "77", "finite"],
    );
    assert_names(&with_vector(|weights| weights[3].2[5] = f32::INFINITY), &[&name, "inf", "element 5"]);
}

#[test]
fn base_weights_are_checked_as_well() {
    let family = RandomFamily::new(&SMALL, 0);
    let path = family.base.join("model.safetensors");
    let mut weights = random_weights(&SMALL, 1, 1.0);
    weights[8].2[0] = f32::NEG_INFINITY;
    write_tensors(&path, &weights);
    assert_names(&BaseModel::open(&family.base).unwrap_err().to_string(), &["model.safetensors", "-inf"]);
    weights.remove(8);
    write_tensors(&path, &weights);
    assert_names(
        &BaseModel::open(&family.base).unwrap_err().to_string(),
        &[&SMALL.tensors()[8].0, "missing"],
    );
}

/// A family whose weights lie in shards `a` (the first six tensors) and `b`, as its index says.
fn sharded() -> (RandomFamily, Vec<(String, Vec<usize>, Vec<f32>)>) {
    let family = RandomFamily::new(&SMALL, 0);
    let weights = random_weights(&SMALL, 1, 1.0);
    std::fs::remove_file(family.base.join("model.safetensors")).unwrap();
    write_tensors(&family.base.join("a.safetensors"), &weights[..6]);
    write_tensors(&family.base.join("b.safetensors"), &weights[6..]);
    let shard = |index| if index < 6 { "a.safetensors" } else { "b.safetensors" };
    write_index(&family, weights.iter().enumerate().map(|(index, (name, ..))| (name.as_str(), shard(index))));
    (family, weights)
}

fn write_index<'a>(family: &RandomFamily, entries: impl Iterator<Item = (&'a str, &'a str)>) {
    let map: serde_json::Map<String, Value> =
        entries.map(|(name, shard)| (name.to_owned(), json!(shard))).collect();
    let path = family.base.join("model.safetensors.index.json");
    std::fs::write(path, json!({"weight_map": map}).to_string()).unwrap();
}

#[track_caller]
fn assert_refused(family: &RandomFamily, parts: &[&str]) {
    assert_names(&BaseModel::open(&family.base).unwrap_err().to_string(), parts);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let (family, weights) = sharded();
    BaseModel::open(&family.base).unwrap();
    write_tensors(&family.base.join("b.safetensors"), &weights[5..]);
    assert_refused(&family, &[&weights[5].0, "a.safetensors", "b.safetensors"]);
}

#[test]
fn an_index_is_held_against_its_shards() {
    let (family, weights) = sharded();
    // A tensor that its shard does not have, though the other one does.
    write_tensors(&family.base.join("a.safetensors"), &weights[..5]);
    write_tensors(&family.base.join("b.safetensors"), &weights[5..]);
    assert_refused(&family, &["a.safetensors", &weights[5].0, "missing"]);
    let (family, weights) = sharded();
    std::fs::remove_file(family.base.join("b.safetensors")).unwrap();
    assert_refused(&family, &["base", "b.safetensors"]);
    // A tensor that is nowhere.
    let (family, _) = sharded();
    let names = weights.iter().map(|(name, ..)| (name.as_str(), "a.safetensors"));
    write_index(&family, names.chain([("model.extra.weight", "b.safetensors")]));
    assert_refused(&family, &["is missing"]);
    // A shard elsewhere.
    let (family, _) = sharded();
    write_index(&family, [("model.norm.weight", "../b.safetensors")].into_iter());
    assert_refused(&family, &["index.json", "weight_map", "../b.safetensors", "same folder"]);
    // One file and shards: which of them is meant?
    let (family, _) = sharded();
    write_tensors(&family.base.join("model.safetensors"), &weights);
    assert_refused(&family, &["model.safetensors", "model.safetensors.index.json"]);
}

#[test]
fn quantised_weights_are_refused_by_their_type() {
    for (dtype, bytes) in [("U8", 1), ("I8", 1), ("F8_E4M3", 1), ("I32", 4)] {
        let family = RandomFamily::new(&SMALL, 0);
        let header = json!({"model.norm.weight":
            {"dtype": dtype, "shape": [SMALL.hidden], "data_offsets": [0, SMALL.hidden * bytes]}});
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + SMALL.hidden * bytes, 0);
        std::fs::write(family.base.join("model.safetensors"), file).unwrap();
        assert_refused(&family, &["model.safetensors", "model.norm.weight", dtype, "BF16"]);
    }
}

#[test]
fn a_vocabulary_may_be_padded_beyond_the_tokenizer_but_not_cut() {
    let small = RandomFamily::new(&Shape { vocab: 60, ..SMALL }, 0);
    let family = RandomFamily::new(&SMALL, 0);
    std::fs::copy(small.base.join("tokenizer.json"), family.base.join("tokenizer.json")).unwrap();
    BaseModel::open(&family.base).unwrap();
    // A token that was added to the tokenizer counts as well.
    let family = RandomFamily::new(&SMALL, 0);
    let path = family.base.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut added = tokenizer["added_tokens"][0].clone();
    added["id"] = json!(101);
    added["content"] = json!("<|new|>");
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    assert_names(&BaseModel::open(&family.base).unwrap_err().to_string(), &["tokenizer.json", "vocab_size"]);
}

#[test]
fn shards_of_the_same_weights_have_the_fingerprint_of_one_file() {
    let one = RandomFamily::new(&SMALL, 0);
    let (many, _) = sharded();
    let (one, many) = (BaseModel::open(&one.base).unwrap(), BaseModel::open(&many.base).unwrap());
    assert_eq!(one.fingerprint(), many.fingerprint());
    let other = RandomFamily::new(&SMALL, 0);
    let mut weights = random_weights(&SMALL, 1, 1.0);
    weights[0].2[0] += 1e-3;
    write_tensors(&other.base.join("model.safetensors"), &weights);
    assert_ne!(BaseModel::open(&other.base).unwrap().fingerprint(), one.fingerprint());
}

#[test]
fn a_pattern_that_matches_nothing_is_named_with_an_example() {
    assert_names(
        &with_pattern("model.layer.*"),
        &["alpha", "model.layer.*", "model.layers.0.self_attn.q_proj.weight"],
    );
    assert_names(&with_pattern("model.layers.{9..3}.*"), &["alpha", "{9..3}", "backwards"]);
}

#[test]
fn points_and_coefficients_that_do_not_fit_are_refused() {
    let family = RandomFamily::new(&SMALL, 1);
    let base = BaseModel::open(&family.base).unwrap();
    let vector = AlignmentVector::open(&family.vectors[0], &base).unwrap();
    let unknown =
        Engine::load(base.clone(), vec![vector.clone()], &[Coefficient::whole("beta", 1)], WeightType::F32);
    assert_names(&unknown.unwrap_err().to_string(), &["beta", "1"]);
    let mut engine =
        Engine::load(base, vec![vector], &[Coefficient::whole("alpha", 0)], WeightType::F32).unwrap();
    assert_names(&engine.merge(&[0.1, 0.2]).unwrap_err().to_string(), &["2", "wanted 1"]);
    assert_names(&engine.merge(&[f64::NAN]).unwrap_err().to_string(), &["alpha", "NaN"]);
}
