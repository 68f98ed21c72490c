"""A decoder says what the forward pass says, in memory that is allocated once."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from statemix import Decoder, LanguageModel, MixerConfig, ModelConfig
from statemix.models.fused_step import FusedStep
from statemix.models.sampling import Sampler
from tests.nn.adapters import adapt, merge

NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def model_of(**settings) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 23,
        "d_model": 16,
        "num_layers": 2,
        "mixer": MixerConfig(block_size=3, num_blocks=5),
    }
    model = LanguageModel(ModelConfig(**(sizes | settings))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def hlru(**options) -> MixerConfig:
    return MixerConfig(name="hlru", block_size=3, num_blocks=5, **options)


KINDS = [
    ("buffered", {}),
    ("buffered", {"mlp": "gelu", "tie_embeddings": True}),
    ("buffered", {"mlp": "none", "mixer": MixerConfig(block_size=1, num_blocks=9, initial_state="learned")}),
    ("buffered", {"mixer": MixerConfig(block_size=2, normalization="tanh", selective=False)}),
    ("buffered", {"mixer": hlru()}),
    ("buffered", {"mixer": hlru(readout="latest", normalization="sigmoid", initial_state="learned")}),
    ("buffered", {"mixer": hlru(selective=False)}),
    ("buffered", {"pattern": ("bdlru", "hlru")}),
    ("moved", {"pattern": ("bdlru", "lstm")}),
    ("growing", {"pattern": ("bdlru", "attention")}),
]


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_steps_say_what_the_forward_pass_says(kind, settings, batch):
    model = model_of(**settings)
    tokens = torch.randint(23, (batch, 30))
    decoder = Decoder(model, batch)
    assert decoder.kind == kind
    for _ in range(2):  # a second text starts where the first did
        found = [decoder.prefill(tokens[:, :9], piece=4)]
        found += [decoder.step(tokens[:, t]).clone() for t in range(9, 30)]
        torch.testing.assert_close(torch.stack(found, 1), model(tokens)[:, 8:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "settings"), [KINDS[0], KINDS[4], *KINDS[-2:]], ids=str)
@torch.no_grad()
def test_a_decoder_follows_its_model_and_not_the_defaults_of_the_day(kind, settings):
    model, tokens = model_of(**settings), torch.randint(23, (2, 9))
    wanted = model(tokens)[:, 4:]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            decoder = Decoder(model, 2)
            found = [decoder.prefill(tokens[:, :5])]
            found += [decoder.step(tokens[:, t]).clone() for t in range(5, 9)]
    finally:
        torch.set_default_dtype(before)
    assert decoder.kind == kind
    torch.testing.assert_close(torch.stack(found, 1), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "settings"), [KINDS[0], *KINDS[-2:]], ids=str)
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
@torch.no_grad()
def test_a_copy_of_a_decoder_goes_its_own_way(kind, settings, make):
    model = model_of(**settings)
    tokens = torch.randint(23, (2, 9))
    other = torch.cat([tokens[:, :5], tokens[:, 5:].flip(1)], 1)
    decoder = Decoder(model, 2)
    decoder.prefill(tokens[:, :5])
    twin = make(decoder)
    assert twin.kind == kind and twin.model is model
    for t in range(5, 9):
        torch.testing.assert_close(decoder.step(tokens[:, t]), model(tokens)[:, t], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(twin.step(other[:, t]), model(other)[:, t], atol=1e-5, rtol=1e-4)
    with pytest.raises(RuntimeError, match="no state yet"):
        make(Decoder(model, 2)).step(tokens[:, 0])


@pytest.mark.parametrize(
    "mixer", [MixerConfig(block_size=3, selective=False), hlru(selective=False)], ids=str
)
@torch.no_grad()
def test_gates_that_do_not_depend_on_the_input_are_read_where_they_are(mixer):
    model = model_of(mixer=mixer)
    decoder = Decoder(model, 1)
    for block in model.blocks:
        block.mixer.gate_logits.normal_()
    tokens = torch.randint(23, (1, 6))
    decoder.prefill(tokens[:, :5])
    torch.testing.assert_close(decoder.step(tokens[:, 5]), model(tokens)[:, 5], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pattern", [("bdlru", "hlru"), ("lstm", "attention")])
@torch.no_grad()
def test_a_model_with_adapters_decodes_as_with_merged_weights(pattern):
    model = model_of(pattern=pattern)
    adapt(model)
    merged = copy.deepcopy(model)
    merge(merged)
    tokens = torch.randint(23, (2, 12))
    decoder = Decoder(model, 2)
    found = [decoder.prefill(tokens[:, :4])] + [decoder.step(tokens[:, t]).clone() for t in range(4, 12)]
    torch.testing.assert_close(torch.stack(found, 1), merged(tokens)[:, 3:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padded_prompts_are_read_in_pieces():
    model, decoder = model_of(pattern=("bdlru", "hlru")), None
    rows = [torch.randint(23, (n,)) for n in (11, 4, 1)]
    prompt, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        prompt[row, 11 - len(tokens) :], mask[row, 11 - len(tokens) :] = tokens, True
    decoder = Decoder(model, 3)
    logits = decoder.prefill(prompt, mask, piece=3)
    wanted = torch.stack([model(tokens[None])[0, -1] for tokens in rows])
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-4)
    together = decoder.generate(prompt, 12, Sampler(temperature=0), mask=mask)[:, 11:]
    for row, tokens in enumerate(rows):
        alone = Decoder(model, 1).generate(tokens[None], 12, Sampler(temperature=0))
        assert together[row].tolist() == alone[0, len(tokens) :].tolist()
    assert model.generate(prompt, 12, mask=mask, temperature=0)[:, 11:].tolist() == together.tolist()


class NewTensors(TorchDispatchMode):
    """Bytes of outputs that lie in no memory that was there before."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.bytes = known, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, torch.Tensor):
                pointer = tensor.untyped_storage().data_ptr()
                if pointer not in self.known:
                    self.known.add(pointer)
                    self.bytes += tensor.untyped_storage().nbytes()
        return output


