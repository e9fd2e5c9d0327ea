"""HTTP in front of the methods that gRPC serves: requests are translated, and enter by the same door.

uvicorn and Starlette, the extra ``rest``, run in one thread of the serving process.
"""
