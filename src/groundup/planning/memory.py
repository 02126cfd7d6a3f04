"""Memory of a training step, by what it holds: formulas over the model's dimensions. No torch here."""

from dataclasses import dataclass

from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig
from groundup.config.types import CheckpointingMode
from groundup.model.memory import FP32, Precision, activation_bytes, loss_bytes, weight_copy_bytes
from groundup.model.size import block_matrices, counted, parameters
from groundup.utils.system import splits_evenly

PROGRAM_BYTES = 340e6  # Python, torch and its threads on a CPU: resident memory of a run of a tiny model
# glibc keeps freed pieces of up to 32 MiB for later, in a heap that fits them badly: measured on CPU runs of 6 and 12
# layers, about half of what the activations need. Larger pieces go back to the system at once.
HEAP_SLACK, HEAP_SLACK_MAX_BYTES = 0.5, 32 * 2**20


@dataclass(frozen=True)
class Machine:
    """Where a run would happen, as far as that is known."""

    device: str  # cpu, cuda or mps
    precision: Precision
    memory: int | None  # bytes of the device, None where unknown
    free_disk: int  # bytes
    processes: int = 1  # that train together, each on a device of its own or, on CPUs, a share of the cores
    threads: int = 1  # CPU threads per process
    device_name: str = ""  # as torch names it, such as cuda:1; default: the device

    @property
    def torch_device(self) -> str:
        """The device as torch names it."""
        return self.device_name or self.device


@dataclass(frozen=True)
class Memory:
    """Bytes on the device at the worst moment, by what they hold."""

    weights: int
    gradients: int
    optimizer: int  # two numbers per weight with AdamW, one with Muon and SGD; and the EMA, if there is one
    activations: int  # of one micro-batch, and copies of the weights in bf16 or fp16
    logits: int  # as many as there are at a time, and the head's gradient
    program: int  # interpreter, libraries, and what the allocator cannot fill again
    accumulates: bool  # several micro-batches per step

    @property
    def total(self) -> int:
        """The sum; but a step of one micro-batch has no gradients yet while all activations are alive."""
        work = self.activations + self.logits
        step = self.gradients + work if self.accumulates else max(self.gradients, work)
        return self.weights + self.optimizer + step + self.program


def padding(model: ModelConfig) -> int:
    """Parameters in embedding rows past the vocabulary: memory and work, but nothing learnt."""
    return (model.padded_vocab - model.vocab) * model.n_embd * (1 if model.tie_embeddings else 2)


def optimizer_bytes(model: ModelConfig, optimizer: OptimizerConfig) -> int:
    """Optimizer state and EMA, in fp32."""
    weights = parameters(model) + padding(model)
    matrices = model.n_layer * block_matrices(model)  # Muon's
    numbers = {"adamw": 2 * weights, "muon": 2 * weights - matrices, "sgd": weights if optimizer.momentum else 0}[
        optimizer.name
    ]
    return FP32 * (numbers + (weights if optimizer.ema_decay else 0))


def sequences_per_process(config: Config, machine: Machine) -> int:
    """Sequences per step that each process trains on."""
    return -(-config.batch_size // machine.processes)


def step_memory(
    config: Config,
    machine: Machine,
    *,
    micro_batch_size: int,
    checkpointing: CheckpointingMode,
    microbatch_threads: int,
    sharded: bool,
) -> Memory:
    """Estimated memory of a training step in one process."""
    model = config.model
    parts = machine.processes if sharded else 1
    tokens = micro_batch_size * model.block_size
    weights = FP32 * (parameters(model) + padding(model))
    accumulates = micro_batch_size < sequences_per_process(config, machine)
    shares = machine.processes == 1 and splits_evenly(micro_batch_size, microbatch_threads)
    threads = microbatch_threads if shares else 1
    activations = activation_bytes(model, machine.precision, machine.device, recompute=checkpointing) * tokens
    program = 0
    if machine.device == "cpu":
        small_pieces = FP32 * model.n_embd * tokens < HEAP_SLACK_MAX_BYTES
        program = round(PROGRAM_BYTES + (HEAP_SLACK * activations if small_pieces else 0))
    return Memory(
        weights=(weights + FP32 * counted(model)) // parts,
        gradients=(weights if accumulates else weights // parts) * threads,  # complete until the last micro-batch
        optimizer=optimizer_bytes(model, config.optimizer) // parts,
        activations=activations + threads * weight_copy_bytes(model, machine.precision),
        logits=threads * loss_bytes(model, machine.precision, -(-tokens // threads), machine.device),
        program=program,
        accumulates=accumulates,
    )
