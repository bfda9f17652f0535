"""Training: one loop for continued pretraining, supervised fine-tuning and preference alignment."""
