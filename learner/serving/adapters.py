"""The adapters a server has loaded, by name."""

from __future__ import annotations

import threading
from pathlib import Path

from learner.errors import ServingError
from learner.serving.lora import ADAPTER_CONFIG, Adapter
from learner.serving.model import ServedModel


class AdapterSet:
    """Loaded adapters, thread-safe. A name is bound once: unload it before serving others under it."""

    def __init__(self, model: ServedModel, base_name: str, *, limit: int) -> None:
        self._model = model
        self._base_name = base_name
        self._limit = limit
        self._lock = threading.Lock()
        self._adapters: dict[str, Adapter] = {}

    def get(self, name: str) -> Adapter | None:
        return self._adapters.get(name)

    def paths(self) -> dict[str, str]:
        """Name -> path of every loaded adapter, in the order of loading."""
        return {name: str(adapter.path) for name, adapter in list(self._adapters.items())}

    def load(self, name: str, path: Path) -> None:
        """Read the adapter in *path* and serve it as *name*.

        Raises ServingError when the name is taken, the bound is reached, or *path* holds no servable adapter.
        """
        with self._lock:
            if name == self._base_name or name in self._adapters:
                raise ServingError(f"The lora adapter '{name}' has already been loaded.")
            if not name or len(self._adapters) >= self._limit:
                raise ServingError(
                    f"{self._limit} adapters are loaded; unload one, or raise --max-adapters"
                    if name
                    else "lora_name must not be empty"
                )
            self._adapters[name] = self._model.read_adapter(name, path)

    def load_folder(self, folder: Path) -> None:
        """Load each adapter folder in *folder* by its name. Raises ServingError at the first that fails."""
        for path in sorted(folder.iterdir()):
            if (path / ADAPTER_CONFIG).is_file():
                self.load(path.name, path)

    def unload(self, name: str) -> None:
        """Forget *name*; answers in flight finish with it. Raises ServingError when it is not loaded."""
        with self._lock:
            if self._adapters.pop(name, None) is None:
                raise ServingError(f"The lora adapter '{name}' cannot be found.")
