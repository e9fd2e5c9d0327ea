"""From a PyTorch image classifier to one ONNX file, and a server for it.

    from convserve.client import Client

``service``, ``training``, ``proto`` and the models here are links to the checkout's own; in a wheel they are files.
"""

from .service import __version__

__all__ = ["__version__"]
