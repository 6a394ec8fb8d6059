"""What each server's clients say over a WebSocket, one module for each: see ``dialect`` for what a dialect is."""