@pytest.mark.parametrize("mixer", [MixerConfig(block_size=3, num_blocks=5), hlru()], ids=["bdlru", "hlru"])
@torch.no_grad()
def test_a_step_on_a_cpu_allocates_nothing(mixer):
    model = model_of(mixer=mixer)
    decoder = Decoder(model, 2)
    tokens = decoder.prefill(torch.randint(23, (2, 5))).argmax(-1)
    with NewTensors(set()) as first:
        decoder.step(tokens)
    with NewTensors(first.known) as second:
        decoder.step(tokens)
    assert second.bytes == 0
    with NewTensors(set(first.known)) as plain:
        model.step(tokens, decoder.states)
    assert plain.bytes > 1000  # what is counted does see a step that allocates


@torch.no_grad()
def test_the_memory_profiler_finds_no_allocation_either():
    decoder = Decoder(model_of(), 1)
    tokens = decoder.prefill(torch.randint(23, (1, 5))).argmax(-1)
    decoder.step(tokens)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        for _ in range(3):
            decoder.step(tokens)
    assert not [event for event in profile.events() or () if event.cpu_memory_usage > 0]


@torch.no_grad()
def test_the_state_is_the_same_size_behind_any_text_and_weights_are_read_where_they_are():
    model = model_of()
    decoder = Decoder(model, 2)
    tokens = torch.randint(23, (2, 400))
    sizes = set()
    for length in (1, 20, 399):
        decoder.prefill(tokens[:, :length])
        sizes.add(decoder.state_bytes)
    assert sizes == {4 * 2 * 2 * 3 * 5}
    model.embedding.weight.mul_(0.5)
    model.blocks[0].mixer.gate.bias.add_(1.0)
    decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens[:, :9])[:, -1], atol=1e-5, rtol=1e-4)


def replace_a_parameter(model: LanguageModel) -> None:
    model.blocks[0].mixer.gate.weight = nn.Parameter(torch.randn(60, 16))


def replace_what_a_parameter_holds(model: LanguageModel) -> None:
    model.norm.weight.data = torch.randn(16)


def replace_a_part(model: LanguageModel) -> None:
    model.blocks[1].mlp.down = nn.Linear(model.blocks[1].mlp.down.in_features, 16, bias=False)


