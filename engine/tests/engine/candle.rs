//! Against an independent implementation: candle-transformers' Llama, reading the merged weights through candle.

use crate::SMALL;
use crate::common::{RandomFamily, Shape};
use avsweep_engine::{AlignmentVector, BaseModel, Coefficient, Engine, WeightType};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};

#[test]
fn logits_agree_with_candles_llama_on_the_merged_weights() {
    for shape in [SMALL, Shape { tied: true, kv_heads: 1, ..SMALL }] {
        let family = RandomFamily::new(&shape, 2);
        let base = BaseModel::open(&family.base).unwrap();
        let vectors =
            family.vectors.iter().map(|path| AlignmentVector::open(path, &base).unwrap()).collect::<Vec<_>>();
        let coefficients = [Coefficient::whole("alpha", 0), Coefficient::whole("beta", 1)];
        let mut engine = Engine::load(base, vectors, &coefficients, WeightType::F32).unwrap();
        engine.merge(&[0.8, -0.3]).unwrap();

        let text = std::fs::read_to_string(family.base.join("config.json")).unwrap();
        let config = serde_json::from_str::<LlamaConfig>(&text).unwrap().into_config(false);
        let llama = Llama::load(engine.var_builder(DType::F32, &Device::Cpu), &config).unwrap();
        let tokens = [1_u32, 40, 41, 99, 7, 3, 60];
        for (end, ours) in (1..=tokens.len()).zip(engine.logits(&tokens).unwrap()) {
            let mut cache = Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            let input = Tensor::new(&tokens[..end], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let theirs =
                llama.forward(&input, 0, &mut cache).unwrap().squeeze(0).unwrap().to_vec1::<f32>().unwrap();
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert!((ours - theirs).abs() < 1e-4, "{ours} against {theirs}");
            }
        }
    }
}
