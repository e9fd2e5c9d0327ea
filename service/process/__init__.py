"""The processes of a server: one worker, or a supervisor and several workers on one port."""
