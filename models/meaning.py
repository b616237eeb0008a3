"""State dicts that say what their numbers mean, where shapes do not: weights of C4 and D2 fit each other's networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class Meaning(nn.Module):
    """Refuses state dicts of a module of another ``meaning``.

    It travels in the metadata of torch's own state dicts; a plain dict, and safetensors, have none and load.
    """

    @property
    def meaning(self) -> str:
        """What must agree besides the shapes."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):  # not where the caller brings a dict
            destination._metadata[prefix[:-1]]["meaning"] = self.meaning

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = local_metadata.get("meaning", self.meaning)
        if saved != self.meaning:
            error_msgs.append(f"these are weights of {saved}, this is {self.meaning}; dict(state) loads all the same")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
