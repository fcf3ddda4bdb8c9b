"""The evaluation harness: any model, torch or exported, on identical examples; per-example scores; profiles."""
