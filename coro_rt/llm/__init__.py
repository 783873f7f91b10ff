"""Language models: files, tokenizers, templates, sampling, and the model's step as a program. Import the
submodules."""
