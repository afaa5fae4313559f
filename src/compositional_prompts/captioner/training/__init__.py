"""Fine-tuning BLIP-2 with LoRA."""
