# SPDX-License-Identifier: Apache-2.0
"""`transformers serve`, an OpenAI-compatible server, with every attention call served by attnd."""
