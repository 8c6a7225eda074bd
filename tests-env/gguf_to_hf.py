"""Writes the model of a GGUF file as a folder that vLLM reads: gguf_to_hf.py FILE.gguf FOLDER."""
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

gguf, folder = sys.argv[1:]
where, name = os.path.split(os.path.abspath(gguf))
tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
# Without `dequantize` the weights stay packed, and packed weights cannot be saved.
model = AutoModelForCausalLM.from_pretrained(
    where, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
)
model.save_pretrained(folder)
tokenizer.save_pretrained(folder)
assert tokenizer.chat_template, "the GGUF has no chat template"
print("wrote", sorted(os.listdir(folder)))
