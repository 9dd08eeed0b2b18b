# SPDX-License-Identifier: Apache-2.0
"""Benchmarks with pictures: `python -m attnd.bench`."""
