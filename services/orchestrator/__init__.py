"""The orchestrator: checks requests, chooses chains, drives encoder, LLM and decoder, streams the reply. No torch."""
