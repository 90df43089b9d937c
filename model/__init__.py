"""Image tokenizers and priors in torch: training, sampling, evaluation."""
