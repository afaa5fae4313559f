"""BLIP-2: loading, frozen-feature cache, LoRA fine-tuning, caption generation, pretraining."""