REPLACEMENTS = [replace_a_parameter, replace_what_a_parameter_holds, replace_a_part]


@pytest.mark.parametrize("change", [*REPLACEMENTS, adapt], ids=lambda change: change.__name__)
@torch.no_grad()
def test_parts_put_in_place_of_others_count(change):
    model = model_of()
    tokens = torch.randint(23, (2, 9))
    decoder = Decoder(model, 2)
    decoder.prefill(tokens[:, :4])
    _, states = model(tokens[:, :4], return_states=True)
    change(model)
    for t in range(4, 6):  # within a text as well, which goes on from the state that it had
        wanted, states = model.step(tokens[:, t], states)
        torch.testing.assert_close(decoder.step(tokens[:, t]), wanted, atol=1e-5, rtol=1e-4)
    assert decoder.kind == ("moved" if change is adapt else "buffered")
    decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_hook_counts_from_the_next_prompt_on():
    model = model_of()
    decoder, tokens = Decoder(model, 2), torch.randint(23, (2, 9))
    model.blocks[0].mixer.value.register_forward_hook(lambda module, args, output: 2 * output)
    decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "settings"), [KINDS[0], *KINDS[-2:]], ids=str)
@torch.no_grad()
def test_what_was_made_in_inference_mode_goes_on_outside_of_it(kind, settings):
    model, tokens = model_of(**settings), torch.randint(23, (2, 9))
    with torch.inference_mode():
        decoder = Decoder(model, 2)
        decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pattern", [("bdlru",), ("bdlru", "lstm")])
@torch.no_grad()
def test_a_model_of_another_dtype_is_followed(pattern):
    model = model_of(pattern=pattern)
    decoder, tokens = Decoder(model, 2), torch.randint(23, (2, 9))
    decoder.prefill(tokens[:, :8])
    model.double()
    twin = copy.deepcopy(decoder)
    wanted = model(tokens)[:, 8]
    for one in (decoder, twin):
        assert one.step(tokens[:, 8]).dtype == torch.float64
    torch.testing.assert_close(twin.step(tokens[:, 0]), decoder.step(tokens[:, 0]), atol=0, rtol=0)
    decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), wanted)


@pytest.mark.parametrize(
    "pattern", [("bdlru",), ("hlru",), ("bdlru", "lstm"), ("bdlru", "attention")], ids=str
)
@torch.no_grad()
def test_states_of_a_model_in_another_dtype_are_refused_with_both_dtypes(pattern):
    model, tokens = model_of(pattern=pattern), torch.randint(23, (2, 9))
    decoder = Decoder(model, 2)
    decoder.prefill(tokens[:, :8])
    wide = copy.deepcopy(model).double()
    message = r"states must be torch.float32 for this model; got torch.float64: .* prefill\(\)"
    with pytest.raises(TypeError, match=message):
        decoder.load(wide(tokens[:, :4], return_states=True)[1])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=1e-5, rtol=1e-4)
    with pytest.raises(TypeError, match=r"must be torch.float64 for this model; got torch.float32"):
        Decoder(wide, 2).load(model(tokens[:, :4], return_states=True)[1])


@pytest.mark.parametrize("pattern", [("bdlru",), ("bdlru", "lstm"), ("bdlru", "attention")], ids=str)
@torch.no_grad()
def test_states_read_in_a_narrow_dtype_are_gone_on_from_in_another(pattern):
    model, tokens = model_of(pattern=pattern), torch.randint(23, (2, 9))
    decoder = Decoder(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=0.1, rtol=0.1)
    decoder.load(copy.deepcopy(model).bfloat16()(tokens[:, :8], return_states=True)[1])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=0.1, rtol=0.1)


