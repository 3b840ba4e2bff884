"""The Triton kernels, packaged as `blendin.kernels`: one step's mathematics on NVIDIA GPUs."""

if __name__ == "kernels":
    # Python was started in the repository's root and somebody wants Hugging Face's package of that
    # name. transformers probes for it on import, so an ImportError here would break transformers:
    # step aside for the real package if there is one, else be an empty one without a version.
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    _root = Path(__file__).resolve().parent.parent
    _elsewhere = [entry for entry in sys.path if Path(entry).resolve() != _root]
    if (_spec := PathFinder.find_spec(__name__, _elsewhere)) and _spec.loader:
        sys.modules[__name__] = _module = module_from_spec(_spec)
        _spec.loader.exec_module(_module)
    else:
        __path__ = []
