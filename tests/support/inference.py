"""An inference server with vLLM's adapter calls and no model: what publishing needs, in milliseconds."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InferenceStub:
    """Its adapters, as it holds them; `adapters.clear()` is a restart."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cards = [{"id": "base", "root": None, "parent": None}]
                cards += [{"id": n, "root": p, "parent": "base"} for n, p in stub.adapters.items()]
                self._answer(200, {"data": cards})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path.endswith("/load_lora_adapter"):
                    stub.adapters[body["lora_name"]] = body["lora_path"]
                    self._answer(200, {})
                elif self.path.endswith("/unload_lora_adapter"):
                    stub.adapters.pop(body["lora_name"], None)
                    self._answer(200, {})
                else:
                    known = body["model"] in stub.adapters
                    self._answer(200 if known else 404, {"model": body["model"], "choices": [{}]})

            def _answer(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                del args

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def inference_stub() -> Iterator[InferenceStub]:
    stub = InferenceStub()
    threading.Thread(target=stub.server.serve_forever, daemon=True).start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()


def base_model_files(directory: Path) -> Path:
    """What a base model directory must have, with nothing in it that a server could load."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


def adapter_files(directory: Path, weights: bytes = b"adapter") -> Path:
    """A plain LoRA's two files, as PEFT writes them."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "init_lora_weights": True}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    (directory / "adapter_model.safetensors").write_bytes(weights)
    return directory