@torch.no_grad()
def test_states_that_are_refused_after_a_change_of_the_model_leave_those_that_were_there():
    model, tokens = model_of(), torch.randint(23, (3, 9))
    decoder = Decoder(model, 2)
    decoder.prefill(tokens[:2, :4])
    _, states = model(tokens[:2, :4], return_states=True)
    replace_a_parameter(model)
    with pytest.raises(ValueError, match="of another model or batch size"):
        decoder.load(model(tokens, return_states=True)[1])
    wanted, _ = model.step(tokens[:2, 4], states)
    torch.testing.assert_close(decoder.step(tokens[:2, 4]), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_model_of_other_sizes_by_now_asks_for_another_prompt():
    model, tokens = model_of(), torch.randint(23, (2, 9))
    decoder = Decoder(model, 2)
    decoder.prefill(tokens[:, :8])
    model.blocks[0] = model_of(mixer=MixerConfig(block_size=2, num_blocks=5)).blocks[0]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="none that fits the model as it is by now"):
            decoder.step(tokens[:, 8])
    decoder.prefill(tokens[:, :8])
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, 8], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_states_of_a_model_are_gone_on_from():
    model = model_of(pattern=("bdlru", "lstm"))
    tokens = torch.randint(23, (2, 9))
    _, states = model(tokens[:, :8], return_states=True)
    decoder = Decoder(model, 2)
    decoder.load(states)
    torch.testing.assert_close(decoder.step(tokens[:, 8]), model(tokens)[:, -1], atol=1e-5, rtol=1e-4)


def test_one_sampler_serves_text_after_text_and_batches_of_other_sizes():
    model = model_of()
    prompts = torch.randint(23, (3, 7))
    stops = tuple(model.generate(prompts[:2], 1, temperature=0)[:, -1].tolist())
    sampler = Sampler(temperature=0, stop_tokens=stops)
    for prompt in (prompts[:2], prompts, prompts[2:]):
        found = Decoder(model, len(prompt)).generate(prompt, 6, sampler)
        assert torch.equal(found, model.generate(prompt, 6, temperature=0, stop_tokens=stops))


