//! Which engine can run which model, and what to say where none can.

use super::error::ModelError;
use super::local::{LocalModel, Weights};

/// The engines a model may be meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// llama.cpp in this process: GGUF.
    Embedded,
    /// A vLLM beside it: safetensors.
    Vllm,
    /// No weights at all.
    Mock,
}

impl EngineKind {
    /// The word of `--engine`.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Embedded => "embedded",
            EngineKind::Vllm => "vllm",
            EngineKind::Mock => "mock",
        }
    }
}

/// Architectures that the vendored llama.cpp generates text with, by `general.architecture`. Encoders, vision towers
/// and speech models are left out: they load, but have nothing to say.
///
/// Source: `LLM_ARCH_NAMES` in llama.cpp's `src/llama-arch.cpp`, as of llama-cpp-sys-2 0.1.161.
const LLAMA_CPP_ARCHITECTURES: &str = "llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact \
    bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe phi2 phi3 \
    phimoe plamo plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 \
    starcoder2 mamba mamba2 jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo olmo2 olmoe openelm arctic \
    deepseek deepseek2 deepseek32 chatglm glm4 glm4moe glm-dsa bitnet jais jais2 nemotron nemotron_h nemotron_h_moe \
    exaone exaone4 exaone-moe rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid chameleon plm bailingmoe \
    bailingmoe2 dots1 arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v4 smollm3 \
    gpt-oss lfm2 lfm2moe smallthinker seed_oss grovemoe apertus minimax-m2 cogvlm pangu-embedded mistral3 mistral4 \
    mimo2 step35 spark2_5 maincoder kimi-linear talkie mellum nanbeige";

/// Says whether `engine` can run `model`.
///
/// # Errors
/// [`ModelError::NoFit`] with why not and what would.
pub fn fits(model: &LocalModel, engine: EngineKind) -> Result<(), ModelError> {
    let no = |why: String, remedy: &str| {
        Err(ModelError::NoFit {
            model: model.served_name.clone(),
            engine: engine.name(),
            why,
            remedy: remedy.to_owned(),
        })
    };
    match (engine, model.weights) {
        (EngineKind::Mock, _) | (EngineKind::Vllm, Weights::Safetensors) => Ok(()),
        (EngineKind::Embedded, Weights::Gguf) => {
            if LLAMA_CPP_ARCHITECTURES.split_whitespace().any(|known| known == model.architecture) {
                return Ok(());
            }
            no(
                format!("llama.cpp makes no text with the architecture `{}`", model.architecture),
                "give a GGUF of a text model (as llama, qwen3, gemma3), or run this one on vLLM with a GPU",
            )
        }
        (EngineKind::Embedded, Weights::Safetensors) => no(
            "it reads GGUF, and this is a folder of safetensors".into(),
            "give FILE.gguf (many models have a repository whose name ends in -GGUF), or install vLLM on a machine \
             with a GPU and use `--engine vllm`",
        ),
        (EngineKind::Vllm, Weights::Gguf) => no(
            "it reads a folder in Hugging Face's layout here, and this is a GGUF file".into(),
            "give a FOLDER with config.json and safetensors, or use `--engine embedded`",
        ),
        (EngineKind::Embedded | EngineKind::Vllm, Weights::Absent) => no(
            "the folder has no weights".into(),
            "put a GGUF or safetensors into the folder, or use `--engine mock`, which needs none",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(weights: Weights, architecture: &str) -> LocalModel {
        LocalModel {
            served_name: "m".into(),
            gguf: None,
            hf_folder: "/m".into(),
            weights,
            architecture: architecture.into(),
            context_length: 8,
            quantization: None,
            size: 0,
            has_chat_template: true,
        }
    }

    #[test]
    fn a_model_that_fits_no_engine_says_why_and_what_would() {
        use EngineKind::{Embedded, Mock, Vllm};
        use Weights::{Absent, Gguf, Safetensors};
        //  engine, weights, architecture        why it does not fit, or nothing
        for (engine, weights, architecture, why) in [
            (Embedded, Gguf, "llama", ""),
            (Embedded, Gguf, "bert", "`bert`"),
            (Embedded, Gguf, "", "``"),
            (Embedded, Safetensors, "llama", "safetensors"),
            (Embedded, Absent, "llama", "no weights"),
            (Vllm, Safetensors, "anything", ""),
            (Vllm, Gguf, "llama", "GGUF"),
            (Mock, Absent, "anything", ""),
        ] {
            match fits(&model(weights, architecture), engine) {
                Ok(()) => assert_eq!(why, "", "{engine:?} {weights:?}"),
                Err(error) => {
                    assert!(!why.is_empty() && error.to_string().contains(why), "{error}");
                    assert!(!error.remedy().is_empty());
                }
            }
        }
    }
}
