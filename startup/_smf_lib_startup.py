"""Has `smf_lib` imported after `peft`, in every program of an environment that it is installed in.

PEFT knows only the methods that it ships, and has no way for a package to say that it brings one.
So that a saved memory loads in programs that never heard of this library (lm-eval's command,
transformers' pipelines), `smf_lib.pth` runs this file when a Python starts. It costs nothing until
something imports `peft`, and imports nothing that `peft` has not imported by then. In the wheel
both files stand beside the package, and `pip uninstall smf_lib` removes them.
"""

import sys


class AfterPeft:
    """A finder that finds `peft` as the others do, and lets its loader do one thing more."""

    def find_spec(self, name, path=None, target=None):
        """Where `peft` is, or None for every other module."""
        if name != "peft":
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._import_after(spec.loader)
        return spec

    def _import_after(self, loader):
        load = loader.exec_module

        def exec_module(module):
            del loader.exec_module
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            load(module)
            try:
                import smf_lib  # noqa: F401
            except Exception as error:  # noqa: BLE001  (PEFT goes on without it)
                import warnings

                warnings.warn(
                    f"smf_lib could not be imported ({type(error).__name__}: {error}), so PEFT "
                    "cannot load sparse memories; install it again, or uninstall it",
                    stacklevel=2,
                )

        loader.exec_module = exec_module


sys.meta_path.insert(0, AfterPeft())