@pytest.mark.parametrize("name", ["bdlru", "hlru"])
@torch.no_grad()
def test_a_compiler_sees_a_step_as_plain_operations(name):
    options = {"readout": "latest"} if name == "hlru" else {}
    model = model_of(
        mixer=MixerConfig(name=name, block_size=3, num_blocks=5, initial_state="learned", **options)
    )
    tokens, seen = torch.randint(23, (2, 6)), []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    step = torch.compile(model.step, fullgraph=True, backend=backend)
    _, states = model(tokens[:, :5], return_states=True)
    logits, after = step(tokens[:, 5], states)
    wanted, wanted_after = model.step(tokens[:, 5], states)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-4)
    for got, want in zip(after, wanted_after, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert not any("scan" in name for name in seen)
    first, _ = step(tokens[:, 0])
    torch.testing.assert_close(first, model(tokens[:, :1])[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@NEEDS_A_GPU
@pytest.mark.parametrize("name", ["bdlru", "hlru", "lstm", "attention"])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_a_graph_on_a_gpu_says_what_the_forward_pass_says(name, batch, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # three digits, in its LSTM
    model = model_of(mixer=MixerConfig(name=name, block_size=3)).cuda()
    tokens = torch.randint(23, (batch, 30), device="cuda")
    decoder = Decoder(model, batch)
    kinds = {"attention": "growing", "lstm": "graph"}
    assert decoder.kind == kinds.get(name, "streamed" if batch == 1 else "fused")
    unfused = [] if name in kinds else [Decoder(model, batch, fused=False)]
    assert all(other.kind == "graph" for other in unfused)
    for some in (decoder, decoder, *unfused):
        found = [some.prefill(tokens[:, :9])]
        found += [some.step(tokens[:, t]).clone() for t in range(9, 30)]
        torch.testing.assert_close(torch.stack(found, 1), model(tokens)[:, 8:], atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@NEEDS_A_GPU
@pytest.mark.parametrize("name", ["bdlru", "hlru"])
@pytest.mark.parametrize("batch", [1, 5, 17])
@torch.no_grad()
def test_bfloat16_on_a_gpu_is_the_forward_pass_to_rounding(name, batch):
    mixer = MixerConfig(name=name, block_size=4, num_blocks=50)
    model = model_of(mixer=mixer, d_model=200).cuda()
    for parameter in model.parameters():
        parameter.mul_(0.2)
    tokens = torch.randint(23, (batch, 60), device="cuda")
    model = model.to(torch.bfloat16)
    wanted = copy.deepcopy(model).double().cpu()(tokens.cpu())[:, 8:].cuda()
    decoder = Decoder(model, batch, fused=True)
    assert decoder.kind == ("streamed" if batch < 17 else "fused")
    found = [decoder.prefill(tokens[:, :9])]
    found += [decoder.step(tokens[:, t]).clone() for t in range(9, 60)]
    forward = model(tokens)[:, 8:]
    error = [(x.double() - wanted).norm() / wanted.norm() for x in (torch.stack(found, 1), forward)]
    assert error[0] < 2 * error[1] + 1e-3


@pytest.mark.gpu
@NEEDS_A_GPU
@pytest.mark.parametrize("name", ["bdlru", "hlru"])
@pytest.mark.parametrize("batch", [1, 5])
@torch.no_grad()
def test_kernels_that_start_early_give_the_bits_of_those_that_wait(name, batch):
    model = model_of(mixer=MixerConfig(name=name, block_size=4, num_blocks=50), d_model=200, num_layers=6)
    model = model.to(device="cuda", dtype=torch.bfloat16)
    tokens = torch.randint(23, (batch, 300), device="cuda")
    _, start = model(tokens[:, :9], return_states=True)
    found = []
    for early in (False, True):
        states = tuple(state.clone() for state in start)
        step = FusedStep(model, states, early=early)
        found.append([step(tokens[:, t]) for t in range(9, 300)] + list(states))
    assert all(torch.equal(late, early) for late, early in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: Decoder(model_of(), 0), ValueError, "batch_size must be an integer of at least 1; got 0"),
        (lambda: Decoder(model_of().train(), 1), ValueError, "in training mode"),
        (lambda: Decoder(nn.Linear(2, 2), 1), TypeError, "must be a LanguageModel; got Linear: .*from_huggingface"),
        (lambda: begun(2).load(("a", "b")), TypeError, "states must be tensors, or tuples of them; got str"),
        (lambda: Decoder(model_of(), 1, fused=True), ValueError, "fused=True needs BD-LRU or H-LRU layers"),
        (lambda: Decoder(model_of(), 1).step(torch.zeros(1)), RuntimeError, r"call prefill\(prompt\)"),
        (
            lambda: Decoder(model_of(), 2).prefill(torch.zeros(3, 4, dtype=torch.long)),
            ValueError,
            "the batch size 2 of the decoder",
        ),
        (lambda: begun(2).step(torch.zeros(3, dtype=torch.long)), ValueError, r"tokens must be \(B,\) = \(2,\); got \(3,\)"),
        (lambda: begun(2).step(torch.zeros(2)), TypeError, "tokens must be integers; got torch.float32"),
        (lambda: begun(2).step([1, 2]), TypeError, r"Decoder: tokens must be a torch.Tensor \(B,\) .* got list"),
        (lambda: begun(1).prefill([[1]]), TypeError, "generate: prompt must be a torch.Tensor .* got list"),
        (
            lambda: begun(1).generate(torch.zeros(1, 2, dtype=torch.long), -1),
            ValueError,
            "max_new_tokens must be an integer of at least 0; got -1",
        ),
        (lambda: Decoder(model_of(), 1.5), ValueError, "batch_size must be an integer of at least 1; got 1.5"),
        (lambda: begun(2).load(begun(3).states), ValueError, "of another model or batch size"),
        (lambda: begun(2).load(5), ValueError, "states must be a tuple, one for each layer: 2; got int"),
        (lambda: begun(2).load(begun(2).states[:1]), ValueError, "one for each layer: 2; got 1"),
        (
            lambda: begun(1).prefill(torch.zeros(1, 0, dtype=torch.long)),
            ValueError,
            r"prompt must be \(B, T\) with T >= 1",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_named(use, error, message):
    with pytest.raises(error, match=message):
        use()


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=str)
@torch.no_grad()
def test_states_that_do_not_fit_are_refused_and_those_that_were_there_stay(kind, settings):
    model = model_of(**settings)
    tokens = torch.randint(23, (3, 9))
    decoder = Decoder(model, 2)
    decoder.prefill(tokens[:2])
    wider = model_of(**settings | {"d_model": 32, "mixer": MixerConfig(block_size=7)})
    for other, rows in ((model, 3), (wider, 2)):
        with pytest.raises(ValueError, match="of another model or batch size"):
            decoder.load(other(tokens[:rows], return_states=True)[1])
    step = torch.tensor([4, 5])
    wanted = model(torch.cat([tokens[:2], step[:, None]], 1))[:, -1]
    torch.testing.assert_close(decoder.step(step), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pattern", [("bdlru",), ("bdlru", "lstm"), ("bdlru", "attention")])
def test_a_model_that_was_put_in_training_mode_is_decoded_no_further(pattern):
    mixer = MixerConfig(block_size=3, num_blocks=5, gate_noise=1.0)
    decoder = Decoder(model_of(pattern=pattern, mixer=mixer), 1)
    prompt = torch.tensor([[1, 2, 3]])
    decoder.prefill(prompt)
    states = decoder.states
    decoder.model.train()
    for use in (
        lambda: decoder.step(torch.tensor([4])),
        lambda: decoder.prefill(prompt),
        lambda: decoder.load(states),
    ):
        with pytest.raises(ValueError, match=r"in training mode; call model\.eval\(\) first"):
            use()
    decoder.model.eval()
    wanted = decoder.model(torch.tensor([[1, 2, 3, 4]]))[:, -1]
    torch.testing.assert_close(decoder.step(torch.tensor([4])), wanted, atol=1e-5, rtol=0)


def begun(batch: int) -> Decoder:
    decoder = Decoder(model_of(), batch)
    decoder.prefill(torch.zeros(batch, 3, dtype=torch.long))
    return decoder


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_A_GPU])])
@pytest.mark.parametrize("name", ["bdlru", "hlru"])
@torch.no_grad()
def test_500_greedy_tokens_are_those_of_the_full_forward_pass_padding_included(name, device):
    model = model_of(mixer=MixerConfig(name=name, block_size=3, num_blocks=5)).to(device)
    prompt = torch.tensor([[0, 0, 0, 0, 5], [9, 8, 7, 3, 1]], device=device)
    mask = torch.tensor([[False] * 4 + [True], [True] * 5], device=device)
    made = Decoder(model, 2).generate(prompt, 500, Sampler(temperature=0), mask=mask)
    assert model.generate(prompt, 500, mask=mask, temperature=0).tolist() == made.tolist()
    for tokens, real in zip(made, mask, strict=True):
        tokens = torch.cat([tokens[:5][real], tokens[5:]])
        likeliest = model(tokens[None])[0].argmax(-1)
        assert tokens[-500:].tolist() == likeliest[-501:-1].tolist()


@pytest.mark.parametrize("mixer", ["bdlru", "attention"])
def test_a_decoder_says_that_it_cannot_be_pickled_and_what_can(mixer):
    config = ModelConfig(
        vocab_size=11,
        d_model=16,
        mixer=MixerConfig(name=mixer, num_heads=2 if mixer == "attention" else None),
    )
    decoder = Decoder(LanguageModel(config).eval(), 1)
    decoder.prefill(torch.tensor([[1, 2]]))
    with pytest.raises(
        TypeError, match=r"Decoder: .* cannot be pickled .*decoder\.states, and make a Decoder there"
    ):
        pickle.dumps(decoder)
    model, states = pickle.loads(pickle.dumps((decoder.model, decoder.states)))
    there = Decoder(model, 1)
    there.load(states)
    token = torch.tensor([3])
    torch.testing.assert_close(there.step(token), decoder.step(token))


@pytest.mark.parametrize("mixer", ["bdlru", "gru"])
@pytest.mark.parametrize("token", [-1, 11, 2**40])
def test_a_token_that_the_model_does_not_have_is_named_and_moves_nothing(mixer, token):
    model = LanguageModel(ModelConfig(vocab_size=11, d_model=16, mixer=MixerConfig(name=mixer))).eval()
    decoder = Decoder(model, 2)
    decoder.prefill(torch.tensor([[1, 2], [3, 4]]))
    twin = copy.deepcopy(decoder)
    with pytest.raises(
        ValueError, match=f"tokens must be from 0 to 10, the model's vocabulary; got {token}:"
    ):
        decoder.step(torch.tensor([0, token]))
    assert torch.equal(decoder.step(torch.tensor([5, 6])), twin.step(torch.tensor([5, 6])))
