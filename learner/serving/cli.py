"""`tracetune serve`: the small inference server alone."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import rich_click as click

from gateway.errors import OperationError

# Spinning OpenMP threads of two torch processes on the same cores starve each other.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory of the base model (safetensors, tokenizer, chat template).",
)
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="0 takes a free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="There are no keys here: let only a gateway reach it.",
)
@click.option("--name", help="The base model's name in requests.  [default: the directory's name]")
@click.option(
    "--adapters",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of adapter folders to load at the start, each under its own name.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads to compute with.  [default: half of the cores]"
)
@click.option(
    "--max-model-len", type=click.IntRange(16), default=4096, show_default=True, help="Tokens of a request."
)
@click.option(
    "--max-rows", type=click.IntRange(1), default=16, show_default=True, help="Requests answered at a time."
)
@click.option(
    "--queue", type=click.IntRange(1), default=256, show_default=True, help="Requests that may wait."
)
@click.option(
    "--kv-tokens",
    type=click.IntRange(16),
    default=32_768,
    show_default=True,
    help="Tokens whose keys and values may be held at a time, by all requests and kept prefixes.",
)
@click.option(
    "--max-adapters", type=click.IntRange(1), default=64, show_default=True, help="Adapters loaded at a time."
)
def serve(
    model: Path,
    port: int,
    host: str,
    name: str | None,
    adapters: Path | None,
    device: str | None,
    threads: int | None,
    max_model_len: int,
    max_rows: int,
    queue: int,
    kv_tokens: int,
    max_adapters: int,
) -> None:
    """Serve a base model and LoRA adapters over the OpenAI API.

    Adapters are loaded while it runs: POST /v1/load_lora_adapter with lora_name and lora_path, as with vLLM.
    """
    if importlib.util.find_spec("torch") is None:
        raise OperationError("serving needs torch; pip install 'tracetune[learner]'")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)  # before torch is imported: OpenMP reads it once
    from learner.serving.engine import EngineLimits
    from learner.serving.server import ServeOptions
    from learner.serving.server import serve as run

    run(
        ServeOptions(
            model=model,
            host=host,
            port=port,
            name=name,
            adapters=adapters,
            device=device,
            threads=threads,
            max_model_len=max_model_len,
            max_adapters=max_adapters,
            limits=EngineLimits(max_rows=max_rows, queue=queue, kv_tokens=kv_tokens),
        )
    )
