# SPDX-License-Identifier: Apache-2.0
"""Makes every model that `transformers serve` loads one whose attention is attnd's."""

from __future__ import annotations

from typing import Any

from transformers.cli.serving.model_manager import ModelManager

from attnd.client import Client
from attnd.transformers import enable


def serve_models_with(client: Client, *, reuse_prefix: bool = True) -> None:
    """From now on, each model that this process's server loads attends in `client`'s daemon.

    `transformers serve` checks --attn-implementation against a fixed list, so that a registered
    name cannot be given there: models are taken over right after they were loaded.

    Args:
        client: connected; used for as long as the server runs.
        reuse_prefix: share the full pages of prompts with other requests and other servers.
    """
    load = ModelManager._load_model

    def load_for_attnd(self: ModelManager, *args: Any, **kwargs: Any) -> Any:
        model = load(self, *args, **kwargs)
        return enable(model, client, reuse_prefix=reuse_prefix)

    ModelManager._load_model = load_for_attnd
