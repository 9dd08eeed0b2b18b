# SPDX-License-Identifier: Apache-2.0
"""`python -m attnd.demo`: a language model whose attention is all served by a daemon."""
