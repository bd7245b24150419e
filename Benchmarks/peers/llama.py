"""The bench model unrolled as a plain Llama, run by llama.cpp through its Python package.

llama.cpp has no layer that is applied again, so the core's weights exist `depth` times in the file: the work of a token is the
same, its weight bytes are more. Weights are random; Q8_0 is its 8-bit format, with one scale for 32 weights.
"""

import ctypes
import os
import tempfile
import time

import gguf
import llama_cpp
import numpy as np

TYPES = {"F32": gguf.GGMLQuantizationType.F32, "BF16": gguf.GGMLQuantizationType.BF16,
         "Q8_0": gguf.GGMLQuantizationType.Q8_0}
PROMPT, NEW = 32, 48  # contexts 32 to 80, as `anira bench decode` has them


def write(path, kind, layers, hidden, intermediate, heads, vocabulary):
    """A GGUF file of random weights without a tokenizer."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name, rows, columns, as_type=TYPES[kind]):
        values = (random.standard_normal((rows, columns)) / columns ** 0.5).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, as_type), raw_dtype=as_type)

    def ones(name):
        writer.add_tensor(name, np.ones(hidden, np.float32))

    matrix("token_embd.weight", vocabulary, hidden, TYPES["F32"])
    for layer in range(layers):
        at = f"blk.{layer}."
        ones(at + "attn_norm.weight")
        ones(at + "ffn_norm.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{at}{name}.weight", hidden, hidden)
        matrix(at + "ffn_gate.weight", intermediate, hidden)
        matrix(at + "ffn_up.weight", intermediate, hidden)
        matrix(at + "ffn_down.weight", hidden, intermediate)
    ones("output_norm.weight")
    matrix("output.weight", vocabulary, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """`batch` sequences in lockstep on `threads` threads."""

    def __init__(self, kind, depth, batch, hidden, intermediate, heads, vocabulary, threads=1):
        self.batch_size, self.vocabulary = batch, vocabulary
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.gguf")
            write(path, kind, depth + 2, hidden, intermediate, heads, vocabulary)
            options = llama_cpp.llama_model_default_params()
            options.use_mmap = False
            self.model = llama_cpp.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            raise RuntimeError("llama.cpp cannot read the model")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = (PROMPT + NEW) * batch
        options.n_batch = options.n_ubatch = max(64, batch)
        options.n_seq_max = batch
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.batch = llama_cpp.llama_batch_init(max(64, batch), 0, 1)

    def step(self, position, tokens):
        """One token of every sequence; returns the next ones."""
        self.batch.n_tokens = self.batch_size
        for i in range(self.batch_size):
            self.batch.token[i] = int(tokens[i])
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = i
            self.batch.logits[i] = 1
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        logits = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (self.batch_size, self.vocabulary)).argmax(-1)

    def tokens_per_second(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        tokens = np.arange(self.batch_size) % self.vocabulary
        for position in range(PROMPT):
            tokens = self.step(position, tokens)
        start = time.perf_counter()
        for position in range(PROMPT, PROMPT + NEW):
            tokens = self.step(position, tokens)
        return NEW * self.batch_size / (time.perf_counter() - start)
