"""What only the loaded parts of a bundle can tell: that they belong together."""

from heads.bundle import MANIFEST, REBUILD, Bundle, BundleError
from runtime import prompt
from runtime.encoder import PromptEncoder
from runtime.errors import ModelError
from runtime.llama_backend import LlamaModel


def check_format(bundle: Bundle) -> None:
    """Raise BundleError if the bundle was trained on another prompt format than we write."""
    found = bundle.manifest.prompt_format
    if found != prompt.FORMAT:
        expected = f"prompt format {prompt.FORMAT}"
        raise BundleError(bundle.folder / MANIFEST, expected, f"format {found}", REBUILD)


def open_encoder(bundle: Bundle, model: LlamaModel) -> PromptEncoder:
    """The encoder for a bundle's model. Raises BundleError if manifest and model disagree."""
    manifest = bundle.manifest
    if model.n_embd != manifest.n_embd:
        expected, found = f"n_embd {manifest.n_embd}", str(model.n_embd)
        raise BundleError(bundle.model, expected, found, REBUILD)
    try:
        return PromptEncoder(model, manifest.special_tokens)
    except ModelError as error:
        raise BundleError(
            bundle.model, "the special tokens of the manifest", str(error), REBUILD
        ) from error
