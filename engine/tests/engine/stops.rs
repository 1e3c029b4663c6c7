//! Stop strings of the decoding settings, against whole answers that are cut afterwards.

use crate::generation::cut;
use crate::goldens::{expected_in, folder, messages};
use avsweep_engine::{
    BaseModel, Device, DeviceChoice, Engine, FinishReason, Generation, PromptItem, Sampling, WeightType,
};

fn answers(engine: &Engine, prompts: &[PromptItem], settings: &Sampling) -> Vec<Generation> {
    let answers = engine.generate(&engine.prepare_prompts(prompts), settings).unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// Characters `start..start + length` of a text; nothing where it is shorter, or holds bytes that are no characters.
fn piece(text: &str, start: usize, length: usize) -> Option<String> {
    let piece: String = text.chars().skip(start).take(length).collect();
    (piece.chars().count() == length && !piece.contains('\u{fffd}')).then_some(piece)
}

/// Sampled answers of random weights are full of pieces of words, and of bytes that make characters or do not.
#[track_caller]
fn stops_cut_whole_answers(name: &str, choice: DeviceChoice) {
    let folder = folder(name);
    let base = BaseModel::open(&folder).unwrap();
    let turns = expected_in(&folder).queries;
    let prompts: Vec<PromptItem> = (0..12)
        .map(|seed| PromptItem { messages: messages(&turns[seed % turns.len()].messages), seed: seed as u64 })
        .collect();
    let device = Device::open(choice).unwrap();
    let engine = Engine::load_on(&device, None, base, Vec::new(), &[], WeightType::F32).unwrap();
    let settings = Sampling { temperature: 1.2, top_p: 0.95, ..Sampling::greedy(24) };
    let whole = answers(&engine, &prompts, &settings);
    let mut stopped = 0;
    for (round, length) in [1, 2, 3, 5, 9].into_iter().enumerate() {
        let pick = |answer: usize, start: usize| piece(&whole[answer].text, start, length);
        let stop: Vec<String> =
            [pick(round, 3), pick(round + 3, 5), pick(round + 6, 8)].into_iter().flatten().collect();
        let settings = Sampling { stop: stop.clone(), ..settings.clone() };
        for (whole, found) in whole.iter().zip(answers(&engine, &prompts, &settings)) {
            match cut(&whole.text, &stop) {
                None => assert_eq!(&found, whole),
                Some(end) => {
                    assert_eq!(found.text, whole.text[..end], "{stop:?}");
                    assert!(found.tokens <= whole.tokens);
                    // The last token of all may complete it as well.
                    assert!(found.finish == FinishReason::Stop || found.tokens == whole.tokens);
                    stopped += 1;
                }
            }
        }
    }
    assert!(stopped > 5, "only {stopped} answers were cut");
}

#[test]
fn an_answer_with_stop_strings_is_the_whole_one_cut() {
    for name in ["untied", "families/mistral", "families/gemma3"] {
        stops_cut_whole_answers(name, DeviceChoice::Cpu);
    }
}

#[test]
fn an_answer_with_stop_strings_is_the_whole_one_cut_on_a_device() {
    for name in ["untied", "families/phi3"] {
        stops_cut_whole_answers(name, DeviceChoice::Candle);
    }
}

#[test]
fn an_answer_with_stop_strings_is_the_whole_one_cut_the_slow_way() {
    stops_cut_whole_answers("others/phi", DeviceChoice::Cpu);
}
