"""The models, by component kind. They import nothing beyond torch, einops and safetensors."""
