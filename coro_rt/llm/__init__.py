"""Language models: files, tokenizers, templates, sampling, and the model's step. Import the submodules."""
